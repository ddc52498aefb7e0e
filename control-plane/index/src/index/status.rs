//! What does not hold, and why: what reading a resource found, and what only the others beside it tell.

use std::collections::BTreeSet;

use weft_crds::SYSTEM_NAMESPACE;
use weft_model::bounds::{
    AUTHZ_ALTERNATIVES_MAX, AUTHZ_POLICIES_MAX, ENDPOINTS_MAX, INBOUND_PORTS_MAX, NETWORKS_MAX, ROUTES_MAX,
};

use super::{Index, Slot};
use crate::effective;
use crate::endpoints::EndpointSet;
use crate::object::{Kind, Name, ObjectKey};
use crate::policies::Target;
use crate::policies::authorization::Scope as AuthzScope;
use crate::policies::mesh::{MeshEntry, Scope};
use crate::problem::{ObjectStatus, Problem, Reason};
use crate::routes::RouteEntry;
use crate::services::ServiceEntry;
use crate::workloads::WorkloadEntry;

impl Index {
    /// How a resource stands; `None` for one that is not there.
    pub fn status(&self, key: &ObjectKey) -> Option<ObjectStatus> {
        let name = Name::of(key);
        let mut status = self.own_status(key, &name)?;
        if self.networks.cover().is_widened
            && let Some(ip) = self.addresses(key).into_iter().find(|ip| self.networks.is_outside(*ip))
        {
            let message = format!(
                "{ip} is in none of the mesh's networks. So are {} addresses, and proxies are told at most {NETWORKS_MAX} \
                 networks: they are told wider ones. Add its network to spec.networks of a MeshPolicy in \
                 {SYSTEM_NAMESPACE}, or to --networks",
                self.networks.outside()
            );
            status.problems.push(Problem::notice("", message));
        }
        Some(status)
    }

    fn own_status(&self, key: &ObjectKey, name: &Name) -> Option<ObjectStatus> {
        match key.kind {
            Kind::AuthorizationPolicy => status(self.authz.get(name)?, |policy, problems| {
                if let AuthzScope::Services(targets) = &policy.scope {
                    self.targets_problems(targets, problems);
                    let services = targets.iter().filter_map(|target| {
                        self.service_entry(&target.service).map(|service| (service, target.section.as_deref()))
                    });
                    let ports: usize = services.map(|(service, name)| service.ports_meant(None, name).count()).sum();
                    if ports > AUTHZ_ALTERNATIVES_MAX {
                        let message = format!(
                            "{ports} ports, where {AUTHZ_ALTERNATIVES_MAX} can be named: more than these are closed"
                        );
                        problems.push(Problem::refused("spec.targetRefs", message));
                    }
                }
            }),
            Kind::EndpointSlice => status(self.slices.get(name)?, |slice, problems| {
                if self.service_entry(&slice.service).is_none() {
                    let message = format!("there is no Service {}", slice.service);
                    problems.push(Problem::unresolved("metadata.labels", message));
                }
            }),
            Kind::GrpcRoute | Kind::HttpRoute => {
                status(self.routes.get(key)?, |route, problems| self.route_problems(route, problems))
            }
            Kind::MeshPolicy => status(self.mesh.get(name)?, |policy, problems| {
                self.mesh_problems(name, policy, problems);
            }),
            Kind::Service => status(self.services.get(name)?, |service, problems| {
                self.service_problems(service, problems);
            }),
            Kind::TrafficPolicy => status(self.traffic.get(name)?, |policy, problems| {
                self.targets_problems(&policy.targets, problems);
                for target in &policy.targets {
                    let Some(service) = self.service_entry(&target.service) else { continue };
                    for (port, _) in service.ports_meant(None, target.section.as_deref()) {
                        let winner = self.traffic_for(service, port).map(|winner| &winner.id);
                        if let Some(winner) = winner.filter(|winner| **winner != policy.id) {
                            let message = format!("{winner} comes first for {}", service.key(port));
                            problems.push(Problem::refused(&*target.field, message));
                        }
                    }
                }
            }),
            Kind::Node => status(self.nodes.get(name)?, |_, _| {}),
            Kind::Pod => status(self.pods.get(name)?, |pod, problems| {
                if let Some(workload) = pod {
                    self.workload_problems(workload, problems);
                }
            }),
            Kind::Workload => status(self.workloads.get(name)?, |workload, problems| {
                if self.pod_entry(name).is_some() {
                    problems.push(Problem::refused("metadata.name", "a Pod is called the same; it comes first"));
                }
                self.workload_problems(workload, problems);
            }),
        }
    }

