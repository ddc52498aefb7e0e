//! Probes and hooks that the proxy performs in the kubelet's place (semantics 41): in the pod each becomes a plain GET of the
//! proxy's admin port, and what it was is told to the proxy. All else of it stays: how often, how long, after how many failures.
//!
//! What is left as it was: commands, probes of another host, of a port that is not captured or is nobody's, and unless all are
//! asked for a GET without TLS, which reaches the application by the exception that policy makes for its port and path. The proxy
//! is told of that one too: it needs it where the application answers with a redirect.

use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use weft_init::Options;
use weft_model::PortRange;
use weft_model::bounds::KNOB_MAX;
use weft_model::kubernetes::ADMIN_PORT;
use weft_model::probes::{Action, HttpGet, Occasion, Probe, Probes, ProbesError};

use crate::annotations::{PodSettings, Problem, Rewrite};

/// Where a container keeps each.
const PROBES: [(&str, Occasion); 3] = [
    ("livenessProbe", Occasion::Liveness),
    ("readinessProbe", Occasion::Readiness),
    ("startupProbe", Occasion::Startup),
];
const HOOKS: [(&str, Occasion); 2] = [("postStart", Occasion::PostStart), ("preStop", Occasion::PreStop)];

/// Kubernetes' own defaults.
const PROBE_SECONDS: u64 = 1;
pub(super) const GRACE_SECONDS: u64 = 30;
/// The kubelet waits for this hook without an end.
const POST_START_SECONDS: u64 = 60 * 60;

/// The ports of the proxy itself, whose probes are nobody's to perform.
const OWN_PORTS: [u16; 3] = [Options::OUTBOUND_PORT.get(), Options::INBOUND_PORT.get(), Options::ADMIN_PORT.get()];

/// What callers of a pod's hooks must know.
pub(super) fn key(pod: &Value, salt: &str) -> String {
    let text = format!("weft hook\n{salt}\n{pod}");
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(16).map(|byte| hex(*byte)).collect()
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}")
}

/// Puts the proxy in the place of what it is to perform, and hands back what to tell it, as the value of a variable.
///
/// # Errors
/// What cannot be told, each with its field.
pub(super) fn rewrite(
    spec: &mut Map<String, Value>,
    settings: &PodSettings,
    key: &str,
) -> Result<Option<String>, Vec<Problem>> {
    if settings.rewrite_probes == Rewrite::None {
        return Ok(None);
    }
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(GRACE_SECONDS);
    let rules = Rules { skipped: &settings.skip_inbound_ports, all: settings.rewrite_probes == Rewrite::All };
    let mut found = Found::default();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter(|it| list == "containers" || it["restartPolicy"] == "Always") {
            rules.container(container, key, Duration::from_secs(grace), &mut found);
        }
    }
    let problem = |error: ProbesError| {
        let message = format!("{error}; {} leaves probes as they are", super::NO_REWRITE);
        vec![Problem { field: "spec.containers".to_owned(), message }]
    };
    if found.rewritten.is_empty() && found.left.is_empty() {
        return Ok(None);
    }
    let told = |probes: Vec<Probe>| Probes::new(probes)?.to_json();
    let all = told([&found.rewritten[..], &found.left].concat());
    // A pod is not refused for what would work without.
    let text = all.or_else(|_| told(found.rewritten)).map_err(problem)?;
    // `$(NAME)` in a variable would be replaced by Kubernetes.
    Ok(Some(text.replace('$', "$$")))
}

/// What the proxy is told of.
#[derive(Default)]
struct Found {
    /// In whose place the proxy was put.
    rewritten: Vec<Probe>,
    /// What stayed as it was.
    left: Vec<Probe>,
}

/// What is rewritten.
struct Rules<'a> {
    /// What the kubelet reaches as if there were no proxy.
    skipped: &'a [PortRange],
    /// Also what gets through without.
    all: bool,
}

