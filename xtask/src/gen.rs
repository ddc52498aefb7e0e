//! Generated code: the wires, and the definitions of our kinds. The generators are other crates, so that xtask itself stays quick
//! to build.

use anyhow::{Context as _, bail};

use crate::workspace;

/// Writes what the wires are made into; it knows what of them was released, too.
const WIRES: &str = "weft-proto-gen";

const GENERATORS: [&str; 3] = ["weft-crds-gen", "weft-install", WIRES];

/// Writes the generated code, or with `check` fails where what is checked in is not current.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    GENERATORS.into_iter().try_for_each(|package| generate(package, check.then_some("--check")))
}

/// Remembers the present wire as that of the version in `Cargo.toml`.
pub(crate) fn release() -> anyhow::Result<()> {
    generate(WIRES, Some("--release"))
}

fn generate(package: &str, flag: Option<&str>) -> anyhow::Result<()> {
    let mut generator = workspace::cargo(&workspace::root()?);
    generator.args(["run", "--quiet", "--package", package, "--"]).args(flag);
    let status = generator.status().with_context(|| format!("starting cargo for {package}"))?;
    if !status.success() {
        bail!("{package}: {status}");
    }
    Ok(())
}
