//! The control plane: configures the proxies and issues their certificates.

use serde_json::{Value, json};

use super::{NAMESPACE, Template, container, deployment, disruption_budget, pod, role, service, service_account};

const FILE: &str = "control-plane";
const NAME: &str = "weft-control-plane";

pub(super) fn templates() -> Vec<Template> {
    let mut all =
        vec![Template::new(FILE, "Configures the proxies and issues their certificates.", service_account(NAME))];
    all.extend(role(
        FILE,
        "What it reads of the whole cluster, and what it writes there: status, token reviews, and the trust bundle of every\n\
         labelled namespace. Each line is needed: docs/kubernetes.md says for what.",
        NAME,
        false,
        &cluster_rules(),
    ));
    all.extend(role(FILE, "Who of the replicas writes, and the certificate authority.", NAME, true, &own_rules()));
    all.push(Template::new(FILE, "", service(NAME, "grpc-proxies", 14010, 14010)));
    all.push(Template::new(FILE, "", its_deployment()));
    all.push(disruption_budget(FILE, NAME));
    all.push(Template::new(FILE, "", autoscaler()).when("controlPlane.autoscaling.enabled"));
    all
}

fn cluster_rules() -> Value {
    let kinds = ["authorizationpolicies", "meshpolicies", "trafficpolicies", "workloads"];
    let status = kinds.map(|kind| format!("{kind}/status"));
    json!([
        {"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "services"], "verbs": ["list", "watch"]},
        // Why a pod has no proxy, and an event that says so.
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["grpcroutes", "httproutes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["weft.dev"], "resources": kinds, "verbs": ["list", "watch"]},
        // What became of each resource.
        {"apiGroups": ["weft.dev"], "resources": status, "verbs": ["patch"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["grpcroutes", "httproutes"], "verbs": ["get"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["grpcroutes/status", "httproutes/status"], "verbs": ["update"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        // The trust bundle of every labelled namespace. A name cannot restrict create.
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {
            "apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"],
            "resourceNames": [weft_model::kubernetes::TRUST_BUNDLE],
        },
    ])
}

fn own_rules() -> Value {
    json!([
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [NAME], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-authority"], "verbs": ["get", "update"]},
        {"?controlPlane.issuerSecret": {
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["${controlPlane.issuerSecret}"], "verbs": ["get"],
        }},
    ])
}

fn its_deployment() -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let env = json!([
        field("WEFT_NAMESPACE", "metadata.namespace"),
        field("WEFT_REPLICA", "metadata.name"),
        {"name": "WEFT_TRUST_DOMAIN", "value": "${trustDomain}"},
        {"name": "WEFT_LEAF_LIFETIME", "value": "${controlPlane.leafLifetime}"},
        {"name": "WEFT_LOG", "value": "${controlPlane.log}"},
        {"?controlPlane.issuerSecret": {"name": "WEFT_ISSUER_SECRET", "value": "${controlPlane.issuerSecret}"}},
        {"?controlPlane.networks": {"name": "WEFT_NETWORKS", "value": "${controlPlane.networks,}"}},
        {"?controlPlane.reservedNetworks": {
            "name": "WEFT_RESERVED_NETWORKS", "value": "${controlPlane.reservedNetworks,}",
        }},
    ]);
    let ports = json!([{"name": "grpc-proxies", "containerPort": 14010}, {"name": "admin", "containerPort": 14011}]);
    let args = ["--source=kubernetes", "--ca-dir=/var/run/weft/authority", "--log-format=json"];
    let mut container = container("control-plane", "/weft-control-plane", "controlPlane", &args, &ports, &env);
    // It waits for an issuer that somebody else makes, for as long as that takes: alive, and not ready.
    container["startupProbe"]["httpGet"] = json!({
        "path?!controlPlane.issuerSecret": "/ready", "path?controlPlane.issuerSecret": "/live", "port": "admin",
    });
    container["volumeMounts"] = json!([{"name": "authority", "mountPath": "/var/run/weft"}]);
    // Its copy of the authority's Secret: in memory, never on a disk.
    let volumes = json!([{"name": "authority", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}]);
    let mut deployment = deployment(NAME, 14011, &pod(NAME, "controlPlane", &container, Some(volumes)));
    // With an autoscaler whoever applies the file again must not undo what it decided.
    deployment["spec"]["replicas?!controlPlane.autoscaling.enabled"] = json!("${controlPlane.replicas}");
    deployment
}

fn autoscaler() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": "${controlPlane.autoscaling.cpuPercent}"});
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicas": "${controlPlane.autoscaling.minReplicas}",
            "maxReplicas": "${controlPlane.autoscaling.maxReplicas}",
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    })
}
