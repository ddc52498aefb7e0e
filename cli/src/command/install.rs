//! `weft install`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use weft_install::{Layer, Manifest, Values};

use super::{Ends as _, Exit};

/// Flags of `weft install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft install | kubectl apply -f -
  weft install --set controlPlane.replicas=3 --set images.proxy=registry.example/weft/proxy:0.1.0
  weft install -f values.yaml --set 'controlPlane.networks=[10.0.0.0/8]'

Gateway API's definitions are never among it. `weft check --pre` tells whether the cluster has what Weft needs.")]
pub(crate) struct Options {
    #[command(flatten)]
    values: ValueArgs,
    /// Print what can be set with its default, and no objects.
    #[arg(long)]
    show_values: bool,
}

/// What is set, by whoever installs or upgrades.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ValueArgs {
    /// Set a value; the last one wins. KEY has dots, VALUE is YAML.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// A file of values, or - for standard input; --set comes after all files.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
}

impl ValueArgs {
    /// Whether nothing is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.files.is_empty()
    }

    /// Reads them over what was set before, and tells what is set now.
    pub(crate) fn read(&self, before: Option<Layer>) -> anyhow::Result<(Values, Value)> {
        let mut layers = Vec::from_iter(before);
        for file in &self.files {
            let text = read_text(file).ends(Exit::Usage)?;
            let layer = Layer::file(&text).with_context(|| format!("--values {}", file.display()));
            layers.push(layer.ends(Exit::Usage)?);
        }
        for text in &self.set {
            layers.push(Layer::set(text).context("--set").ends(Exit::Usage)?);
        }
        Values::read(layers).context("the values").ends(Exit::Usage)
    }
}

/// The text of a file; `-` is standard input.
pub(crate) fn read_text(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    Ok(text)
}

/// Prints the objects.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let text = if options.show_values {
        weft_install::chart::values()
    } else {
        let (values, set) = options.values.read(None)?;
        text_of(&weft_install::installed(&values, &set))
    };
    std::io::stdout().write_all(text.as_bytes()).context("printing")?;
    Ok(Exit::Done)
}

/// Objects as a stream of documents.
pub(crate) fn text_of(manifests: &[Manifest]) -> String {
    weft_install::documents(manifests.iter().map(|Manifest { comment, object }| (comment.as_str(), object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_before_sets_and_errors_name_where() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("values.yaml");
        std::fs::write(&file, "controlPlane: {replicas: 3, log: debug}\n").unwrap();
        let args = |set: &str| ValueArgs { set: vec![set.to_owned()], files: vec![file.clone()] };
        let (values, _) = args("controlPlane.replicas=4").read(None).unwrap();
        assert_eq!((values.control_plane.replicas, values.control_plane.log.as_str()), (4, "debug"));
        let error = args("controlPlane.replica=4").read(None).unwrap_err();
        assert!(format!("{error:#}").starts_with("the values: controlPlane.replica: unknown field"), "{error:#}");
        let missing = ValueArgs { set: Vec::new(), files: vec!["nowhere.yaml".into()] };
        assert!(format!("{:#}", missing.read(None).unwrap_err()).contains("nowhere.yaml"));
    }
}
