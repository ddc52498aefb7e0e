//! The injector: adds the proxy to the pods of labelled namespaces.

use serde_json::{Value, json};
use weft_model::kubernetes::{DISABLED, ENABLED, INJECT_LABEL, SYSTEM_NAMESPACES};

use super::{NAMESPACE, Template, container, deployment, disruption_budget, pod, role, service, service_account};

const FILE: &str = "injector";
const NAME: &str = "weft-injector";

pub(super) fn templates() -> Vec<Template> {
    let mut all =
        vec![Template::new(FILE, "Adds the proxy to the pods of labelled namespaces.", service_account(NAME))];
    let cluster_rules = json!([{
        "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [NAME], "verbs": ["get", "patch"],
    }]);
    all.extend(role(FILE, "It tells the API server which certificate it shows.", NAME, false, &cluster_rules));
    let own_rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-injector-tls"], "verbs": ["get", "update"]},
    ]);
    all.extend(role(FILE, "", NAME, true, &own_rules));
    all.push(Template::new(FILE, "", service(NAME, "https", 443, 14443)));
    all.push(Template::new(FILE, "", its_deployment()));
    all.push(disruption_budget(FILE, NAME));
    all.push(Template::new(
        FILE,
        "Fails closed, but only where injection was asked for: a pod that was to have a proxy never runs without one, and\n\
         everything else starts whether or not the injector does. The injector writes caBundle.",
        webhooks(),
    ));
    all
}

fn its_deployment() -> Value {
    let env = json!([
        {"name": "WEFT_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        // What pods get.
        {"name": "WEFT_PROXY_IMAGE", "value": "${images.proxy}"},
        {"name": "WEFT_TRUST_DOMAIN", "value": "${trustDomain}"},
        {"name": "WEFT_SIDECAR", "value": "${injector.sidecar}"},
        {"?cni.enabled": {"name": "WEFT_REDIRECT", "value": "cni"}},
        {"name": "WEFT_LOG", "value": "${injector.log}"},
    ]);
    let ports = json!([{"name": "https", "containerPort": 14443}, {"name": "admin", "containerPort": 14003}]);
    let container = container("injector", "/weft-injector", "injector", &["--log-format=json"], &ports, &env);
    let mut deployment = deployment(NAME, 14003, &pod(NAME, "injector", &container, None));
    deployment["spec"]["replicas"] = json!("${injector.replicas}");
    deployment
}

fn webhooks() -> Value {
    let never = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": SYSTEM_NAMESPACES});
    let other_than = |value: &str| json!({"key": INJECT_LABEL, "operator": "NotIn", "values": [value]});
    let of_namespaces = webhook(
        "namespace.inject.weft.dev",
        &json!({"matchLabels": {INJECT_LABEL: ENABLED}, "matchExpressions": [never]}),
        &json!({"matchExpressions": [other_than(DISABLED)]}),
    );
    let of_pods = webhook(
        "pod.inject.weft.dev",
        &json!({"matchExpressions": [other_than(ENABLED), never]}),
        &json!({"matchLabels": {INJECT_LABEL: ENABLED}}),
    );
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME}, "webhooks": [of_namespaces, of_pods],
    })
}

fn webhook(name: &str, namespaces: &Value, objects: &Value) -> Value {
    json!({
        "name": name,
        "namespaceSelector": namespaces,
        "objectSelector": objects,
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced",
        }],
        "clientConfig": {"service": {"name": NAME, "namespace": NAMESPACE, "path": "/inject", "port": 443}},
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        // Another webhook may add containers after us, and they too must not run as the proxy's user.
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": 5,
    })
}
