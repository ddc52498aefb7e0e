//! Writes `deploy/base`, `deploy/cni` and `deploy/helm/weft`, or with `--check` tells whether what is checked in is current.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// What stands above each file of the base.
const HEAD: &str = "# Made by `cargo xtask gen` from cli/install: change it there.\n";

/// Written by hand.
const BY_HAND: [&str; 2] = ["deploy/base/kustomization.yaml", "deploy/cni/kustomization.yaml"];

fn main() -> anyhow::Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("expected nothing or --check, not {other:?}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the crate lies in cli/install")?;
    let base =
        weft_install::base().into_iter().map(|(name, text)| (format!("deploy/base/{name}"), HEAD.to_owned() + &text));
    let chart = weft_install::chart::files().into_iter().map(|(name, text)| (format!("deploy/helm/weft/{name}"), text));
    let component = ("deploy/cni/cni.yaml".to_owned(), HEAD.to_owned() + &weft_install::cni_component());
    let mut wanted: BTreeSet<PathBuf> = BY_HAND.iter().map(|name| root.join(name)).collect();
    for (name, text) in base.chain([component]).chain(chart) {
        let file = root.join(name);
        if !check {
            let parent = file.parent().context("every file lies in a directory")?;
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        } else if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            bail!("{} is not current: cargo xtask gen", file.display());
        }
        wanted.insert(file);
    }
    for directory in ["deploy/base", "deploy/cni", "deploy/helm/weft", "deploy/helm/weft/templates"] {
        let directory = root.join(directory);
        for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
            let path = entry?.path();
            if path.is_file() && !wanted.contains(&path) {
                bail!("{} is none of ours", path.display());
            }
        }
    }
    Ok(())
}
