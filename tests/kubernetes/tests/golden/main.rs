//! Golden metrics: what `deploy/prometheus` scrapes, alerts on and `deploy/grafana` shows, of the shop that runs in the cluster, and by
//! which the shop is scaled.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

mod dashboards;
mod gitops;
mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, ensure};
use dashboards::{Dashboard, substitute};
use prometheus::Prometheus;
use weft_tests_kubernetes::{Namespace, eventually, get, kubectl};

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/kubernetes");

/// What promtool is to find of every alert.
const ALERTS_TESTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/alerts.yaml");

/// A server of opaque TCP, and somebody who is not let in by the shop's policies and talks to it.
const BESIDE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: queue}
spec: {selector: {app: queue}, ports: [{name: tcp-queue, port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: queue, labels: {app: queue}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: \"weft.test/toolbox:1\", command: [nc, -ll, -p, \"6379\", -e, cat]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: weft.test/toolbox:1
    command:
    - sh
    - -c
    - while sleep 0.5; do curl -s http://product.shop/products; echo hello | nc -w 1 queue 6379; done
";

/// The row of the service dashboard that is about TCP, and the Service by which it is tried.
const OPAQUE: (&str, [&str; 2]) = ("Opaque TCP", ["golden", "queue"]);

/// The Service by which the others are: the old side of the canary.
const HTTP: [&str; 2] = ["shop", "product-v1"];

#[test]
fn dashboards_pass_grafanas_schema_and_explain_themselves() {
    for dashboard in dashboards::read().unwrap() {
        let file = dashboard.file.display();
        let checked = Command::new("weft-monitoring").arg("dashboards").arg(&dashboard.file).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard.panels().unwrap() {
            let said = |path: &str| panel.json.pointer(path).and_then(|it| it.as_str()).unwrap_or_default();
            for path in ["/description", "/fieldConfig/defaults/unit"] {
                assert!(!said(path).is_empty(), "{file}: {:?} has no {path}", panel.title);
            }
            assert_eq!(said("/datasource/uid"), "${datasource}", "{file}: {:?}", panel.title);
            assert!(ids.insert(panel.json["id"].as_u64()), "{file}: {:?} has the id of another", panel.title);
            let side = |name: &str| panel.json["gridPos"][name].as_u64().unwrap();
            assert!(side("x") + side("w") <= 24, "{file}: {:?} is outside of the grid", panel.title);
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(cells.insert((x, y)), "{file}: {:?} lies on another", panel.title);
                }
            }
        }
    }
}

#[test]
fn every_alert_is_raised_when_all_is_wrong_and_none_when_all_is_well() {
    let tested = Command::new("promtool").args(["test", "rules", ALERTS_TESTED]).output().unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

#[test]
fn every_panel_and_every_alert_is_answered_by_what_the_shop_does() {
    let _shop = Namespace::kustomized("shop", SHOP).unwrap();
    let monitoring = prometheus::directory();
    let _monitoring = Namespace::kustomized("weft-monitoring", &monitoring.to_string_lossy()).unwrap();
    kubectl(&["apply", "--kustomize", &format!("{}/..", dashboards::directory().display())]).unwrap();
    let beside = Namespace::meshed("golden").unwrap();
    beside.apply(BESIDE).unwrap();
    for pod in ["queue", "stranger"] {
        beside.ready(pod).unwrap();
    }
    let all =
        ["--namespace", "shop", "wait", "--for", "condition=Available", "deployment", "--all", "--timeout", "90s"];
    kubectl(&all).unwrap();

    let prometheus = Prometheus::start().unwrap();
    eventually("every proxy and every part of Weft answers", || found(&prometheus)).unwrap();
    // A change, whose way to the proxies is a figure too.
    let weights = r#"[{"op": "replace", "path": "/spec/rules/1/backendRefs/1/weight", "value": 30}]"#;
    let route = ["patch", "httproute", "product-canary", "--type", "json", "--patch", weights];
    kubectl(&[&["--namespace", "shop"], &route[..]].concat()).unwrap();
    // And a pod, of which the injector is asked and that is not made: how long the answer took is a figure too.
    kubectl(&["--namespace", "golden", "run", "asked", "--image", "weft.test/toolbox:1", "--dry-run=server"]).unwrap();
    for dashboard in dashboards::read().unwrap() {
        eventually("an answer for every panel", || answered(&prometheus, &dashboard)).unwrap();
    }
    alerts_are_loaded(&prometheus).unwrap();
    gitops::autoscaler_is_answered(&prometheus).unwrap();
    gitops::overlays_are_taken().unwrap();
    servers_of_both_can_be_made().unwrap();
}

/// Whether Prometheus asks everybody whom it should.
fn found(prometheus: &Prometheus) -> anyhow::Result<()> {
    let workloads = prometheus.label_values("workload", "up{job=\"weft-proxy\", namespace=\"shop\"}")?;
    let want = ["customer", "order", "payment", "product-v1", "product-v2", "storefront", "user"];
    ensure!(workloads.iter().map(String::as_str).eq(want), "{workloads:?}\n{}", prometheus.log("discovery"));
    for (job, count) in [("weft-proxy", 9.0), ("weft-control-plane", 2.0), ("weft-injector", 2.0)] {
        let up = prometheus.query(&format!("sum(up{{job=\"{job}\"}})"))?;
        ensure!(up.first().is_some_and(|(_, up)| *up >= count), "{job}: {up:?}");
    }
    Ok(())
}

/// Whether every panel has something to show. A target that has nothing fails its panel, and so does one that is no number.
fn answered(prometheus: &Prometheus, dashboard: &Dashboard) -> anyhow::Result<()> {
    let mut empty = Vec::new();
    for panel in dashboard.panels()? {
        let service = if panel.row == OPAQUE.0 { OPAQUE.1 } else { HTTP };
        let values = values(prometheus, dashboard, service)?;
        for expression in panel.expressions()? {
            let expression = substitute(expression, &values)?;
            let samples = prometheus.query(&expression)?;
            if !samples.iter().any(|(_, value)| value.is_finite()) {
                empty.push(format!("{} / {}: {expression}", panel.row, panel.title));
            }
        }
    }
    ensure!(empty.is_empty(), "{}: nothing to show in\n{}", dashboard.file.display(), empty.join("\n"));
    Ok(())
}

/// The dashboard's variables: this Service and its namespace where one is to be chosen, everything where several may be.
fn values<'a>(
    prometheus: &Prometheus,
    dashboard: &'a Dashboard,
    [namespace, service]: [&str; 2],
) -> anyhow::Result<BTreeMap<&'a str, String>> {
    let mut values = BTreeMap::new();
    for variable in dashboard.variables()? {
        let found = prometheus.label_values(variable.label, &substitute(variable.selector, &values)?)?;
        let chosen = if variable.multi && variable.name != "service" {
            let each = found.into_iter().collect::<Vec<_>>().join("|");
            ensure!(!each.is_empty(), "{} has no values", variable.name);
            variable.all.map_or(each, str::to_owned)
        } else {
            let want = if variable.name == "namespace" { namespace } else { service };
            found.into_iter().find(|value| value == want).with_context(|| format!("{want} cannot be chosen"))?
        };
        values.insert(variable.name, chosen);
    }
    Ok(values)
}

