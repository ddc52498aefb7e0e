//! `cargo xtask cluster`: a real Kubernetes of one node in namespaces of its own, built from Go modules and Debian's packages by
//! the scripts in `tests/kubernetes`. Its addresses exist nowhere else, so that commands run inside of its network.
//!
//! Where `KUBECONFIG` names another cluster, that one is used and nothing is started. Where `KUBEBUILDER_ASSETS` names a directory with
//! an API server, the scripts take that one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::workspace::{self, Workspace, check};
use crate::{conformance, images, packages};

const HELP: &str = "\
Usage: cargo xtask cluster <command>

Commands:
  up              builds what is not built yet (the first time ten minutes of one core) and starts a cluster
  load            makes Weft's images and puts them into it
  down            ends it with everything in it
  conformance     Gateway API's suite for meshes, against Weft in the cluster (after load; half a minute); its report goes to
                  deploy/conformance
  bench scale     how much the control plane takes, and how fast it is, in a cluster of 200 Services of 1,000 endpoints that change
                  (after load; five minutes; bench scale --help)
  bench start     how much longer a pod takes to start with a proxy (after load; two minutes; bench start --help)
  run COMMAND...  a command inside of the cluster's network, with an administrator's KUBECONFIG: run kubectl get pods -A

KUBECONFIG           names another cluster: that one is used, and none is built or started
KUBEBUILDER_ASSETS   names a directory with etcd, kube-apiserver and kubectl: up takes those in place of its own
";

/// Where a cluster's files lie.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The scripts.
    scripts: PathBuf,
    /// What was built.
    files: PathBuf,
    /// What runs.
    run: PathBuf,
    /// Where `weft` is, which installs.
    weft: PathBuf,
}

