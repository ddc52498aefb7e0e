//! What is added to a pod: the init container that sets the redirect, the proxy as a native sidecar behind it, and the volumes that
//! they use. Everything else of the pod stays as it was written, fields that we do not know included.
//!
//! The proxy is an init container that keeps running (Kubernetes 1.29 and later): it is ready before any other container of the pod
//! starts, outlives all of them, and does not keep a Job from completing.

use serde_json::{Map, Value, json};

mod probes;

use weft_model::kubernetes::{
    ADMIN_PORT, DISABLED, INIT_CONTAINER, INJECT_LABEL, INJECTED_BY, MIRROR, NotInjected, PROXY_CONTAINER,
    TOKEN_AUDIENCE, TRUST_ANCHORS_KEY, TRUST_BUNDLE,
};
use weft_model::probes::VARIABLE as PROBES_VARIABLE;

use crate::annotations::{PodSettings, Problem};

/// The proxy's user: the redirect leaves its connections alone (design §2).
const PROXY_UID: u32 = weft_init::Options::PROXY_UID;
/// Two processes agree on it, each by its own constant.
const _: () = assert!(weft_init::Options::ADMIN_PORT.get() == ADMIN_PORT);

/// Where files are put into the containers.
const TRUST_DIR: &str = "/var/run/weft/trust";
const TOKEN_DIR: &str = "/var/run/weft/token";
const STATE_DIR: &str = "/var/run/weft/state";

/// What users are told who would rather have none of it.
const NO_REWRITE: &str = "the annotation config.weft.dev/rewrite-probes: none";

/// How long a token is valid (semantics 31); the kubelet renews it in time.
const TOKEN_SECONDS: u32 = 600;

/// What is the same for all pods of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The image of the proxy and of the init container.
    pub image: String,
    /// Where proxies find the control plane: `HOST:PORT`.
    pub control_plane: String,
    /// The trust domain of every identity.
    pub trust_domain: String,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It, with a proxy.
    Injected(Value),
    /// It is left alone, and why.
    Skipped(NotInjected),
}

/// Adds the proxy to a pod, or to the template of one: always the same to the same.
///
/// # Errors
/// Everything of the pod that makes no sense, each with its field.
pub fn inject(pod: &Value, installation: &Installation) -> Result<Outcome, Vec<Problem>> {
    inject_salted(pod, installation, "")
}

/// As [`inject`]. `salt` goes into the keys of hooks: with one that nobody else knows, only who can read the pod can ask its proxy
/// for a hook; without, also who knows all of what the pod was made of.
///
/// # Errors
/// As for [`inject`].
pub fn inject_salted(pod: &Value, installation: &Installation, salt: &str) -> Result<Outcome, Vec<Problem>> {
    if let Some(skip) = skip(pod) {
        return Ok(Outcome::Skipped(skip));
    }
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let texts = annotations.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    let settings = PodSettings::read(texts)?;
    let mine = own_users(pod);
    if !mine.is_empty() {
        return Err(mine);
    }
    let key = probes::key(pod, salt);
    let misshapen =
        |field: &str| vec![Problem { field: field.to_owned(), message: "is not what a pod has there".to_owned() }];
    let mut pod = pod.clone();
    let metadata = object(&mut pod, "metadata").ok_or_else(|| misshapen("metadata"))?;
    let annotations = object_in(metadata, "annotations").ok_or_else(|| misshapen("metadata.annotations"))?;
    annotations.insert(INJECTED_BY.to_owned(), json!(env!("CARGO_PKG_VERSION")));
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut).ok_or_else(|| misshapen("spec"))?;
    let probes = probes::rewrite(spec, &settings, &key)?;
    let containers = array_in(spec, "initContainers").ok_or_else(|| misshapen("spec.initContainers"))?;
    let proxy = proxy_container(&settings, installation, probes.as_deref());
    containers.splice(0..0, [init_container(&settings, installation), proxy]);
    array_in(spec, "volumes").ok_or_else(|| misshapen("spec.volumes"))?.extend(volumes());
    Ok(Outcome::Injected(pod))
}

fn skip(pod: &Value) -> Option<NotInjected> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    let labels = pod.pointer("/metadata/labels");
    if labels.and_then(|labels| labels.get(INJECT_LABEL)).and_then(Value::as_str) == Some(DISABLED) {
        return Some(NotInjected::Disabled);
    }
    // Where the API server shows a static pod, the kubelet has said from what.
    if text(&format!("/metadata/annotations/{}", MIRROR.replace('/', "~1"))).is_some() {
        return Some(NotInjected::Static);
    }
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Some(NotInjected::HostNetwork);
    }
    containers(pod).any(|(_, container)| name(container) == PROXY_CONTAINER).then_some(NotInjected::HasProxy)
}