    fn service_problems(&self, service: &ServiceEntry, problems: &mut Vec<Problem>) {
        for ip in &service.ips {
            if let Some(owner) = self.service_at(*ip).filter(|owner| owner.name != service.name) {
                let message = format!("{ip} belongs to Service {}; it does not lead here", owner.name);
                problems.push(Problem::refused("spec.clusterIP", message));
            }
        }
        for key in service.keys() {
            let count = self.endpoints.get(&key).map_or(0, EndpointSet::len);
            if count > ENDPOINTS_MAX {
                let message = format!("{key} has {count} endpoints; the first {ENDPOINTS_MAX} are used, by address");
                problems.push(Problem::refused("spec.selector", message));
            }
        }
    }

    fn workload_problems(&self, workload: &WorkloadEntry, problems: &mut Vec<Problem>) {
        for ip in &workload.ips {
            if let Some(service) = self.service_at(*ip) {
                let message = format!("{ip} is the address of Service {}", service.name);
                problems.push(Problem::refused("spec.address", message));
            } else if let Some(owner) = self.workload_at(*ip).filter(|owner| owner.name != workload.name) {
                let message = format!("{ip} is taken to be Workload {}", owner.name);
                problems.push(Problem::notice("spec.address", message));
            }
        }
        for service in self.services_of(workload) {
            for (port, entry) in service.ports.iter().filter(|(_, entry)| workload.target(entry).is_none()) {
                let message =
                    format!("{} wants a port {:?} here, and none is called so", service.key(*port), entry.target);
                problems.push(Problem::notice("spec.ports", message));
            }
        }
        let services: Vec<_> = self.services_of(workload).collect();
        let ports = effective::known_ports(workload, &services, &self.mesh_of(workload)).len();
        if ports > INBOUND_PORTS_MAX {
            let message =
                format!("{ports} ports are spoken of, more than {INBOUND_PORTS_MAX}; the others are undeclared");
            problems.push(Problem::refused("spec.ports", message));
        }
        let policies = self.authz_of(workload).len();
        if policies > AUTHZ_POLICIES_MAX {
            let message = format!("{policies} policies select it, more than {AUTHZ_POLICIES_MAX}; everybody is denied");
            problems.push(Problem::refused("", message));
        }
    }

    fn route_problems(&self, route: &RouteEntry, problems: &mut Vec<Problem>) {
        for parent in &route.parents {
            match self.service_entry(&parent.service) {
                None => {
                    let message = format!("there is no Service {}", parent.service);
                    problems.push(Problem::refused(&*parent.field, message).because(Reason::NoMatchingParent));
                }
                Some(service) if service.ports_meant(parent.port, parent.section.as_deref()).next().is_none() => {
                    let message = format!("Service {} has no such port", parent.service);
                    problems.push(Problem::refused(&*parent.field, message).because(Reason::NoMatchingParent));
                }
                Some(service) => {
                    let (mut meant, mut conflicts) = (0, Vec::new());
                    for (port, _) in service.ports_meant(parent.port, parent.section.as_deref()) {
                        meant += 1;
                        let key = service.key(port);
                        let in_force = self.routes_of(&route.name.namespace, service, port);
                        let first = in_force.first().filter(|first| first.kind != route.kind);
                        if in_force.iter().position(|other| other.id == route.id).is_some_and(|at| at >= ROUTES_MAX) {
                            let message =
                                format!("{key} has more than {ROUTES_MAX} routes; this one is left out there");
                            problems.push(Problem::refused(&*parent.field, message));
                        } else if let Some(first) = first {
                            let message = format!(
                                "{} is attached to {key} too, whose kind comes before {}",
                                first.id, route.kind
                            );
                            conflicts.push(message);
                        }
                    }
                    // Where it holds on some ports of a parent, it is attached to it.
                    let is_out = conflicts.len() == meant;
                    problems.extend(conflicts.into_iter().map(|message| {
                        let field = parent.field.as_str();
                        if is_out { Problem::refused(field, message) } else { Problem::notice(field, message) }
                            .because(Reason::Conflicted)
                    }));
                }
            }
        }
        for backend in route.rules.iter().flat_map(|rule| &rule.backends) {
            if let Some((service, port)) = backend.target.as_ref().filter(|(name, port)| !self.has_port(name, *port)) {
                let message = format!("there is no Service {service} with port {port}; its share is answered 500");
                problems.push(Problem::unresolved(&*backend.field, message));
            }
        }
    }

