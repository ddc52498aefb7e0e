//! Builds programs and learns where they lie.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::workspace::{Workspace, check, describe};

/// Builds every program of the workspace, as the demo runs them.
pub(super) fn build(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    executables(&mut workspace.cargo_build_programs())
}

/// Builds the whole-system tests.
pub(super) fn tests(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    executables(workspace.cargo().args(["test", "--profile", "demo", "--package", "weft-tests", "--tests", "--no-run"]))
}

/// What holds the tests that run on a cluster.
pub(super) const CLUSTER_PACKAGE: &str = "weft-tests-kubernetes";

/// These tests, by their names for cargo.
pub(super) const CLUSTER_TESTS: [&str; 9] =
    ["cluster", "cni", "golden", "install", "operations", "outage", "rights", "rollout", "rotation"];

/// Builds one of them.
pub(super) fn cluster_test(workspace: &Workspace, name: &str) -> anyhow::Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--profile", "demo", "--package", CLUSTER_PACKAGE, "--test", name, "--no-run"]);
    executables(&mut cargo)?.pop().context("no test was built")
}

/// Builds the peers that are not ours and no package holds: a gRPC client and server on grpc-go.
pub(super) fn counterparts(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let (name, files) = ("weft-grpc-interop", ["go.mod", "go.sum", "main.go"]);
    Ok(vec![by_go(workspace, name, "tests/counterparts/grpc-interop", &files, ".")?])
}

/// Builds Helm, from its own module.
pub(super) fn helm(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let files = ["go.mod", "go.sum"];
    by_go(workspace, "weft-helm", "tests/counterparts/helm", &files, "helm.sh/helm/v3/cmd/helm")
}

/// Builds a program of Go, in a directory of the checkout whose `files` say from what.
///
/// Go looks at every file again and fetches what its cache lacks, so it is only asked where something has changed: once built,
/// the tests need neither it nor a network.
fn by_go(workspace: &Workspace, name: &str, source: &str, files: &[&str], package: &str) -> anyhow::Result<PathBuf> {
    let (source, directory) = (workspace.root.join(source), workspace.programs());
    let (program, stamp) = (directory.join(name), directory.join(format!("{name}.from")));
    let mut from = String::new();
    for name in files {
        let file = source.join(name);
        from += &fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    }
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == from) {
        return Ok(program);
    }
    println!("building {} with Go (the first time some minutes)", program.display());
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let mut go = Command::new("go");
    // No C: the program runs wherever it is put. No newer Go than the one here is fetched.
    go.current_dir(&source).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOWORK", "off");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(&program).arg(package);
    check(&mut go)?;
    fs::write(&stamp, from).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(program)
}

/// Runs cargo and returns the executables it says it made, or found fresh.
pub(super) fn executables(cargo: &mut Command) -> anyhow::Result<Vec<PathBuf>> {
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let name = describe(cargo);
    let output = cargo.output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let found: Vec<PathBuf> = text.lines().filter_map(executable).map(PathBuf::from).collect();
    if found.is_empty() {
        bail!("{name}: made no executable");
    }
    Ok(found)
}

/// The executable that one of cargo's JSON messages names; this one field is not worth a JSON parser.
fn executable(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let mut path = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(path),
            '\\' => path.push(chars.next()?),
            other => path.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_in_cargos_message() {
        let cases = [
            (r#"{"reason":"compiler-artifact","executable":"/a/b","fresh":true}"#, Some("/a/b")),
            (r#"{"reason":"compiler-artifact","executable":"/a \"q\"/b","fresh":true}"#, Some("/a \"q\"/b")),
            (r#"{"reason":"compiler-artifact","executable":null,"fresh":true}"#, None),
            (r#"{"reason":"build-finished","success":true}"#, None),
            (r#"{"executable":"/cut"#, None),
        ];
        for (message, want) in cases {
            assert_eq!(executable(message).as_deref(), want, "{message}");
        }
    }
}
