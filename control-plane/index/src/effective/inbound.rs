//! What a workload's own proxy needs to know.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::policy::AuthzPolicy;
use weft_model::resources::{InboundPort, InboundSpec, Lifecycle};
use weft_model::{AppProtocol, ServiceKey};

use super::EffectiveMesh;
use crate::policies::Target;
use crate::policies::authorization::{AuthzEntry, Scope};
use crate::read::selector_selects;
use crate::services::ServiceEntry;
use crate::workloads::WorkloadEntry;

/// What is said about a workload.
pub(crate) struct InboundParts<'a> {
    pub(crate) workload: &'a WorkloadEntry,
    /// Services that select it.
    pub(crate) services: &'a [&'a ServiceEntry],
    pub(crate) mesh: EffectiveMesh,
    pub(crate) authz: Vec<AuthzPolicy>,
    pub(crate) lifecycle: Lifecycle,
}

/// Puts a workload's inbound configuration together.
pub(crate) fn inbound(parts: InboundParts<'_>) -> InboundSpec {
    let InboundParts { workload, services, mesh, authz, lifecycle } = parts;
    let targets = services.iter().flat_map(|s| s.ports.values()).filter_map(|port| workload.target(port));
    let known: BTreeSet<u16> = targets
        .chain(workload.ports.keys().copied())
        .chain(workload.probes.keys().copied())
        .chain(mesh.mtls_ports.keys().copied())
        .chain(mesh.protocols.keys().copied())
        .collect();
    let ports = known.into_iter().map(|port| {
        let (protocol, service) = port_facts(workload, services, &mesh.protocols, port);
        let probes = workload.probes.get(&port).into_iter().flatten();
        InboundPort {
            port,
            protocol,
            mtls: mesh.mtls_ports.get(&port).copied().unwrap_or(mesh.mtls),
            service,
            open_paths: probes.cloned().collect(),
        }
    });
    InboundSpec {
        workload: workload.name.clone(),
        ports: ports.collect(),
        mtls: mesh.mtls,
        default_authorization: mesh.default_authorization,
        default_policy: mesh.default_policy,
        authz,
        lifecycle,
    }
}

/// What a port of a workload speaks and whose target it is.
///
/// The protocol is what the Services that lead there declare, where they agree; else what the Workload itself declares;
/// else what a `MeshPolicy` says. The Service is named where exactly one leads there.
pub(crate) fn port_facts(
    workload: &WorkloadEntry,
    services: &[&ServiceEntry],
    protocols: &BTreeMap<u16, AppProtocol>,
    port: u16,
) -> (AppProtocol, Option<ServiceKey>) {
    let mut keys = Vec::new();
    let mut declared = BTreeSet::new();
    for service in services {
        for (number, entry) in &service.ports {
            if workload.target(entry) == Some(port) {
                keys.push(service.key(*number));
                declared.insert(entry.protocol);
            }
        }
    }
    declared.remove(&AppProtocol::Undeclared);
    let by_service = if declared.len() == 1 { declared.pop_first() } else { None };
    let by_workload = Some(workload.declared(port)).filter(|protocol| *protocol != AppProtocol::Undeclared);
    let protocol = by_service.or(by_workload).or_else(|| protocols.get(&port).copied()).unwrap_or_default();
    let service = if keys.len() == 1 { keys.pop() } else { None };
    (protocol, service)
}

/// The policies that select a workload, each narrowed to it: what is attached to a Service becomes the target ports.
pub(crate) fn authz<'a>(
    workload: &WorkloadEntry,
    services: &[&ServiceEntry],
    candidates: impl Iterator<Item = &'a AuthzEntry>,
) -> Vec<AuthzPolicy> {
    candidates
        .filter_map(|policy| {
            let ports = match &policy.scope {
                Scope::Namespace => Vec::new(),
                Scope::Selector(selector) if selector_selects(selector, &workload.labels) => Vec::new(),
                Scope::Selector(_) => return None,
                Scope::Services(targets) => {
                    let ports = target_ports(workload, services, targets);
                    if ports.is_empty() {
                        // Empty would mean "all ports".
                        return None;
                    }
                    ports
                }
            };
            Some(AuthzPolicy { id: policy.id.clone(), action: policy.action, ports, rules: policy.rules.clone() })
        })
        .collect()
}

fn target_ports(workload: &WorkloadEntry, services: &[&ServiceEntry], targets: &[Target]) -> Vec<u16> {
    let mut ports = BTreeSet::new();
    for target in targets {
        for service in services.iter().filter(|service| service.name == target.service) {
            let meant = service.ports_meant(None, target.section.as_deref());
            ports.extend(meant.filter_map(|(_, entry)| workload.target(entry)));
        }
    }
    ports.into_iter().collect()
}