/// Does what was asked for on the command line.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    match words {
        ["up"] => {
            let workspace = Workspace::open()?;
            Cluster::of(&workspace.root, workspace.cache()).up()?;
            println!("try: cargo xtask cluster run kubectl get pods --all-namespaces");
        }
        ["load"] => {
            let workspace = Workspace::open()?;
            Cluster::of(&workspace.root, workspace.cache()).load(&workspace)?;
        }
        ["conformance"] => {
            let root = workspace::root()?;
            let directory = root.join("deploy/conformance");
            let report = conformance::run(&here()?, &root, &directory)?;
            println!("{}", report.display());
        }
        ["down"] => here()?.down()?,
        ["bench", args @ ..] => {
            let rig = Workspace::open()?.programs().join("weft-bench");
            check(here()?.command(&rig.to_string_lossy())?.arg("kubernetes").args(args))?;
        }
        ["run", command, args @ ..] => {
            let status =
                here()?.command(command)?.args(args).status().with_context(|| format!("starting {command}"))?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        ["help" | "--help" | "-h"] => print!("{HELP}"),
        _ => bail!("one of up, load, conformance, bench, down, run COMMAND is expected\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Without the build output: another `cargo xtask` may be at work there.
fn here() -> anyhow::Result<Cluster> {
    let root = workspace::root()?;
    Ok(Cluster::of(&root, &workspace::cache(&root)))
}

impl Cluster {
    /// The cluster that people start and end; its files lie outside of the checkout.
    pub(crate) fn of(root: &Path, cache: &Path) -> Self {
        Self::named(root, cache, "run")
    }

    /// One for tests alone, beside which the other may run.
    pub(crate) fn for_tests(root: &Path, cache: &Path) -> Self {
        Self::named(root, cache, "test")
    }

    fn named(root: &Path, cache: &Path, name: &str) -> Self {
        let files = cache.join("kubernetes");
        Self { scripts: root.join("tests/kubernetes"), run: files.join(name), files, weft: cache.join("target/demo") }
    }

    /// Builds what is not built yet, and starts a cluster.
    #[expect(clippy::disallowed_methods, reason = "the time it takes is real time")]
    pub(crate) fn up(&self) -> anyhow::Result<()> {
        if let Some(file) = other() {
            println!("KUBECONFIG names a cluster ({}): that one is used", Path::new(&file).display());
            return Ok(());
        }
        if !packages::is_root()? {
            bail!("a node's containers, mounts and cgroups need root: sudo -E cargo xtask cluster up");
        }
        packages::install(packages::CLUSTER)?;
        check(&mut self.script("build.sh"))?;
        let begun = Instant::now();
        check(&mut self.script("up.sh"))?;
        println!("the cluster is ready after {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Makes Weft's images, as quick to build as the demo's programs, and puts them into the cluster that runs. `weft` is built beside
    /// them, for whoever installs.
    pub(crate) fn load(&self, workspace: &Workspace) -> anyhow::Result<()> {
        check(&mut workspace.cargo_build_programs())?;
        self.put(&images::make(workspace, "demo")?)
    }

    /// Puts images into the cluster that runs.
    pub(crate) fn put(&self, images: &[PathBuf]) -> anyhow::Result<()> {
        check(self.script("load.sh").args(images))
    }

    /// The image that the tests of conformance talk to, as `conformance.sh` makes it.
    pub(crate) fn echo_image(&self) -> PathBuf {
        self.files.join("conformance/echo-advanced.tar")
    }

    /// Prints what Weft's own pods said, for whoever reads a failure and has no cluster to look into any more.
    pub(crate) fn tell_logs(&self) {
        let mut parts = vec![("weft-system", "weft-control-plane"), ("weft-system", "weft-injector")];
        if self.has_plugin() {
            parts.push(("weft-cni", "weft-cni"));
        }
        for (namespace, name) in parts {
            let selector = format!("app={name}");
            let args = ["--namespace", namespace, "logs", "--prefix", "--tail", "100", "--selector", &selector];
            let told = self.command("kubectl").and_then(|mut kubectl| check(kubectl.args(args)));
            if let Err(error) = told {
                eprintln!("no logs of {name}: {error:#}");
            }
        }
    }

    /// Whether the CNI plugin is installed; not where nobody can say.
    fn has_plugin(&self) -> bool {
        let args =
            ["--namespace", "weft-cni", "get", "daemonset", "weft-cni", "--ignore-not-found", "--output", "name"];
        let found = self.command("kubectl").and_then(|mut kubectl| Ok(kubectl.args(args).output()?));
        found.is_ok_and(|found| found.status.success() && !found.stdout.is_empty())
    }

    /// Ends it. Nothing happens where none runs.
    pub(crate) fn down(&self) -> anyhow::Result<()> {
        if other().is_some() {
            return Ok(());
        }
        check(&mut self.script("down.sh"))
    }

    /// Whether a cluster that somebody else runs is used.
    pub(crate) fn is_anothers() -> bool {
        other().is_some()
    }

    /// A program inside of the cluster's network, as its administrator.
    ///
    /// # Errors
    /// No cluster runs.
    pub(crate) fn command(&self, program: &str) -> anyhow::Result<Command> {
        if other().is_some() {
            let mut command = Command::new(program);
            command.env("PATH", self.path(&[])?);
            return Ok(command);
        }
        let file = self.run.join("pid");
        let pid = fs::read_to_string(&file).context("no cluster runs: cargo xtask cluster up")?;
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", pid.trim(), "--", program]);
        command
            .env("KUBECONFIG", self.files.join("pki/admin.conf"))
            .env("PATH", self.path(&[self.files.join("programs")])?);
        command.env("WEFT_NODE_CNI", self.run.join("cni"));
        command.env("WEFT_AUDIT_LOG", self.run.join("log/audit.log"));
        Ok(command)
    }

    /// One of the scripts, told where everything lies.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.scripts.join(name));
        command.env("WEFT_KUBERNETES", &self.files).env("WEFT_CLUSTER", &self.run);
        command
    }

    /// The cluster's own programs come first, and this checkout's: whoever says `kubectl` or `weft` means the one that fits.
    fn path(&self, first: &[PathBuf]) -> anyhow::Result<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = first.iter().cloned().chain([self.weft.clone()]).chain(std::env::split_paths(&path));
        std::env::join_paths(directories).context("a directory of PATH has a colon in its name")
    }
}

/// A cluster that somebody else runs.
fn other() -> Option<OsString> {
    std::env::var_os("KUBECONFIG").filter(|file| !file.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_refused() {
        for words in [["start"].as_slice(), &[], &["run"], &["up", "now"]] {
            assert!(run(words).is_err(), "{words:?}");
        }
    }
}
