//! The CNI plugin on a real node: what it does to the node's configuration, and what pods have of it. Changes what all of the cluster's
//! pods go through, so nothing else runs beside it, and these tests run one after the other.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_tests_kubernetes::{Namespace, apply, eventually, get, kubectl};

/// The node's CNI directories, as cargo xtask names them.
fn node() -> PathBuf {
    std::env::var_os("WEFT_NODE_CNI")
        .expect("WEFT_NODE_CNI: where the node's plugins and their configuration are")
        .into()
}

fn configuration() -> String {
    fs::read_to_string(node().join("net.d/10-test.conflist")).unwrap()
}

fn has_plugin() -> bool {
    configuration().contains("weft-cni")
}

/// Installs Weft with the plugin, and waits until it is in the node's configuration.
fn plugged() {
    let with = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cni/with");
    let text = kubectl(&["kustomize", with]).unwrap();
    let text = text
        .replace("path: /opt/cni/bin", &format!("path: {}", node().join("bin").display()))
        .replace("path: /etc/cni/net.d", &format!("path: {}", node().join("net.d").display()));
    apply("", &text).unwrap();
    for name in ["deployment/weft-control-plane", "deployment/weft-injector"] {
        kubectl(&["--namespace", "weft-system", "rollout", "status", name, "--timeout", "90s"]).unwrap();
    }
    kubectl(&["--namespace", "weft-cni", "rollout", "status", "daemonset/weft-cni", "--timeout", "90s"]).unwrap();
    eventually("the API server trusts the injector", || {
        let hooks = get("", "mutatingwebhookconfiguration", "weft-injector")?;
        let told = hooks["webhooks"]
            .as_array()
            .is_some_and(|all| all.iter().all(|hook| hook["clientConfig"]["caBundle"].is_string()));
        ensure!(told, "caBundle is not there yet");
        Ok(())
    })
    .unwrap();
    assert!(has_plugin(), "it is ready, so it is in:\n{}", configuration());
}

/// A namespace whose pods get a proxy, and may have no capability.
fn closed(name: &str) -> Namespace {
    let namespace = Namespace::of_installed(name, "enabled").unwrap();
    let level = "pod-security.kubernetes.io/enforce=baseline";
    kubectl(&["label", "namespace", name, level]).unwrap();
    namespace
}

fn has_mtls(namespace: &Namespace, from: &str, to: &str) {
    assert_eq!(namespace.curl(from, &format!("http://{to}/")).unwrap(), format!("200 this is {to}"));
    let metrics = namespace.metrics(to).unwrap();
    let inbound = metrics.lines().filter(|line| line.starts_with("weft_requests_total{") && line.contains("inbound"));
    let mut mutual = inbound.filter(|line| line.contains("mtls=\"yes\""));
    assert!(mutual.next().is_some(), "{metrics}");
}

#[test]
fn a_pod_without_capabilities_has_its_traffic_in_the_mesh() {
    plugged();
    let namespace = closed("cni-closed");
    namespace.serve("front").unwrap();
    namespace.serve("back").unwrap();
    has_mtls(&namespace, "front", "back");
    let pod = get("cni-closed", "pod", "front").unwrap();
    assert!(!pod["spec"].to_string().contains("NET_ADMIN"), "{}", pod["spec"]);
    assert_eq!(pod["metadata"]["annotations"]["weft.dev/redirect"], "cni");
    let init = &pod["status"]["initContainerStatuses"][0];
    assert_eq!((&init["name"], &init["restartCount"]), (&Value::from("weft-init"), &Value::from(0)));
    let said = kubectl(&["--namespace", "cni-closed", "logs", "front", "--container", "weft-init"]).unwrap();
    assert!(said.contains("was caught"), "{said}");
}

#[test]
fn a_pod_that_was_made_without_the_plugin_is_repaired_and_starts() {
    plugged();
    let namespace = closed("cni-repaired");
    namespace.serve("front").unwrap();
    kubectl(&["--namespace", "weft-cni", "delete", "daemonset", "weft-cni", "--wait"]).unwrap();
    gone();
    let yaml = "\
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {selector: {app: late}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: weft.test/toolbox:1
    command: [sh, -c, \"echo this is late > /www/index.html; exec httpd -f -p 8080 -h /www\"]
";
    namespace.apply(yaml).unwrap();
    eventually("the pod waits for its redirect", || {
        let pod = get("cni-repaired", "pod", "late")?;
        let init = &pod["status"]["initContainerStatuses"][0];
        ensure!(init["state"]["running"].is_object() || init["restartCount"].as_u64() > Some(0), "{init}");
        Ok(())
    })
    .unwrap();
    plugged();
    namespace.ready("late").unwrap();
    has_mtls(&namespace, "front", "late");
    let event = eventually("an event tells of it", || {
        let events = kubectl(&["--namespace", "cni-repaired", "get", "events.events.k8s.io", "--output", "json"])?;
        let events: Value = serde_json::from_str(&events)?;
        let of_us = |event: &&Value| event["reason"] == "RedirectRepaired" && event["regarding"]["name"] == "late";
        events["items"].as_array().and_then(|all| all.iter().find(of_us)).cloned().context("there is none")
    })
    .unwrap();
    assert_eq!(event["reportingController"], "weft.dev/cni");
    // One that had its redirect from the start is let be.
    let events = kubectl(&["--namespace", "cni-repaired", "get", "events.events.k8s.io"]).unwrap();
    assert!(!events.lines().any(|line| line.contains("Redirect") && line.contains("pod/front")), "{events}");
}

/// Waits until the plugin is out of the node's configuration.
fn gone() {
    eventually("the node's configuration is without the plugin", || {
        ensure!(!has_plugin(), "{}", configuration());
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_nodes_configuration_keeps_the_plugin_while_weft_stays_and_is_as_it_was_when_weft_goes() {
    kubectl(&["--namespace", "weft-cni", "delete", "daemonset", "weft-cni", "--wait", "--ignore-not-found"]).unwrap();
    gone();
    let before = configuration();
    plugged();
    let path = node().join("net.d/10-test.conflist");
    // A restart, as an upgrade is one, does not touch it.
    let with = (configuration(), fs::metadata(&path).unwrap().modified().unwrap());
    kubectl(&["--namespace", "weft-cni", "rollout", "restart", "daemonset/weft-cni"]).unwrap();
    kubectl(&["--namespace", "weft-cni", "rollout", "status", "daemonset/weft-cni", "--timeout", "90s"]).unwrap();
    assert_eq!((configuration(), fs::metadata(&path).unwrap().modified().unwrap()), with);
    // Its owner writes it anew.
    fs::write(&path, &before).unwrap();
    eventually("the plugin is back in", || {
        ensure!(has_plugin(), "it is not");
        Ok(())
    })
    .unwrap();
    kubectl(&["--namespace", "weft-cni", "delete", "daemonset", "weft-cni", "--wait"]).unwrap();
    gone();
    assert_eq!(configuration(), before, "to the letter");
    let files: Vec<_> = fs::read_dir(node().join("net.d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["10-test.conflist"]);
    plugged();
}