/// Containers that run as the proxy's user: what they send would pass by the proxy (semantics 44).
fn own_users(pod: &Value) -> Vec<Problem> {
    let is_ours = |context: Option<&Value>| {
        context.and_then(|it| it.get("runAsUser")).and_then(Value::as_u64) == Some(u64::from(PROXY_UID))
    };
    let message = format!("the user id {PROXY_UID} is the proxy's: connections of it pass by the mesh");
    let mut problems = Vec::new();
    if is_ours(pod.pointer("/spec/securityContext")) {
        problems.push(Problem { field: "spec.securityContext.runAsUser".to_owned(), message: message.clone() });
    }
    for (field, container) in containers(pod) {
        if is_ours(container.get("securityContext")) {
            problems.push(Problem { field: format!("{field}.securityContext.runAsUser"), message: message.clone() });
        }
    }
    problems
}

/// Every container, with the field that it stands in.
fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(|list| {
        let all = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        all.into_iter().flatten().enumerate().map(move |(i, container)| (format!("spec.{list}[{i}]"), container))
    })
}

fn name(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The object of that name, made where there is none. `None`: something else stands there.
fn object<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    object_in(value.as_object_mut()?, name)
}

fn object_in<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = map.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn array_in<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    let value = map.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

/// Sets the rules and proves them. It needs one capability, and as any user but root it would not get it.
fn init_container(settings: &PodSettings, installation: &Installation) -> Value {
    let env = [
        ("WEFT_SKIP_INBOUND_PORTS", &settings.skip_inbound_ports),
        ("WEFT_SKIP_OUTBOUND_PORTS", &settings.skip_outbound_ports),
        ("WEFT_SKIP_OUTBOUND_CIDRS", &settings.skip_outbound_cidrs),
    ];
    let env: Vec<Value> = env
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    json!({
        "name": INIT_CONTAINER,
        "image": installation.image,
        "command": ["/weft-init"],
        "env": env,
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

fn proxy_container(settings: &PodSettings, installation: &Installation, probes: Option<&str>) -> Value {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        plain("WEFT_CONTROL_PLANE", &installation.control_plane),
        plain("WEFT_TRUST_DOMAIN", &installation.trust_domain),
        plain("WEFT_TRUST_ANCHORS", &format!("{TRUST_DIR}/{TRUST_ANCHORS_KEY}")),
        plain("WEFT_SERVICE_ACCOUNT_TOKEN_FILE", &format!("{TOKEN_DIR}/token")),
        // A directory of its own below the volume's, which belongs to root.
        plain("WEFT_STATE_DIR", &format!("{STATE_DIR}/proxy")),
        field("WEFT_WORKLOAD_NAMESPACE", "metadata.namespace"),
        field("WEFT_WORKLOAD_NAME", "metadata.name"),
        field("WEFT_WORKLOAD_UID", "metadata.uid"),
        field("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        plain("WEFT_LOG_FORMAT", "json"),
    ];
    env.extend(settings.log_level.as_deref().map(|level| plain("WEFT_LOG", level)));
    env.extend(probes.map(|probes| plain(PROBES_VARIABLE, probes)));
    env.extend(settings.drain_seconds.map(|seconds| plain("WEFT_DRAIN_SECONDS", &seconds.to_string())));
    json!({
        "name": PROXY_CONTAINER,
        "image": installation.image,
        "command": ["/weft-proxy"],
        // Keeps running, and what comes after it in the list waits until it has started.
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "weft-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/ready", "port": ADMIN_PORT}, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": ADMIN_PORT}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/live", "port": ADMIN_PORT}, "periodSeconds": 10, "failureThreshold": 6},
        "resources": resources(settings),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "weft-trust", "mountPath": TRUST_DIR, "readOnly": true},
            {"name": "weft-token", "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": "weft-state", "mountPath": STATE_DIR},
        ],
    })
}

/// A proxy at rest takes 10 MiB, one with 1,000 idle connections 16 to 26 (docs/measurements).
fn resources(settings: &PodSettings) -> Value {
    let or = |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.to_owned());
    let mut limits = Map::new();
    limits.insert("memory".to_owned(), json!(or(&settings.memory_limit, "256Mi")));
    if let Some(cpu) = &settings.cpu_limit {
        limits.insert("cpu".to_owned(), json!(cpu));
    }
    json!({
        "requests": {"cpu": or(&settings.cpu_request, "20m"), "memory": or(&settings.memory_request, "24Mi")},
        "limits": limits,
    })
}

fn volumes() -> [Value; 3] {
    [
        json!({"name": "weft-trust", "configMap": {"name": TRUST_BUNDLE}}),
        json!({"name": "weft-token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        ]}}),
        json!({"name": "weft-state", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
    ]
}

#[cfg(test)]
mod tests;
