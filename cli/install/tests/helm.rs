//! The chart gives what `weft install` gives, and refuses what that refuses: by the real Helm.
//!
//! Run by `cargo xtask test --only helm`, which builds Helm and names it in `WEFT_HELM`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use weft_install::{Layer, Manifest, Values};

/// The oldest that the chart admits.
const KUBERNETES: &str = "1.29.0";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/weft")
}

fn helm(args: &[&str]) -> Output {
    let program = std::env::var_os("WEFT_HELM");
    let program = program.unwrap_or_else(|| panic!("WEFT_HELM names no Helm: cargo xtask test --only helm builds one"));
    Command::new(program).args(args).output().unwrap()
}

/// Has Helm render the chart with values over its defaults.
fn rendered(values: &Value, namespace: &str) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let chart = chart();
    let args = ["template", "weft", chart.to_str().unwrap(), "--namespace", namespace];
    let more = ["--kube-version", KUBERNETES, "--values", file.path().to_str().unwrap()];
    let output = helm(&[args.as_slice(), &more].concat());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

type Objects = BTreeMap<String, Value>;

fn by_name(objects: impl IntoIterator<Item = Value>) -> Objects {
    let mut all = Objects::new();
    for object in objects {
        let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(all.insert(key.clone(), object).is_none(), "{key} twice");
    }
    all
}

fn by_helm(values: &Value) -> Objects {
    let text = rendered(values, "weft-system").unwrap();
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    documents.retain(|document| !document.is_null());
    for document in &mut documents {
        if document["kind"] == "CustomResourceDefinition" {
            // Helm alone is told to leave them when it uninstalls.
            let annotations = document["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
            assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        }
    }
    by_name(documents)
}

fn by_install(values: &Value) -> Objects {
    let layer = Layer::file(&values.to_string()).unwrap();
    let (values, set) = Values::read([layer]).unwrap();
    let objects = weft_install::installed(&values, &set).into_iter().map(|Manifest { object, .. }| object);
    // The namespace is the release's, and what was set is Helm's to remember.
    let its_own = |object: &Value| object["metadata"]["name"] == "weft-system" || object["kind"] == "ConfigMap";
    by_name(objects.filter(|object| !its_own(object)))
}

#[test]
fn the_chart_renders_the_objects_of_weft_install() {
    for values in [
        json!({}),
        json!({"controlPlane": {"autoscaling": {"enabled": true, "minReplicas": 3, "maxReplicas": 30, "cpuPercent": 150}}}),
        json!({"crds": {"enabled": false}, "disruptionBudgets": {"enabled": false}, "trustDomain": "example.org"}),
        json!({"cni": {
            "enabled": true, "binDir": "/usr/lib/cni", "confDir": "/etc/k/cni-1.d", "log": "debug", "nodeSelector": {"a": "b"},
            "tolerations": [],
        }, "images": {"cni": "r/c:1", "pullSecrets": [{"name": "one"}]}}),
        json!({"priorityClass": {"name": "weft", "create": true, "value": 1_000_000_000}}),
        json!({
            "images": {
                "controlPlane": "registry.example:5000/weft/control-plane@sha256:0a1b", "proxy": "r/p:1",
                "pullPolicy": "Always", "pullSecrets": [{"name": "one"}, {"name": "two"}],
            },
            "controlPlane": {
                "replicas": 7, "log": "info,weft_index=debug", "leafLifetime": "1h30m", "issuerSecret": "weft-issuer",
                "networks": ["10.0.0.0/8", "fd00::/8"], "reservedNetworks": ["10.96.0.0/12"],
                "resources": {"requests": {"cpu": 1, "memory": null}, "limits": {"memory": "1Gi", "cpu": "1.5"}},
                "nodeSelector": {"kubernetes.io/arch": "amd64", "odd": "a: {b} <&> 'c' \"d\" {{ e }} ${f}"},
                "tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 3_000_000}],
            },
            "injector": {
                "replicas": 1, "sidecar": "ordinary", "log": "debug", "nodeSelector": {"a": "true"}, "tolerations": [{"operator": "Exists"}],
            },
        }),
    ] {
        assert_eq!(by_helm(&values), by_install(&values), "{values}");
    }
}

#[test]
fn the_schema_refuses_what_weft_install_refuses() {
    for (values, key) in [
        (json!({"controlPlane": {"replica": 3}}), "controlPlane"),
        (json!({"controlplane": {}}), "controlplane"),
        (json!({"controlPlane": {"replicas": "three"}}), "replicas"),
        (json!({"controlPlane": {"replicas": 0}}), "replicas"),
        (json!({"controlPlane": {"replicas": 101}}), "replicas"),
        (json!({"controlPlane": {"replicas": null}}), "replicas"),
        (json!({"controlPlane": {"leafLifetime": "soon"}}), "leafLifetime"),
        (json!({"controlPlane": {"issuerSecret": "Weft"}}), "issuerSecret"),
        (json!({"controlPlane": {"networks": ["10.0.0.0"]}}), "networks"),
        (json!({"controlPlane": {"autoscaling": {"cpuPercent": 0}}}), "cpuPercent"),
        (json!({"controlPlane": {"resources": {"limits": {"memory": "1GB"}}}}), "memory"),
        (json!({"images": {"proxy": "weft proxy"}}), "proxy"),
        (json!({"images": {"proxy": "a\" b: {{ fail }}"}}), "proxy"),
        (json!({"images": {"pullPolicy": "Sometimes"}}), "pullPolicy"),
        (json!({"images": {"pullSecrets": ["registry"]}}), "pullSecrets"),
        (json!({"trustDomain": "Cluster"}), "trustDomain"),
        (json!({"injector": {"log": "{{ x }}"}}), "log"),
        (json!({"injector": {"sidecar": "init"}}), "sidecar"),
        (json!({"priorityClass": {"value": 1_000_000_001}}), "value"),
        (json!({"crds": true}), "crds"),
        (json!({"cni": {"binDir": "opt/cni/bin"}}), "binDir"),
        (json!({"cni": {"confDir": "/etc/cni net.d"}}), "confDir"),
    ] {
        let refusal = rendered(&values, "weft-system").err().unwrap_or_else(|| panic!("{values} was taken"));
        assert!(refusal.contains("schema") && refusal.contains(key), "{values}: {refusal}");
        let layer = Layer::file(&values.to_string()).unwrap();
        assert!(Values::read([layer]).is_err(), "{values}");
    }
}

#[test]
fn the_chart_goes_into_its_own_namespace_alone() {
    let refusal = rendered(&json!({}), "default").unwrap_err();
    assert!(refusal.contains("--namespace weft-system"), "{refusal}");
}

#[test]
fn helms_own_linter_has_nothing_against_it() {
    let chart = chart();
    let output = helm(&[
        "lint",
        "--strict",
        chart.to_str().unwrap(),
        "--namespace",
        "weft-system",
        "--kube-version",
        KUBERNETES,
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