    fn targets_problems(&self, targets: &[Target], problems: &mut Vec<Problem>) {
        for target in targets {
            match self.service_entry(&target.service) {
                None => {
                    let message = format!("there is no Service {}", target.service);
                    problems.push(Problem::unresolved(&*target.field, message));
                }
                Some(service) if service.ports_meant(None, target.section.as_deref()).next().is_none() => {
                    let message = format!("Service {} has no such port", target.service);
                    problems.push(Problem::unresolved(format!("{}.sectionName", target.field), message));
                }
                Some(_) => {}
            }
        }
    }

    /// A policy may not loosen a wider one, and gives way to an older one of its scope.
    fn mesh_problems(&self, name: &Name, policy: &MeshEntry, problems: &mut Vec<Problem>) {
        let mut refused = BTreeSet::new();
        let mut merged = |workload: &WorkloadEntry| {
            for loosened in self.mesh_of(workload).refused.into_iter().filter(|r| r.policy == policy.id) {
                refused.insert((loosened.field, loosened.because));
            }
        };
        match &policy.scope {
            Scope::Cluster => {}
            Scope::Namespace => self.workloads_in(&name.namespace).for_each(|(_, workload)| merged(workload)),
            Scope::Workloads(selector) => {
                self.selected(&name.namespace, &selector.match_labels).for_each(merged);
            }
        }
        for (field, because) in refused {
            problems.push(Problem::refused(field, format!("{because} may not be loosened: it is not overridable")));
        }
        let peers = match &policy.scope {
            Scope::Cluster => self.cluster_policies(),
            Scope::Namespace => self.namespace_policies(&name.namespace),
            Scope::Workloads(_) => Vec::new(),
        };
        for older in peers.into_iter().take_while(|peer| peer.id != policy.id) {
            for field in conflicts(older, policy) {
                problems.push(Problem::refused(field, format!("{} comes first", older.id)));
            }
        }
    }
}

/// Fields that both set.
fn conflicts(first: &MeshEntry, second: &MeshEntry) -> Vec<&'static str> {
    let shared = |a: bool, b: bool, field| (a && b).then_some(field);
    [
        shared(first.mtls.is_some(), second.mtls.is_some(), "spec.mtls.mode"),
        shared(first.mtls_ports.keys().any(|p| second.mtls_ports.contains_key(p)), true, "spec.mtls.ports"),
        shared(first.protocols.keys().any(|p| second.protocols.contains_key(p)), true, "spec.protocols"),
        shared(
            first.default_authorization.is_some(),
            second.default_authorization.is_some(),
            "spec.defaultAuthorization",
        ),
        shared(first.wide.egress.is_some(), second.wide.egress.is_some(), "spec.egress"),
        shared(first.wide.telemetry.is_some(), second.wide.telemetry.is_some(), "spec.telemetry"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The status of a slot: what reading it found, then what `more` finds in what is in force.
fn status<E>(slot: &Slot<E>, more: impl FnOnce(&E, &mut Vec<Problem>)) -> Option<ObjectStatus> {
    let mut problems = slot.problems.clone();
    if let Some(entry) = &slot.entry {
        more(entry, &mut problems);
    }
    Some(ObjectStatus::new(slot.version, slot.is_newest, problems))
}
