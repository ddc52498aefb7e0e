//! Services, as they are meant.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_model::identity::is_dns_label;
use weft_model::{AppProtocol, ServiceKey};

use crate::near::Reach;
use crate::object::Name;
use crate::problem::Problem;
use crate::read::{Read, dialable, port, selects};

/// A Service, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) name: Name,
    /// Addresses that lead to it; none for headless ones.
    pub(crate) ips: Vec<IpAddr>,
    /// TCP ports, by number; others are not the mesh's.
    pub(crate) ports: BTreeMap<u16, PortEntry>,
    /// Labels of its workloads. `None`: only slices give it endpoints.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) publish_not_ready: bool,
    pub(crate) client_ip_affinity: bool,
    /// Families of the addresses that its endpoints have. `None`: any, which is so where nothing is said about it.
    pub(crate) families: Option<Families>,
    pub(crate) reach: Reach,
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// Whether an address is of one of them.
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortEntry {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) target: Target,
    /// What `appProtocol` or the name declares.
    pub(crate) protocol: AppProtocol,
}

/// Which port of a workload a Service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Name(Arc<str>),
    Number(u16),
}

impl ServiceEntry {
    pub(crate) fn key(&self, port: u16) -> ServiceKey {
        ServiceKey { namespace: Arc::clone(&self.name.namespace), name: Arc::clone(&self.name.name), port }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = ServiceKey> + '_ {
        self.ports.keys().map(|port| self.key(*port))
    }

    /// Whether it selects workloads with these labels.
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|wanted| selects(wanted, labels))
    }

    /// Its ports that a reference means: all, one by number, one by name.
    pub(crate) fn ports_meant<'a>(
        &'a self,
        number: Option<u16>,
        name: Option<&'a str>,
    ) -> impl Iterator<Item = (u16, &'a PortEntry)> + 'a {
        self.ports
            .iter()
            .map(|(n, entry)| (*n, entry))
            .filter(move |(n, entry)| number.is_none_or(|wanted| wanted == *n) && entry.is_called(name))
    }
}

impl PortEntry {
    fn is_called(&self, name: Option<&str>) -> bool {
        name.is_none_or(|wanted| self.name.as_deref() == Some(wanted))
    }
}

/// Reads a Service.
pub(crate) fn read(name: &Name, service: &Service) -> Read<ServiceEntry> {
    let Some(spec) = &service.spec else {
        return Read::refused(Problem::refused("spec", "a Service without spec says nothing"));
    };
    if !is_dns_label(&name.name) {
        let message = "not a DNS label (at most 63 lower-case letters, digits and '-'), as a Service's name is";
        return Read::refused(Problem::refused("metadata.name", message));
    }
    let mut problems = Vec::new();
    if spec.type_.as_deref() == Some("ExternalName") {
        problems.push(Problem::refused("spec.type", "ExternalName is only a DNS alias; the mesh does not route it"));
    }
    let ips = cluster_ips(spec.cluster_ip.as_deref(), spec.cluster_ips.as_deref().unwrap_or_default(), &mut problems);
    let mut ports = BTreeMap::new();
    for (i, written) in spec.ports.iter().flatten().enumerate() {
        match read_port(written) {
            Ok(None) => {
                problems.push(Problem::notice(format!("spec.ports[{i}].protocol"), "only TCP is the mesh's"));
            }
            Ok(Some((number, entry))) => {
                if ports.insert(number, entry).is_some() {
                    let message = format!("port {number} stands here twice; the last one counts");
                    problems.push(Problem::refused(format!("spec.ports[{i}].port"), message));
                }
            }
            Err((field, message)) => problems.push(Problem::refused(format!("spec.ports[{i}].{field}"), message)),
        }
    }
    let affinity = spec.session_affinity.as_deref();
    if spec.session_affinity_config.is_some() {
        let message = "the timeout is not honoured: affinity lasts as long as the endpoint";
        problems.push(Problem::notice("spec.sessionAffinityConfig", message));
    }
    let entry = ServiceEntry {
        name: name.clone(),
        families: families(spec.ip_families.as_deref().unwrap_or_default(), &ips, &mut problems),
        reach: reach(service, spec, &mut problems),
        ips,
        ports,
        selector: spec.selector.clone().filter(|selector| !selector.is_empty()),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        client_ip_affinity: affinity == Some("ClientIP"),
    };
    Read { entry: Some(entry), problems }
}

