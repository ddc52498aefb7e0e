//! Pods, as they are meant: workloads that Kubernetes runs. What is no workload at all — finished, or without an address yet — has
//! no entry, and that is no fault of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_model::bounds::{INBOUND_PORTS_MAX, NAME_BYTES_MAX, OPEN_PATHS_MAX, PATH_BYTES_MAX};
use weft_model::kubernetes::{ADMIN_PORT, PROXY_CONTAINER, SETTINGS_PREFIX, SKIP_INBOUND_PORTS};
use weft_model::ports::entries;
use weft_model::{AppProtocol, PortRange, SpiffeId, WorkloadName};

use crate::index::IndexConfig;
use crate::object::Name;
use crate::problem::Problem;
use crate::read::{Read, dialable, plain, port};
use crate::workloads::{WorkloadEntry, WorkloadPortEntry};

/// The zone, as it stands on nodes, and as Kubernetes writes it onto pods from 1.35 on.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What users write onto pods for scrapers, by a custom that Prometheus' own examples began.
const SCRAPE: &str = "prometheus.io/scrape";
const SCRAPE_PORT: &str = "prometheus.io/port";
const SCRAPE_PATH: &str = "prometheus.io/path";
/// What scrapers read where nothing else is written.
const SCRAPE_PATH_DEFAULT: &str = "/metrics";
/// What they ask where no port is written, and none declared.
const SCRAPE_PORT_DEFAULT: u16 = 80;

/// Reads a Pod. An entry of `Some(None)`: it is no workload now.
pub(crate) fn read(name: &Name, pod: &Pod, config: &IndexConfig) -> Read<Option<WorkloadEntry>> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return nothing() };
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if is_over {
        return nothing();
    }
    let ips = match addresses(status) {
        Ok(ips) if ips.is_empty() => return nothing(),
        Ok(ips) => ips,
        Err(problem) => return Read::refused(problem),
    };
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let identity = match SpiffeId::new(&config.trust_domain, &name.namespace, account) {
        Ok(identity) => identity,
        Err(error) => return Read::refused(Problem::refused("spec.serviceAccountName", error.to_string())),
    };
    let mut problems = Vec::new();
    let host_network = spec.host_network.unwrap_or(false);
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let ports = ports(spec, &mut problems);
    let node = spec.node_name.as_deref().filter(|node| !node.is_empty());
    let entry = WorkloadEntry {
        name: WorkloadName { namespace: Arc::clone(&name.namespace), name: Arc::clone(&name.name) },
        ips,
        // The node's address is that of many pods, and of none.
        owns_address: !host_network,
        identity,
        meshed: !host_network && containers(spec).any(|container| container.name == PROXY_CONTAINER),
        zone: zone_of(&labels),
        node: node.map(Arc::from),
        labels,
        scrapes: scrapes(pod, &ports, &mut problems),
        ports,
        uid: pod.metadata.uid.as_deref().map(Arc::from),
        skip: skipped(pod, &mut problems),
        ready: status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        weight: 1,
        probes: probes(spec, &mut problems),
    };
    Read { entry: Some(Some(entry)), problems }
}

/// The zone that labels name.
pub(crate) fn zone_of(labels: &BTreeMap<String, String>) -> Option<Arc<str>> {
    let zone = labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty() && plain(zone, NAME_BYTES_MAX).is_ok());
    zone.map(|zone| Arc::from(zone.as_str()))
}

