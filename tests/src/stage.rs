//! What most scenarios begin with: a mesh, a client, a server, and a Service that leads to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ring::digest::{SHA256, digest};
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{Mesh, Settings, on_the_path, programs, service, service_ip};
use weft_cli::world::{Host, Launch};

use crate::Scene;

/// The namespace of everybody.
pub const NAMESPACE: &str = "test";

/// The number of the server's Service.
pub const SERVER: u8 = 20;

/// Ports of the server's Service, as declared: HTTP, HTTP/2, bytes, and one of which nothing is said.
pub const PORTS: &str = "[{name: http, port: 80, targetPort: 8080}, {name: h2c, port: 81, targetPort: 8081}, \
                         {name: tcp, port: 6379}, {name: any, port: 7000}]";

/// What one command may take.
pub const COMMAND: Duration = Duration::from_secs(30);

/// A mesh without workloads.
///
/// # Errors
/// It does not start.
pub fn mesh(scene: &Scene) -> anyhow::Result<Mesh<'_>> {
    mesh_with(scene, Settings::new(scene.family))
}

/// A mesh without workloads, with settings of its own.
///
/// # Errors
/// It does not start.
pub fn mesh_with(scene: &Scene, settings: Settings) -> anyhow::Result<Mesh<'_>> {
    let directory = std::env::var_os("WEFT_PROGRAMS").map(PathBuf::from);
    Mesh::start(&scene.world, &programs(directory.as_deref())?, settings)
}

/// A mesh with `client` and `server`, ready.
///
/// # Errors
/// It does not start.
pub fn pair(scene: &Scene) -> anyhow::Result<Mesh<'_>> {
    pair_in(mesh(scene)?)
}

/// The same, in a mesh that was started.
///
/// # Errors
/// A proxy does not start.
pub fn pair_in(mut mesh: Mesh<'_>) -> anyhow::Result<Mesh<'_>> {
    mesh.write("server.yaml", &service(NAMESPACE, "server", SERVER, PORTS))?;
    for name in ["client", "server"] {
        mesh.join(Member::new(NAMESPACE, name, name))?;
    }
    mesh.ready()?;
    Ok(mesh)
}

/// Where the server's Service is.
pub fn server(scene: &Scene, port: u16) -> SocketAddr {
    SocketAddr::new(service_ip(SERVER, scene.family), port)
}

/// Prepares curl in a host: quiet, with a deadline, nothing of the user's configuration.
pub fn curl(host: &Host) -> Launch<'_> {
    host.launch("curl", "curl").args(["--disable", "--silent", "--show-error", "--globoff", "--max-time", "20"])
}

/// Where a server of the system lies: Debian keeps PostgreSQL's programs beside its library, where one version does not hide
/// another, and those of other servers in the directory for administrators.
///
/// # Errors
/// It is not installed.
pub fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|version| version.path())
        .filter(|version| version.join("bin").join(program).is_file())
        .max_by_key(|version| number(version));
    let beside = newest.map(|version| version.join("bin").join(program));
    let found = beside.or_else(|| on_the_path(program)).unwrap_or_else(|| Path::new("/usr/sbin").join(program));
    ensure!(found.is_file(), "{program} is not installed: `cargo xtask test --only packages` sees to that");
    Ok(found)
}

/// Writes a file into the world's directory.
///
/// # Errors
/// The disk refused.
pub fn file(scene: &Scene, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
    let path = scene.world.directory().join(name);
    std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// A hash, for bytes that are too many to be shown.
pub fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
