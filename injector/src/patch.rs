//! What is added to a pod: the proxy as a native sidecar, the init container that sets the redirect, and the volumes that they use. Everything else of the pod stays as it was written, fields that we do not know included.
//!
//! The proxy is an init container that keeps running (Kubernetes 1.29 and later): it is ready before any other container of the pod
//! starts, outlives all of them, and does not keep a Job from completing.

use std::str::FromStr;

use serde_json::{Map, Value, json};

mod probes;

use weft_init::{AnnotationError, Options};
use weft_model::kubernetes::{
    ADMIN_PORT, DISABLED, INIT_CONTAINER, INJECT_LABEL, INJECTED_BY, MIRROR, NotInjected, PROXY_CONTAINER, REDIRECT,
    SKIP_INBOUND_PORTS, TOKEN_AUDIENCE, TRUST_ANCHORS_KEY, TRUST_BUNDLE,
};
use weft_model::probes::VARIABLE as PROBES_VARIABLE;

use crate::annotations::{PodSettings, Problem};

/// The proxy's user: the redirect leaves its connections alone (design §2).
const PROXY_UID: u32 = Options::PROXY_UID;
/// Two processes agree on it, each by its own constant.
const _: () = assert!(Options::ADMIN_PORT.get() == ADMIN_PORT);

/// Where files are put into the containers.
const TRUST_DIR: &str = "/var/run/weft/trust";
const TOKEN_DIR: &str = "/var/run/weft/token";
const STATE_DIR: &str = "/var/run/weft/state";

/// What users are told who would rather have none of it.
const NO_REWRITE: &str = "the annotation config.weft.dev/rewrite-probes: none";

/// Whose connections prove the CNI plugin's rules: not the proxy's.
const PROVER_UID: u32 = 65532;
/// How long a pod that was made before the plugin was ready waits to be repaired, before its container fails and begins anew.
const PLUGIN_WAIT_SECONDS: u32 = 30;

/// How long an ordinary container waits for its own proxy to be ready before it begins anew; as long as the startup probe does.
const START_SECONDS: u64 = 120;
/// How long an ordinary proxy goes on as if nothing was, when its pod ends.
const LINGER_SECONDS: u64 = 5;

/// How long a token is valid (semantics 31); the kubelet renews it in time.
const TOKEN_SECONDS: u32 = 600;

/// What is the same for all pods of an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// The image of the proxy and of the init container.
    pub image: String,
    /// Where proxies find the control plane: `HOST:PORT`.
    pub control_plane: String,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// Who sets the redirect.
    pub redirect: Redirect,
    /// What kind of container the proxy is, where a pod says nothing else.
    pub sidecar: Sidecar,
}

/// What kind of container the proxy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sidecar {
    /// An init container that keeps running: Kubernetes 1.29 and later.
    #[default]
    Native,
    /// The first of the ordinary ones, which those behind it wait for by its hook. It ends with the pod and not after it, and a Job
    /// never completes.
    Ordinary,
}

impl FromStr for Sidecar {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "native" => Ok(Self::Native),
            "ordinary" => Ok(Self::Ordinary),
            _ => Err("expected native or ordinary".to_owned()),
        }
    }
}

/// Who sets the redirect of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// The CNI plugin, from outside of the pod. In the pod nobody may, and a container proves that it was done.
    Cni,
    /// An init container, which may.
    #[default]
    Init,
}

impl FromStr for Redirect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cni" => Ok(Self::Cni),
            "init" => Ok(Self::Init),
            _ => Err("expected init or cni".to_owned()),
        }
    }
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
    match installation.redirect {
        Redirect::Cni => drop(annotations.insert(REDIRECT.to_owned(), json!(plugin_options(&settings)?))),
        // Whoever wrote it did not mean a pod that sets its own.
        Redirect::Init => drop(annotations.remove(REDIRECT)),
    }
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut).ok_or_else(|| misshapen("spec"))?;
    let probes = probes::rewrite(spec, &settings, &key)?;
    let init = init_container(&settings, installation);
    let proxy = proxy_container(&settings, installation, probes.as_deref());
    match settings.sidecar.unwrap_or(installation.sidecar) {
        Sidecar::Native => {
            let containers = array_in(spec, "initContainers").ok_or_else(|| misshapen("spec.initContainers"))?;
            containers.splice(0..0, native(proxy, init, installation.redirect));
        }
        Sidecar::Ordinary => {
            // While the other init containers run there is no proxy yet that their connections could be turned to.
            array_in(spec, "initContainers").ok_or_else(|| misshapen("spec.initContainers"))?.push(init);
            let grace =
                spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(probes::GRACE_SECONDS);
            let containers = array_in(spec, "containers").ok_or_else(|| misshapen("spec.containers"))?;
            containers.insert(0, ordinary(proxy, grace));
        }
    }
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

