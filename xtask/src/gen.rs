//! Generated code: the wires. The generator is another crate, so that xtask itself stays quick to build.

use anyhow::{Context as _, bail};

use crate::workspace;

/// Writes the generated code, or with `check` fails where what is checked in is not current.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let mut generator = workspace::cargo(&workspace::root()?);
    generator.args(["run", "--quiet", "--package", "weft-proto-gen", "--"]);
    if check {
        generator.arg("--check");
    }
    let status = generator.status().context("starting cargo for weft-proto-gen")?;
    if !status.success() {
        bail!("weft-proto-gen: {status}");
    }
    Ok(())
}
