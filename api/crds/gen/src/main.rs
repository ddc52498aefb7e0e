//! Writes the definition of each of Weft's kinds into `deploy/crds`, or with `--check` tells whether what is checked in is current.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

/// What stands above each definition.
const HEAD: &str = "# Made by `cargo xtask gen` from api/crds: change it there.\n";

fn main() -> anyhow::Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("expected nothing or --check, not {other:?}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("the crate lies in api/crds/gen")?;
    let directory = root.join("deploy/crds");
    let mut names = Vec::new();
    for definition in weft_crds::definitions() {
        // By way of JSON values, whose maps are sorted: the same definition is the same text.
        let value = serde_json::to_value(&definition).context("a definition as JSON")?;
        let text = format!("{HEAD}{}", serde_saphyr::to_string(&value).context("a definition as YAML")?);
        let name = format!("{}.yaml", definition.spec.names.plural);
        let file = directory.join(&name);
        if check {
            if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                bail!("{} is not current: cargo xtask gen", file.display());
            }
        } else {
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        names.push(name);
    }
    for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
        let name = entry?.file_name();
        if !names.iter().any(|known| **known == *name) {
            bail!("{} defines no kind of ours", directory.join(name).display());
        }
    }
    Ok(())
}