/// What the CNI plugin is told, in the words in which it reads.
fn plugin_options(settings: &PodSettings) -> Result<String, Vec<Problem>> {
    let mut line = "cni".to_owned();
    for (name, list) in skips(settings) {
        line.extend([" ", name, "=", &list]);
    }
    let problem =
        |error: AnnotationError| vec![Problem { field: "metadata.annotations".to_owned(), message: error.to_string() }];
    Ok(Options::from_annotation(&line).map_err(problem)?.to_annotation())
}

/// What is not captured: each list that is not empty, as it is written.
fn skips(settings: &PodSettings) -> impl Iterator<Item = (&'static str, String)> {
    fn joined<T: ToString>(list: &[T]) -> String {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
    let lists = [
        (SKIP_INBOUND_PORTS, joined(&settings.skip_inbound_ports)),
        ("skip-outbound-ports", joined(&settings.skip_outbound_ports)),
        ("skip-outbound-cidrs", joined(&settings.skip_outbound_cidrs)),
    ];
    lists.into_iter().filter(|(_, list)| !list.is_empty())
}

/// Sets the rules and proves them, or proves those of the CNI plugin. For the first it needs one capability, which as any user but
/// root it would not get; for the second none, and it is nobody in particular, as the proxy's own connections would not be caught.
fn init_container(settings: &PodSettings, installation: &Installation) -> Value {
    let (user, capabilities, task) = match installation.redirect {
        Redirect::Cni => (
            PROVER_UID,
            json!({"drop": ["ALL"]}),
            vec![("WEFT_PROVE_CAPTURE", "true".to_owned()), ("WEFT_WAIT", PLUGIN_WAIT_SECONDS.to_string())],
        ),
        Redirect::Init => (0, json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}), Vec::new()),
    };
    // Every flag of weft-init is a variable too.
    let variable = |name: &str| format!("WEFT_{}", name.replace('-', "_").to_uppercase());
    let skips = skips(settings).map(|(name, list)| (variable(name), list));
    let task = task.into_iter().map(|(name, value)| (name.to_owned(), value));
    let env: Vec<Value> = skips.chain(task).map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "name": INIT_CONTAINER,
        "image": installation.image,
        "command": ["/weft-init"],
        "env": env,
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": capabilities,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": user != 0,
            "runAsUser": user,
            "runAsGroup": user,
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

/// The proxy keeps running, and no other container starts before it is ready.
///
/// The container that sets the rules comes behind it and waits for it: what a startup probe has found the kubelet acts upon only when it
/// has looked at the pod's containers once more, a second later (measured: docs/measurements). Who only proves rules is the first, so that
/// the CNI plugin's DaemonSet sees at once which pods have none.
fn native(mut proxy: Value, mut init: Value, redirect: Redirect) -> [Value; 2] {
    proxy["restartPolicy"] = json!("Always");
    match redirect {
        Redirect::Cni => [init, proxy],
        Redirect::Init => {
            if let Some(proxy) = proxy.as_object_mut() {
                proxy.remove("startupProbe");
            }
            if let Some(env) = init.get_mut("env").and_then(Value::as_array_mut) {
                env.push(json!({"name": "WEFT_UNTIL_READY", "value": "true"}));
            }
            [proxy, init]
        }
    }
}

/// The kubelet starts no container before the hook of the one before it has ended. All are told to end at once: for a while the proxy
/// is not, so that what the others still send gets through. Half of the pod's time at most, for the drain takes some of it too.
fn ordinary(mut proxy: Value, grace_seconds: u64) -> Value {
    let linger = LINGER_SECONDS.min(grace_seconds / 2);
    let hook =
        |task: &str, seconds: u64| json!({"exec": {"command": ["/weft-init", task, format!("--wait={seconds}")]}});
    proxy["lifecycle"] = json!({"postStart": hook("--await-proxy", START_SECONDS)});
    if linger > 0 {
        proxy["lifecycle"]["preStop"] = hook("--linger", linger);
    }
    proxy
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
