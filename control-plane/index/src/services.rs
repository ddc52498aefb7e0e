//! Services, as they are meant.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_model::identity::is_dns_label;
use weft_model::{AppProtocol, ServiceKey};

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
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let message = "Local is not honoured: which node a workload runs on is not known here";
        problems.push(Problem::refused("spec.internalTrafficPolicy", message));
    }
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
        ips: cluster_ips(spec.cluster_ip.as_deref(), spec.cluster_ips.as_deref().unwrap_or_default(), &mut problems),
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