impl Rules<'_> {
    fn container(&self, container: &mut Value, key: &str, grace: Duration, found: &mut Found) {
        let Some(name) = container["name"].as_str().map(str::to_owned) else { return };
        let ports = container["ports"].clone();
        let mut take = |handler: &mut Value, occasion: Occasion, timeout: Duration, key: Option<&str>| {
            let Some((action, needs)) = self.action(handler, &ports, occasion) else { return };
            let (container, timeout) = (name.clone(), timeout.clamp(Duration::from_secs(1), KNOB_MAX));
            let probe = Probe { container, occasion, action, timeout, key: key.map(str::to_owned) };
            if needs || self.all {
                redirect(handler, &probe);
                found.rewritten.push(probe);
            } else if Probes::new(vec![probe.clone()]).is_ok() {
                found.left.push(probe);
            }
        };
        for (field, occasion) in PROBES {
            let Some(handler) = container.get_mut(field) else { continue };
            let seconds = handler["timeoutSeconds"].as_u64().filter(|seconds| *seconds > 0).unwrap_or(PROBE_SECONDS);
            take(handler, occasion, Duration::from_secs(seconds), None);
        }
        for (field, occasion) in HOOKS {
            let Some(handler) = container.get_mut("lifecycle").and_then(|it| it.get_mut(field)) else { continue };
            let timeout = if occasion == Occasion::PostStart { Duration::from_secs(POST_START_SECONDS) } else { grace };
            take(handler, occasion, timeout, Some(key));
        }
    }

    /// What the proxy would have to do, and whether it has to; `None` where it cannot.
    fn action(&self, handler: &Value, ports: &Value, occasion: Occasion) -> Option<(Action, bool)> {
        let get = handler.get("httpGet").filter(|it| it.is_object());
        // Kubernetes takes this one from before there was any other, and does nothing.
        let tcp = handler.get("tcpSocket").filter(|it| it.is_object() && !occasion.is_hook());
        let grpc = handler.get("grpc").filter(|it| it.is_object());
        let action = if let Some(get) = get {
            let tls = get["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
            let path = target(get["path"].as_str().unwrap_or_default());
            let get = HttpGet { port: self.port(get, ports)?, tls, path, headers: headers(get) };
            (Action::Http(get), tls || occasion.is_hook())
        } else if let Some(tcp) = tcp {
            (Action::Tcp { port: self.port(tcp, ports)? }, true)
        } else {
            let grpc = grpc?;
            let service = grpc["service"].as_str().unwrap_or_default().to_owned();
            (Action::Grpc { port: self.port(grpc, ports)?, service }, true)
        };
        Some(action)
    }

    /// The port that is asked, if it is one of the pod's that is captured.
    fn port(&self, asked: &Value, ports: &Value) -> Option<u16> {
        if asked["host"].as_str().is_some_and(|host| !host.is_empty()) {
            return None;
        }
        let number = match &asked["port"] {
            Value::String(name) => {
                let named = ports.as_array().into_iter().flatten().find(|port| port["name"] == name.as_str());
                named.map_or_else(|| name.parse().ok(), |port| port["containerPort"].as_u64())
            }
            number => number.as_u64(),
        };
        let port = u16::try_from(number?).ok().filter(|port| *port != 0 && !OWN_PORTS.contains(port))?;
        (!self.skipped.iter().any(|range| range.contains(port))).then_some(port)
    }
}

/// Leaves of a handler only how often and how long, and turns it to the proxy.
fn redirect(handler: &mut Value, probe: &Probe) {
    let Some(handler) = handler.as_object_mut() else { return };
    for kind in ["grpc", "httpGet", "tcpSocket"] {
        handler.remove(kind);
    }
    handler.insert("httpGet".to_owned(), json!({"path": probe.path(), "port": ADMIN_PORT, "scheme": "HTTP"}));
}

fn headers(get: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let written = get["httpHeaders"].as_array().into_iter().flatten();
    written.map(|header| (text(&header["name"]), text(&header["value"]))).collect()
}

/// A path as it is sent: with the slash before it and without a fragment, and what cannot stand in a request is encoded.
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut target = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        target.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            target.push(char::from(byte));
        } else {
            target.push('%');
            target.push_str(&hex(byte).to_ascii_uppercase());
        }
    }
    target
}

#[cfg(test)]
mod tests;