fn read_port(written: &ServicePort) -> Result<Option<(u16, PortEntry)>, (&'static str, String)> {
    if !matches!(written.protocol.as_deref(), None | Some("TCP")) {
        return Ok(None);
    }
    let out_of_range = |number: i32| format!("{number} is not a port (1 to 65535); this port is left out");
    let number = port(written.port).ok_or_else(|| ("port", out_of_range(written.port)))?;
    let target = match &written.target_port {
        None | Some(IntOrString::Int(0)) => Target::Number(number),
        Some(IntOrString::Int(target)) => {
            Target::Number(port(*target).ok_or_else(|| ("targetPort", out_of_range(*target)))?)
        }
        Some(IntOrString::String(name)) => Target::Name(Arc::from(name.as_str())),
    };
    let protocol = AppProtocol::declared(written.app_protocol.as_deref(), written.name.as_deref());
    Ok(Some((number, PortEntry { name: written.name.as_deref().map(Arc::from), target, protocol })))
}

/// The addresses of a Service: `clusterIPs`, or `clusterIP` alone, without `None` and the empty text.
fn cluster_ips(one: Option<&str>, all: &[String], problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let written: Vec<(String, &str)> = if all.is_empty() {
        one.map(|ip| ("spec.clusterIP".to_owned(), ip)).into_iter().collect()
    } else {
        all.iter().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip.as_str())).collect()
    };
    let mut ips = Vec::new();
    for (field, text) in written {
        if text.is_empty() || text == "None" {
            continue;
        }
        match dialable(text) {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Ok(_) => {}
            Err(message) => problems.push(Problem::refused(field, message)),
        }
    }
    ips
}

/// The families that are written, or else those of the Service's addresses.
fn families(written: &[String], ips: &[IpAddr], problems: &mut Vec<Problem>) -> Option<Families> {
    let mut families = Families { v4: ips.iter().any(IpAddr::is_ipv4), v6: ips.iter().any(IpAddr::is_ipv6) };
    for (i, family) in written.iter().enumerate() {
        match family.as_str() {
            "IPv4" => families.v4 = true,
            "IPv6" => families.v6 = true,
            other => {
                let message = format!("{other:?} is neither IPv4 nor IPv6; it is left out");
                problems.push(Problem::refused(format!("spec.ipFamilies[{i}]"), message));
            }
        }
    }
    (families != Families::default()).then_some(families)
}

/// What was written before `trafficDistribution` there was, and under its first name.
const TOPOLOGY_MODE: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// How far the traffic may go: `internalTrafficPolicy` before `trafficDistribution` before the annotation.
fn reach(service: &Service, spec: &ServiceSpec, problems: &mut Vec<Problem>) -> Reach {
    match spec.internal_traffic_policy.as_deref() {
        Some("Local") => return Reach::NodeOnly,
        None | Some("Cluster") => {}
        Some(other) => {
            let message = format!("{other:?} is neither Cluster nor Local; Cluster is taken instead");
            problems.push(Problem::refused("spec.internalTrafficPolicy", message));
        }
    }
    let annotations = service.metadata.annotations.as_ref();
    let written = TOPOLOGY_MODE.iter().find_map(|name| Some((*name, annotations?.get(*name)?)));
    match (spec.traffic_distribution.as_deref(), written) {
        (Some("PreferClose" | "PreferSameZone"), _) => Reach::PreferZone,
        (Some("PreferSameNode"), _) => Reach::PreferNode,
        (Some(other), _) => {
            let message =
                format!("{other:?} is not known (PreferSameZone, PreferClose, PreferSameNode); it is ignored");
            problems.push(Problem::refused("spec.trafficDistribution", message));
            Reach::Anywhere
        }
        (None, Some((_, mode))) if mode.eq_ignore_ascii_case("auto") => Reach::EvenZones,
        (None, Some((name, mode))) if !mode.eq_ignore_ascii_case("disabled") => {
            let message = format!("{mode:?} is neither Auto nor Disabled; it is ignored");
            problems.push(Problem::refused(format!("metadata.annotations[{name}]"), message));
            Reach::Anywhere
        }
        (None, _) => Reach::Anywhere,
    }
}
