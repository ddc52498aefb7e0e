//! Debian's Prometheus with the configuration of `deploy/prometheus`, inside of the cluster's network.
//!
//! Debian leaves discovery in Kubernetes out of it: `weft-monitoring` does that part, by Prometheus' own code, with the rights that
//! `deploy/prometheus` grants.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use weft_tests_kubernetes::{eventually, kubectl};

/// Where its configuration is.
pub(crate) fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../deploy/prometheus"].iter().collect()
}

/// One that runs. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Prometheus {
    port: u16,
    directory: PathBuf,
    children: Vec<Child>,
}

impl Prometheus {
    /// Starts it, and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
        if own.exists() {
            fs::remove_dir_all(&own).with_context(|| format!("removing {}", own.display()))?;
        }
        fs::create_dir_all(&own)?;
        // Nobody else opens ports in the cluster's network.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut this = Self { port, directory: own.clone(), children: Vec::new() };
        let kubeconfig = own.join("kubeconfig");
        fs::write(&kubeconfig, access()?)?;
        let mut discovery = Command::new("weft-monitoring");
        discovery.arg("discover").arg(directory().join("prometheus.yml")).arg(kubeconfig).arg(&own);
        this.run("discovery", &mut discovery)?;
        let config = own.join("prometheus.yml");
        eventually("a configuration", || fs::metadata(&config).context(this.log("discovery")))?;
        let mut prometheus = Command::new("prometheus");
        prometheus.arg(format!("--config.file={}", config.display()));
        prometheus.arg(format!("--storage.tsdb.path={}", own.join("data").display()));
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        this.run("prometheus", &mut prometheus)?;
        eventually("Prometheus is ready", || this.fetch("/-/ready", &[]).context(this.log("prometheus")))?;
        Ok(this)
    }

    fn run(&mut self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        let log = File::create(self.directory.join(format!("{name}.log")))?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        self.children.push(child.with_context(|| format!("starting {name}: is it on the PATH?"))?);
        Ok(())
    }

    /// What `discovery` or `prometheus` has said.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The samples of an expression now: labels and value.
    pub(crate) fn query(&self, expression: &str) -> anyhow::Result<Vec<(Value, f64)>> {
        let data = self.ask("/api/v1/query", &[("query", expression)])?;
        let samples = data["result"].as_array().context("no result")?;
        samples
            .iter()
            .map(|sample| {
                let value = sample["value"][1].as_str().and_then(|text| text.parse().ok()).context("no value")?;
                Ok((sample["metric"].clone(), value))
            })
            .collect()
    }

    /// The values of a label among the series that a selector selects.
    pub(crate) fn label_values(&self, label: &str, selector: &str) -> anyhow::Result<BTreeSet<String>> {
        let data = self.ask(&format!("/api/v1/label/{label}/values"), &[("match[]", selector)])?;
        let values = data.as_array().context("no list")?;
        Ok(values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
    }

    /// Every metric that there is.
    pub(crate) fn metrics(&self) -> anyhow::Result<BTreeSet<String>> {
        self.label_values("__name__", "{job=~\".+\"}")
    }

    /// The alerts that it loaded, as its API tells of them.
    pub(crate) fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let data = self.ask("/api/v1/rules", &[])?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let answer: Value = serde_json::from_str(&self.fetch(path, parameters)?)?;
        ensure!(answer["status"] == "success", "{path} {parameters:?}: {}", answer["error"]);
        Ok(answer["data"].clone())
    }

    fn fetch(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--get"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("http://127.0.0.1:{}{path}", self.port)).output().context("starting curl")?;
        if !output.status.success() {
            bail!("{path}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already needs no end.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A kubeconfig of the service account that `deploy/prometheus` makes.
fn access() -> anyhow::Result<String> {
    let token = kubectl(&["--namespace", "weft-monitoring", "create", "token", "weft-prometheus"])?;
    let text = kubectl(&["config", "view", "--raw", "--minify", "--output", "json"])?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    Ok(config.to_string())
}