/// Whether every alert can be evaluated, and is about metrics that exist.
fn alerts_are_loaded(prometheus: &Prometheus) -> anyhow::Result<()> {
    let rules = prometheus::directory().join("alerts.yaml");
    let checked = Command::new("promtool").args(["check", "rules", "--lint-fatal"]).arg(&rules).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let evaluated = eventually("every alert was evaluated", || {
        let alerts = prometheus.alerts()?;
        ensure!(!alerts.is_empty() && alerts.iter().all(|alert| alert["health"] != "unknown"), "{alerts:?}");
        Ok(alerts)
    })?;
    let metrics = prometheus.metrics()?;
    for alert in evaluated {
        let name = alert["name"].as_str().unwrap_or_default();
        ensure!(alert["health"] == "ok", "{name}: {}", alert["lastError"]);
        let tested = include_str!("alerts.yaml").contains(&format!("alertname=\"{name}\""));
        ensure!(tested, "{name} is not tried in {ALERTS_TESTED}");
        for note in ["summary", "description", "remedy"] {
            ensure!(alert["annotations"][note].is_string(), "{name} has no {note}");
        }
        ensure!(["critical", "warning"].iter().any(|it| alert["labels"]["severity"] == *it), "{name} has no severity");
        for metric in metrics_of(alert["query"].as_str().context("no query")?) {
            ensure!(metrics.contains(metric), "{name} is about {metric}, which does not exist");
        }
    }
    Ok(())
}

/// The names in an expression that are those of metrics: Weft's, and what processes and Prometheus itself say.
fn metrics_of(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("weft_") || word.starts_with("process_") || *word == "up")
}

/// Whether the API server lets the pods of both be made: their images are not here, so that they do not start.
fn servers_of_both_can_be_made() -> anyhow::Result<()> {
    for name in ["weft-prometheus", "weft-grafana"] {
        eventually("a pod", || {
            let set = get("weft-monitoring", "deployment", name)?;
            ensure!(set["status"]["unavailableReplicas"] == 1, "{}", set["status"]);
            let pods =
                kubectl(&["--namespace", "weft-monitoring", "get", "pods", "--selector", &format!("app={name}")])?;
            ensure!(pods.contains(name), "no pod of {name}");
            Ok(())
        })?;
    }
    Ok(())
}
