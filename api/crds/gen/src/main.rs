//! Writes the definition of each of Weft's kinds into `deploy/crds`, with a Kustomization of them all, or with `--check` tells whether what is checked in is current.

use std::collections::BTreeMap;
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
    let wanted = files()?;
    for (name, text) in &wanted {
        let file = directory.join(name);
        if !check {
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        } else if fs::read_to_string(&file).ok().as_ref() != Some(text) {
            bail!("{} is not current: cargo xtask gen", file.display());
        }
    }
    for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
        let name = entry?.file_name();
        if name.to_str().is_none_or(|name| !wanted.contains_key(name)) {
            bail!("{} is none of ours", directory.join(name).display());
        }
    }
    Ok(())
}

/// A file for each kind, and one that names them all.
fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for definition in weft_crds::definitions() {
        // By way of JSON values, whose maps are sorted: the same definition is the same text.
        let value = serde_json::to_value(&definition).context("a definition as JSON")?;
        let text = serde_saphyr::to_string(&value).context("a definition as YAML")?;
        files.insert(format!("{}.yaml", definition.spec.names.plural), format!("{HEAD}{text}"));
    }
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let all = format!(
        "{HEAD}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- {}\n",
        names.join("\n- ")
    );
    files.insert("kustomization.yaml".to_owned(), all);
    Ok(files)
}
