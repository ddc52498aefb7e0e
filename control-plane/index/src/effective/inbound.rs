//! What a workload's own proxy needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::bounds::{AUTHZ_ALTERNATIVES_MAX, AUTHZ_POLICIES_MAX, INBOUND_PORTS_MAX};
use weft_model::policy::{AuthzAction, AuthzPolicy, AuthzRule, MtlsMode};
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
    let mode = |port: &u16| mesh.mtls_ports.get(port).copied().unwrap_or(mesh.mtls);
    let mut known: Vec<u16> = known_ports(workload, services, &mesh).into_iter().collect();
    let mut others = mesh.mtls;
    if known.len() > INBOUND_PORTS_MAX {
        // What is left out gets the mode of all others: nothing that was to be strict may become less.
        known.sort_by_key(|port| mode(port) == MtlsMode::Permissive);
        if known.split_off(INBOUND_PORTS_MAX).iter().any(|port| mode(port) == MtlsMode::Strict) {
            others = MtlsMode::Strict;
        }
        known.sort_unstable();
    }
    let ports = known.into_iter().map(|port| {
        let (protocol, service) = port_facts(workload, services, &mesh.protocols, port);
        let paths = |open: &BTreeMap<u16, BTreeSet<Arc<str>>>| open.get(&port).into_iter().flatten().cloned().collect();
        let (probe_paths, scrape_paths) = (paths(&workload.probes), paths(&workload.scrapes));
        InboundPort { port, protocol, mtls: mode(&port), service, probe_paths, scrape_paths }
    });
    InboundSpec {
        workload: workload.name.clone(),
        ports: ports.collect(),
        mtls: others,
        default_authorization: mesh.default_authorization,
        default_policy: mesh.default_policy,
        authz,
        lifecycle,
    }
}

/// Ports of a workload about which anything is said.
pub(crate) fn known_ports(workload: &WorkloadEntry, services: &[&ServiceEntry], mesh: &EffectiveMesh) -> BTreeSet<u16> {
    let targets = services.iter().flat_map(|s| s.ports.values()).filter_map(|port| workload.target(port));
    targets
        .chain(workload.ports.keys().copied())
        .chain(workload.probes.keys().copied())
        .chain(workload.scrapes.keys().copied())
        .chain(mesh.mtls_ports.keys().copied())
        .chain(mesh.protocols.keys().copied())
        .collect()
}

/// As many policies as one answer holds. What only audits goes first; where the others are too many, nobody is let in:
/// to leave one out could open what it closes.
pub(crate) fn bounded(mut policies: Vec<AuthzPolicy>) -> Vec<AuthzPolicy> {
    if policies.len() > AUTHZ_POLICIES_MAX {
        policies.retain(|policy| policy.action != AuthzAction::Audit);
    }
    if policies.len() > AUTHZ_POLICIES_MAX {
        policies.truncate(AUTHZ_POLICIES_MAX);
        if let Some(last) = policies.last_mut() {
            last.action = AuthzAction::Deny;
            last.ports = Vec::new();
            last.rules = vec![AuthzRule::default()];
        }
    }
    policies
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
                    match (ports.len(), policy.action) {
                        // Empty would mean "all ports".
                        (0, _) => return None,
                        (1..=AUTHZ_ALTERNATIVES_MAX, _) => ports,
                        // Too many to be named are all: it denies more, or lets nobody in.
                        (_, AuthzAction::Deny) => Vec::new(),
                        (_, AuthzAction::Allow) => return Some(closing(policy)),
                        (_, AuthzAction::Audit) => return None,
                    }
                }
            };
            Some(AuthzPolicy { id: policy.id.clone(), action: policy.action, ports, rules: policy.rules.clone() })
        })
        .collect()
}

/// An ALLOW that selects every port and lets nobody in.
fn closing(policy: &AuthzEntry) -> AuthzPolicy {
    AuthzPolicy { id: policy.id.clone(), action: AuthzAction::Allow, ports: Vec::new(), rules: Vec::new() }
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
