//! Builds programs and learns from cargo where they lie.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::workspace::{Workspace, describe};

/// Builds every program of the workspace, as the demo runs them.
pub(super) fn build(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    executables(workspace.cargo().args(["build", "--profile", "demo", "--workspace", "--exclude", "xtask", "--bins"]))
}

/// Builds the whole-system tests.
pub(super) fn tests(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    executables(workspace.cargo().args(["test", "--profile", "demo", "--package", "weft-tests", "--tests", "--no-run"]))
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
