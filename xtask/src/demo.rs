//! `cargo demo`: builds what the demo starts, then becomes `weft demo`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::workspace::{Workspace, check};

/// The packages whose programs the demo starts.
const PACKAGES: [&str; 4] = ["shop", "weft-cli", "weft-control-plane", "weft-proxy"];

/// Builds the mesh and hands this process over to `weft demo`.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let workspace = Workspace::open()?;
    eprintln!("building the mesh (the first time some minutes, then seconds)");
    build(&workspace)?;
    let program = workspace.programs().join("weft");
    // Replaced rather than waited for: Ctrl-C then reaches one process, which cleans up before the prompt returns.
    let error = Command::new(&program).arg("demo").args(args).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

/// Builds what the demo starts.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--profile", "demo", "--bins"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    check(&mut cargo)
}
