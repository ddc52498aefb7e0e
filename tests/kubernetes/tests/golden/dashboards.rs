//! Dashboards, read as Grafana reads them: what each panel asks, with the variables of the dashboard put in.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// What `$__rate_interval` stands for: a few times the interval at which the test's Prometheus asks.
const RATE_INTERVAL: &str = "10s";

/// One dashboard.
#[derive(Debug)]
pub(crate) struct Dashboard {
    pub(crate) file: PathBuf,
    json: Value,
}

/// A panel, and the row that it stands in.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) row: &'a str,
    pub(crate) title: &'a str,
    pub(crate) json: &'a Value,
}

/// A variable that is asked of Prometheus: the values of a label.
#[derive(Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) selector: &'a str,
    pub(crate) label: &'a str,
    /// Whether several values may be chosen, as all are at first.
    pub(crate) multi: bool,
    /// What stands for all of them, where it is not each by its name.
    pub(crate) all: Option<&'a str>,
}

/// Where the dashboards are.
pub(crate) fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../deploy/grafana/dashboards"].iter().collect()
}

/// All of them.
pub(crate) fn read() -> anyhow::Result<Vec<Dashboard>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory())? {
        files.push(entry?.path());
    }
    files.sort();
    ensure!(files.len() >= 2, "a dashboard is missing: {files:?}");
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file)?;
            let json = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
            Ok(Dashboard { file, json })
        })
        .collect()
}

impl Dashboard {
    /// Its panels, without the rows.
    pub(crate) fn panels(&self) -> anyhow::Result<Vec<Panel<'_>>> {
        let (mut row, mut panels) = ("", Vec::new());
        for json in self.json["panels"].as_array().context("no panels")? {
            let title = json["title"].as_str().context("a panel without a title")?;
            if json["type"] == "row" {
                row = title;
            } else {
                panels.push(Panel { row, title, json });
            }
        }
        Ok(panels)
    }

    /// Its variables but for the data source, in order: a later one may use those before it.
    pub(crate) fn variables(&self) -> anyhow::Result<Vec<Variable<'_>>> {
        let all = self.json["templating"]["list"].as_array().context("no variables")?;
        let asked = all.iter().filter(|variable| variable["type"] == "query");
        asked
            .map(|variable| {
                let query = variable["query"]["query"].as_str().unwrap_or_default();
                let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
                let (selector, label) = inner
                    .and_then(|inner| inner.rsplit_once(", "))
                    .with_context(|| format!("expected label_values(SELECTOR, LABEL), found {query:?}"))?;
                let name = variable["name"].as_str().context("a variable without a name")?;
                let all = variable["allValue"].as_str();
                Ok(Variable { name, selector, label, multi: variable["multi"] == true, all })
            })
            .collect()
    }
}

impl Panel<'_> {
    /// What it asks.
    pub(crate) fn expressions(&self) -> anyhow::Result<Vec<&str>> {
        let targets = self.json["targets"].as_array().context("no targets")?;
        targets.iter().map(|target| target["expr"].as_str().context("a target without an expression")).collect()
    }
}

/// Puts values in the place of variables.
pub(crate) fn substitute(text: &str, values: &BTreeMap<&str, String>) -> anyhow::Result<String> {
    let mut text = text.replace("$__rate_interval", RATE_INTERVAL);
    for (name, value) in values {
        text = text.replace(&format!("${name}"), value);
    }
    ensure!(!text.contains('$'), "a variable that does not exist in {text}");
    Ok(text)
}
