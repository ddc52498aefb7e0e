//! Generated code: the wires, and the definitions of our kinds. The generators are other crates, so that xtask itself stays quick
//! to build.

use anyhow::{Context as _, bail};

use crate::workspace;

const GENERATORS: [&str; 3] = ["weft-crds-gen", "weft-install", "weft-proto-gen"];

/// Writes the generated code, or with `check` fails where what is checked in is not current.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    for package in GENERATORS {
        let mut generator = workspace::cargo(&workspace::root()?);
        generator.args(["run", "--quiet", "--package", package, "--"]);
        if check {
            generator.arg("--check");
        }
        let status = generator.status().with_context(|| format!("starting cargo for {package}"))?;
        if !status.success() {
            bail!("{package}: {status}");
        }
    }
    Ok(())
}