/// Every address of a pod, the one that it is known by first.
fn addresses(status: &PodStatus) -> Result<Vec<IpAddr>, Problem> {
    let one = [("status.podIP".to_owned(), status.pod_ip.as_deref().unwrap_or_default())];
    let more = status.pod_ips.iter().flatten().enumerate();
    let more = more.map(|(i, pod_ip)| (format!("status.podIPs[{i}].ip"), pod_ip.ip.as_str()));
    let mut ips = Vec::new();
    for (field, text) in one.into_iter().chain(more).filter(|(_, text)| !text.is_empty()) {
        let ip = dialable(text).map_err(|message| Problem::refused(field, message))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

fn nothing() -> Read<Option<WorkloadEntry>> {
    Read { entry: Some(None), problems: Vec::new() }
}

/// Containers that run as long as the pod does: also those among the init containers that are restarted.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

fn ports(spec: &PodSpec, problems: &mut Vec<Problem>) -> BTreeMap<u16, WorkloadPortEntry> {
    let mut ports = BTreeMap::new();
    for written in containers(spec).flat_map(|container| container.ports.iter().flatten()) {
        if !matches!(written.protocol.as_deref(), None | Some("TCP")) {
            continue;
        }
        let Some(number) = port(written.container_port) else { continue };
        if ports.len() >= INBOUND_PORTS_MAX {
            let message =
                format!("more than {INBOUND_PORTS_MAX}; those beyond are treated as if they were not declared");
            problems.push(Problem::refused("spec.containers", message));
            break;
        }
        let protocol = AppProtocol::declared(None, written.name.as_deref());
        ports.insert(number, WorkloadPortEntry { name: written.name.as_deref().map(Arc::from), protocol });
    }
    ports
}

fn skipped(pod: &Pod, problems: &mut Vec<Problem>) -> BTreeSet<u16> {
    let annotations = pod.metadata.annotations.as_ref();
    let setting = format!("{SETTINGS_PREFIX}{SKIP_INBOUND_PORTS}");
    let text = annotations.and_then(|all| all.get(&setting)).map(String::as_str).unwrap_or_default();
    let mut skip = BTreeSet::new();
    for entry in entries(text) {
        match entry.parse::<PortRange>() {
            Ok(range) => skip.extend(range.first()..=range.last()),
            Err(_) => {
                let message = format!("{entry:?} is not {}; it is left out", PortRange::EXPECTED);
                problems.push(Problem::refused(format!("metadata.annotations[{setting}]"), message));
            }
        }
    }
    skip
}

/// What the kubelet asks for in the clear, exactly (semantics 41). What it asks of the proxy, for itself or in the place of what
/// the injector has put there, opens nothing.
fn probes(spec: &PodSpec, problems: &mut Vec<Problem>) -> BTreeMap<u16, BTreeSet<Arc<str>>> {
    let mut open = BTreeMap::<u16, BTreeSet<Arc<str>>>::new();
    for container in containers(spec) {
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        let gets = probes.into_iter().flatten().filter_map(|probe| probe.http_get.as_ref());
        for get in gets.filter(|get| is_plain_and_ours(get)) {
            let Some(number) = probed_port(get, container).filter(|port| *port != ADMIN_PORT) else { continue };
            let path = path_of(get.path.as_deref().unwrap_or_default());
            let paths = open.entry(number).or_default();
            if paths.len() >= OPEN_PATHS_MAX || plain(&path, PATH_BYTES_MAX).is_err() {
                let message =
                    format!("port {number} is probed at too many, too long or odd paths; {path:?} is not kept open");
                problems.push(Problem::refused("spec.containers", message));
                continue;
            }
            paths.insert(Arc::from(path));
        }
    }
    open
}

/// Whether it is the pod that is asked, and in the clear: nothing is seen of the paths in the application's own TLS.
fn is_plain_and_ours(get: &HTTPGetAction) -> bool {
    let is_tls = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    !is_tls && get.host.as_deref().is_none_or(str::is_empty)
}

fn probed_port(get: &HTTPGetAction, container: &Container) -> Option<u16> {
    match &get.port {
        IntOrString::Int(number) => port(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|found| port(found.container_port)).or_else(|| name.parse().ok().and_then(port))
        }
    }
}

/// What scrapers are asked to read, exactly (semantics 41).
fn scrapes(
    pod: &Pod,
    ports: &BTreeMap<u16, WorkloadPortEntry>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<u16, BTreeSet<Arc<str>>> {
    let annotations = pod.metadata.annotations.as_ref();
    let written = |name: &str| annotations.and_then(|all| all.get(name)).map(|text| text.trim());
    let mut refused = |name: &str, message: String| {
        problems.push(Problem::refused(format!("metadata.annotations[{name}]"), message));
        BTreeMap::new()
    };
    if written(SCRAPE) != Some("true") {
        return BTreeMap::new();
    }
    let path = path_of(written(SCRAPE_PATH).unwrap_or(SCRAPE_PATH_DEFAULT));
    if let Err(message) = plain(&path, PATH_BYTES_MAX) {
        return refused(SCRAPE_PATH, format!("{message}; nothing is kept open for scrapes"));
    }
    let numbers = match written(SCRAPE_PORT).map(|text| (text, text.parse().ok().and_then(port))) {
        Some((_, Some(number))) => vec![number],
        Some((text, None)) => {
            return refused(SCRAPE_PORT, format!("{text:?} is not a port; nothing is kept open for scrapes"));
        }
        // Then a scraper asks every port that is declared.
        None => {
            let declared: Vec<u16> = ports.keys().copied().filter(|port| *port != ADMIN_PORT).collect();
            if declared.is_empty() { vec![SCRAPE_PORT_DEFAULT] } else { declared }
        }
    };
    let paths = BTreeSet::from([Arc::from(path)]);
    numbers.into_iter().filter(|port| *port != ADMIN_PORT).map(|port| (port, paths.clone())).collect()
}

/// The path as a policy sees it: without a query, with the slash that the kubelet puts before it.
fn path_of(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Read<Option<WorkloadEntry>> {
        let mut pod = json!({
            "metadata": {"name": "cart-0", "namespace": "shop", "uid": "u-1", "labels": {"app": "cart"},
                "annotations": {"config.weft.dev/skip-inbound-ports": "9100, 8000-8002, none"}},
            "spec": {
                "serviceAccountName": "cart",
                "initContainers": [{"name": "weft-proxy", "restartPolicy": "Always"}, {"name": "migrate"}],
                "containers": [{"name": "cart", "ports": [{"name": "http-api", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
                    "readinessProbe": {"httpGet": {"path": "healthz?full=1", "port": "http-api"}},
                    "livenessProbe": {"tcpSocket": {"port": 8080}}}],
            },
            "status": {"phase": "Running", "podIP": "10.244.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        let name = Name::new("shop", "cart-0");
        read(&name, &serde_json::from_value(pod).unwrap(), &IndexConfig::default())
    }

    #[test]
    fn a_pod_is_a_workload() {
        let Read { entry, problems } = pod(|_| {});
        let entry = entry.flatten().unwrap();
        assert_eq!(entry.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!((entry.ips[0].to_string().as_str(), entry.meshed, entry.ready), ("10.244.0.7", true, true));
        assert_eq!(entry.uid.as_deref(), Some("u-1"));
        assert_eq!(entry.ports.keys().copied().collect::<Vec<_>>(), [8080]);
        assert!(entry.declared(8080).is_http());
        assert_eq!(entry.skip, BTreeSet::from([8000, 8001, 8002, 9100]));
        assert_eq!(entry.probes, BTreeMap::from([(8080, BTreeSet::from([Arc::from("/healthz")]))]));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("\"none\""), "{problems:?}");
    }

    #[test]
    fn what_does_not_run_is_no_workload() {
        for change in [
            (|pod| pod["status"]["podIP"] = Value::Null) as fn(&mut Value),
            |pod| pod["status"]["phase"] = json!("Succeeded"),
            |pod| pod["status"]["phase"] = json!("Failed"),
            |pod| pod["status"] = Value::Null,
        ] {
            let Read { entry, problems } = pod(change);
            assert_eq!((entry, problems), (Some(None), vec![]));
        }
    }

    #[test]
    fn without_the_proxy_or_on_the_hosts_network_nothing_is_proven() {
        let plain = pod(|pod| pod["spec"]["initContainers"] = json!([])).entry.flatten().unwrap();
        assert!(!plain.meshed && plain.owns_address);
        let host = pod(|pod| pod["spec"]["hostNetwork"] = json!(true)).entry.flatten().unwrap();
        assert!(!host.meshed && !host.owns_address);
        // An init container of that name that is not kept running is none of ours.
        let ended = pod(|pod| pod["spec"]["initContainers"] = json!([{"name": "weft-proxy"}])).entry.flatten().unwrap();
        assert!(!ended.meshed);
    }

    fn paths(open: &BTreeMap<u16, BTreeSet<Arc<str>>>) -> Vec<(u16, Vec<&str>)> {
        open.iter().map(|(port, paths)| (*port, paths.iter().map(AsRef::as_ref).collect())).collect()
    }

    #[test]
    fn a_probe_that_goes_by_the_proxy_opens_nothing() {
        let by_proxy = |path: &str| json!({"httpGet": {"path": path, "port": 14003, "scheme": "HTTP"}});
        let entry = pod(|pod| {
            pod["spec"]["initContainers"][0]["startupProbe"] = by_proxy("/ready");
            pod["spec"]["containers"][0]["readinessProbe"] = by_proxy("/probe/cart/readiness");
            pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": 8080}});
            let tls = json!({"httpGet": {"path": "/tls", "port": 8443, "scheme": "HTTPS"}});
            let other = json!({"httpGet": {"path": "/other", "port": 8080, "host": "192.0.2.1"}});
            let others = json!([{"name": "b", "readinessProbe": tls, "livenessProbe": other}]);
            pod["spec"]["containers"].as_array_mut().unwrap().extend(others.as_array().unwrap().clone());
        });
        assert_eq!(paths(&entry.entry.flatten().unwrap().probes), [(8080, vec!["/live"])]);
    }

    #[test]
    fn scrapes_that_annotations_ask_for_are_read() {
        let long = "a".repeat(PATH_BYTES_MAX);
        for (scrape, port, path, ports, want, wrong) in [
            ("true", Some("9090"), Some("/stats"), vec![8080], vec![(9090, vec!["/stats"])], None),
            ("true", Some(" 9090 "), Some("stats?format=text"), vec![], vec![(9090, vec!["/stats"])], None),
            ("true", Some("9090"), None, vec![], vec![(9090, vec!["/metrics"])], None),
            ("true", None, None, vec![8080, 9100], vec![(8080, vec!["/metrics"]), (9100, vec!["/metrics"])], None),
            ("true", None, None, vec![14003], vec![(80, vec!["/metrics"])], None),
            ("true", Some("14003"), None, vec![], vec![], None),
            ("false", Some("9090"), None, vec![], vec![], None),
            ("yes", Some("9090"), None, vec![], vec![], None),
            ("true", Some("http"), None, vec![], vec![], Some("metadata.annotations[prometheus.io/port]")),
            ("true", Some("0"), None, vec![], vec![], Some("metadata.annotations[prometheus.io/port]")),
            ("true", None, Some(&*long), vec![], vec![], Some("metadata.annotations[prometheus.io/path]")),
            ("true", None, Some("/a\tb"), vec![], vec![], Some("metadata.annotations[prometheus.io/path]")),
        ] {
            let Read { entry, problems } = pod(|pod| {
                let annotations = [(SCRAPE, Some(scrape)), (SCRAPE_PORT, port), (SCRAPE_PATH, path)];
                let annotations = annotations.into_iter().filter_map(|(name, text)| Some((name, text?)));
                pod["metadata"]["annotations"] = annotations.collect();
                let ports: Vec<Value> = ports.iter().map(|port| json!({"containerPort": port})).collect();
                pod["spec"]["containers"][0]["ports"] = json!(ports);
            });
            assert_eq!(paths(&entry.flatten().unwrap().scrapes), want, "{scrape} {port:?} {path:?}");
            let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(fields, Vec::from_iter(wrong), "{scrape} {port:?} {path:?}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_terminates() {
        let entry = pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")).entry.flatten();
        assert!(entry.unwrap().terminating);
    }
}
