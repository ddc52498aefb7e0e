//! The objects, as templates.

mod cni;
mod control_plane;
mod injector;

use serde_json::{Value, json};

use crate::template::{Condition, fill};
use crate::values::Values;
use crate::yaml;

/// The namespace of Weft's own parts. It cannot be chosen: proxies know the control plane by it (its SPIFFE id).
pub const NAMESPACE: &str = weft_crds::SYSTEM_NAMESPACE;

/// The ConfigMap that remembers what was set.
pub const RECORD: &str = "weft-installation";

/// Its key for what was set, YAML.
pub const RECORD_VALUES: &str = "values.yaml";

/// Its key for the version that was installed.
pub const RECORD_VERSION: &str = "version";

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// What stands above it.
    pub comment: String,
    /// It.
    pub object: Value,
}

/// One object, before it is known what was set.
pub(crate) struct Template {
    /// The file of the base and of the chart that it belongs to, without its ending.
    pub(crate) file: &'static str,
    pub(crate) comment: &'static str,
    /// Where it is there.
    pub(crate) when: Option<&'static str>,
    pub(crate) object: Value,
}

impl Template {
    fn new(file: &'static str, comment: &'static str, object: Value) -> Self {
        Self { file, comment, when: None, object }
    }

    fn when(self, condition: &'static str) -> Self {
        Self { when: Some(condition), ..self }
    }
}

/// Every template, in the order in which they are applied.
pub(crate) fn templates() -> Vec<Template> {
    let mut all = vec![
        Template::new(
            "namespace",
            "Neither part needs more than an ordinary pod may have.",
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            }),
        ),
        Template::new(
            "priority-class",
            "",
            json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": {"name": "${priorityClass.name}"},
                "description": "Weft's own pods",
                "value": "${priorityClass.value}",
            }),
        )
        .when("priorityClass.create"),
    ];
    all.extend(control_plane::templates());
    all.extend(injector::templates());
    all.extend(cni::templates());
    all
}

/// Weft's own objects, without the definitions of its kinds.
pub fn manifests(values: &Values) -> Vec<Manifest> {
    filled(values).map(|(_, manifest)| manifest).collect()
}

fn filled(values: &Values) -> impl Iterator<Item = (&'static str, Manifest)> {
    let values = values.to_json();
    templates().into_iter().filter_map(move |Template { file, comment, when, object }| {
        let is_there = when.is_none_or(|condition| Condition::of(condition).holds(&values));
        is_there.then(|| (file, Manifest { comment: comment.to_owned(), object: fill(&object, &values) }))
    })
}

/// The definitions of Weft's kinds.
pub fn definitions() -> Vec<Value> {
    // They are made of maps by text alone.
    weft_crds::definitions().iter().map(|definition| serde_json::to_value(definition).unwrap_or_default()).collect()
}

/// All of an installation: the definitions first, and what was `set`, for `weft upgrade`.
pub fn installed(values: &Values, set: &Value) -> Vec<Manifest> {
    let mut all = manifests(values);
    let record = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": RECORD, "namespace": NAMESPACE},
        "data": {RECORD_VALUES: yaml::document(set), RECORD_VERSION: env!("CARGO_PKG_VERSION")},
    });
    all.push(Manifest { comment: "What was set, for `weft upgrade`.".to_owned(), object: record });
    if values.crds.enabled {
        let definitions =
            definitions().into_iter().map(|object| Manifest { comment: String::new(), object }).collect::<Vec<_>>();
        all.splice(0..0, definitions);
    }
    all
}

/// The files of `deploy/base`, by name: everything at its default.
pub fn base() -> Vec<(String, String)> {
    let mut files: Vec<(String, Vec<Manifest>)> = Vec::new();
    for (file, manifest) in filled(&Values::default()) {
        let name = format!("{file}.yaml");
        match files.last_mut() {
            Some((last, manifests)) if *last == name => manifests.push(manifest),
            _ => files.push((name, vec![manifest])),
        }
    }
    let text = |manifests: &[Manifest]| {
        yaml::documents(manifests.iter().map(|Manifest { comment, object }| (comment.as_str(), object)))
    };
    files.into_iter().map(|(name, manifests)| (name, text(&manifests))).collect()
}

/// The file of `deploy/cni`, a component for Kustomize: what the CNI plugin adds to the base.
pub fn cni_component() -> String {
    let mut values = Values::default();
    values.cni.enabled = true;
    let manifests: Vec<Manifest> =
        filled(&values).filter(|(file, _)| *file == cni::FILE).map(|(_, manifest)| manifest).collect();
    yaml::documents(manifests.iter().map(|Manifest { comment, object }| (comment.as_str(), object)))
}

/// A ServiceAccount.
fn service_account(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE},
        "imagePullSecrets?images.pullSecrets": "${images.pullSecrets}",
    })
}

/// A role of the whole cluster, or with `namespaced` of weft-system, and who has it.
fn role(file: &'static str, comment: &'static str, name: &str, namespaced: bool, rules: &Value) -> [Template; 2] {
    let kind = if namespaced { "Role" } else { "ClusterRole" };
    let metadata = if namespaced { json!({"name": name, "namespace": NAMESPACE}) } else { json!({"name": name}) };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    });
    [Template::new(file, comment, role), Template::new(file, "", binding)]
}

/// A Service of one port.
fn service(name: &str, port: &str, number: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"name": port, "port": number, "targetPort": target}]},
    })
}

/// Evictions take one pod at a time: with one replica too, which a minimum of one would never let go.
fn disruption_budget(file: &'static str, name: &str) -> Template {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": name}}},
    });
    Template::new(file, "", budget).when("disruptionBudgets.enabled")
}

/// What the pod of both parts has around its container. `key` is where its values are.
fn pod(name: &str, key: &str, container: &Value, volumes: Option<Value>) -> Value {
    let terms = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}});
    let mut spec = json!({
        "serviceAccountName": name,
        "priorityClassName": "${priorityClass.name}",
        "affinity": {"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": terms}],
        }},
        "containers": [container],
    });
    for field in ["nodeSelector", "tolerations"] {
        spec[format!("{field}?{key}.{field}")] = json!(format!("${{{key}.{field}}}"));
    }
    if let Some(volumes) = volumes {
        spec["volumes"] = volumes;
    }
    spec
}

/// The container of one part, without what only that part has.
fn container(name: &str, program: &str, key: &str, args: &[&str], ports: &Value, env: &Value) -> Value {
    let probe = |path: &str| json!({"path": path, "port": "admin"});
    json!({
        "name": name,
        "image": "${images.controlPlane}",
        "imagePullPolicy": "${images.pullPolicy}",
        "command": [program],
        "args": args,
        "env": env,
        "ports": ports,
        "startupProbe": {"httpGet": probe("/ready"), "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {"httpGet": probe("/ready"), "periodSeconds": 5},
        "livenessProbe": {"httpGet": probe("/live"), "periodSeconds": 10, "failureThreshold": 6},
        "resources": format!("${{{key}.resources}}"),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The Deployment of one part. A rollout never has fewer pods than asked for.
fn deployment(name: &str, admin_port: u16, pod: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": {"app": name},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": admin_port.to_string()},
                },
                "spec": pod,
            },
        },
    })
}

#[cfg(test)]
mod tests;
