//! The CNI plugin: sets the redirect of pods from outside of them, and the DaemonSet that keeps it on every node.

use serde_json::{Value, json};
use weft_model::kubernetes::CNI_NAMESPACE as NAMESPACE;

use super::Template;

pub(super) const FILE: &str = "cni";
const NAME: &str = "weft-cni";
/// Where the node's directories are in the container.
const BIN_DIR: &str = "/host/opt/cni/bin";
const CONF_DIR: &str = "/host/etc/cni/net.d";

pub(super) fn templates() -> Vec<Template> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "imagePullSecrets?images.pullSecrets": "${images.pullSecrets}",
    });
    let mut all = vec![
        Template::new(
            FILE,
            "Apart from weft-system, whose pods may do no more than ordinary ones: this one enters the network of pods, and\n\
             writes to directories of its node.",
            namespace,
        ),
        Template::new(FILE, "", account),
    ];
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    all.extend(role(
        "Pods of its node that were made before the plugin was in place are repaired; one whose network cannot be reached is\n\
         evicted. Both are told by an event.",
        false,
        &rules,
    ));
    let own_rules = json!([
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [NAME], "verbs": ["get"]},
    ]);
    all.extend(role(
        "Whether it ends for good, and takes the plugin out of the node's configuration.",
        true,
        &own_rules,
    ));
    all.push(Template::new(FILE, "", daemon_set()));
    all.into_iter().map(|template| template.when("cni.enabled")).collect()
}

/// A role of the whole cluster, or of this namespace, and who has it.
fn role(comment: &'static str, namespaced: bool, rules: &Value) -> [Template; 2] {
    let kind = if namespaced { "Role" } else { "ClusterRole" };
    let metadata = if namespaced { json!({"name": NAME, "namespace": NAMESPACE}) } else { json!({"name": NAME}) };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    });
    [Template::new(FILE, comment, role), Template::new(FILE, "", binding)]
}

fn container() -> Value {
    let probe = |path: &str| json!({"path": path, "port": "admin"});
    json!({
        "name": "cni",
        "image": "${images.cni}",
        "imagePullPolicy": "${images.pullPolicy}",
        "command": ["/weft-cni"],
        "args": ["node", "--log-format=json"],
        "env": [
            {"name": "WEFT_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "WEFT_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "WEFT_LOG", "value": "${cni.log}"},
        ],
        "ports": [{"name": "admin", "containerPort": 14003}],
        // Ready is who is in the node's configuration.
        "readinessProbe": {"httpGet": probe("/ready"), "periodSeconds": 5},
        "livenessProbe": {"httpGet": probe("/live"), "periodSeconds": 10, "failureThreshold": 6},
        "resources": "${cni.resources}",
        "securityContext": {
            // Sets rules; enters networks; finds those of other users' processes; writes where the node's directories belong to others.
            "capabilities": {"add": ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "bin", "mountPath": BIN_DIR},
            {"name": "conf", "mountPath": CONF_DIR},
        ],
    })
}

fn daemon_set() -> Value {
    let directory =
        |name: &str, value: &str| json!({"name": name, "hostPath": {"path": value, "type": "DirectoryOrCreate"}});
    let pod = json!({
        "serviceAccountName": NAME,
        // No pod with a proxy starts on a node without it.
        "priorityClassName": "system-node-critical",
        // A pod's network is found by its processes.
        "hostPID": true,
        "nodeSelector?cni.nodeSelector": "${cni.nodeSelector}",
        "tolerations?cni.tolerations": "${cni.tolerations}",
        "containers": [container()],
        "volumes": [directory("bin", "${cni.binDir}"), directory("conf", "${cni.confDir}")],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}},
        "spec": {
            "selector": {"matchLabels": {"app": NAME}},
            // The plugin works while its keeper is away.
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "25%"}},
            "template": {
                "metadata": {
                    "labels": {"app": NAME},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "14003"},
                },
                "spec": pod,
            },
        },
    })
}
