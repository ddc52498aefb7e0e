//! Whom a resource concerns.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::ServiceKey;

use super::{Affected, Index};
use crate::object::{Kind, Name, ObjectKey};
use crate::policies::authorization::Scope;
use crate::policies::mesh;
use crate::services::ServiceEntry;
use crate::slices::SliceEntry;
use crate::workloads::WorkloadEntry;

impl Index {
    /// The answers that a resource has a part in, as things stand.
    pub fn concerns(&self, key: &ObjectKey) -> BTreeSet<Affected> {
        let mut affected = self.own_concerns(key);
        if self.addresses(key).into_iter().any(|ip| self.networks.is_outside(ip)) {
            affected.insert(Affected::Mesh);
        }
        affected
    }

    /// Addresses that a resource names.
    pub(super) fn addresses(&self, key: &ObjectKey) -> Vec<IpAddr> {
        let name = Name::of(key);
        match key.kind {
            Kind::EndpointSlice => {
                let slice = self.slices.get(&name).and_then(|slot| slot.entry.as_ref());
                slice.into_iter().flat_map(SliceEntry::ips).collect()
            }
            Kind::Service => self.service_entry(&name).map(|service| service.ips.clone()).unwrap_or_default(),
            Kind::Pod | Kind::Workload => {
                self.workload_entry(&name).map(|workload| workload.own_ips().to_vec()).unwrap_or_default()
            }
            Kind::AuthorizationPolicy
            | Kind::GrpcRoute
            | Kind::HttpRoute
            | Kind::MeshPolicy
            | Kind::Node
            | Kind::TrafficPolicy => Vec::new(),
        }
    }

    /// As [`Index::concerns`], without the networks of the mesh, of which every resource with an address has a part but
    /// which its changes seldom change.
    pub(super) fn own_concerns(&self, key: &ObjectKey) -> BTreeSet<Affected> {
        let name = Name::of(key);
        let mut affected = BTreeSet::new();
        match key.kind {
            Kind::AuthorizationPolicy => self.authz_concerns(&name, &mut affected),
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.get(&name).and_then(|slot| slot.entry.as_ref()) {
                    self.each_port(&slice.service, |key| affected.extend([Affected::Endpoints(key)]));
                }
            }
            Kind::GrpcRoute | Kind::HttpRoute => {
                if let Some(route) = self.routes.get(key).and_then(|slot| slot.entry.as_ref()) {
                    for parent in &route.parents {
                        self.each_port(&parent.service, |key| affected.extend([Affected::Service(key)]));
                    }
                }
            }
            Kind::MeshPolicy => self.mesh_concerns(&name, &mut affected),
            Kind::Node => {
                let near = self.endpoints.iter().filter(|(_, set)| set.has_near());
                affected.extend(near.map(|(key, _)| Affected::Endpoints(key.clone())));
                for workload in self.workloads_by_node.of(&name.name).filter_map(|name| self.workload_entry(name)) {
                    self.workload_concerns(workload, &mut affected);
                }
            }
            Kind::Service => {
                if let Some(service) = self.service_entry(&name) {
                    self.service_concerns(service, &mut affected);
                }
            }
            Kind::TrafficPolicy => {
                if let Some(policy) = self.traffic.get(&name).and_then(|slot| slot.entry.as_ref()) {
                    for target in &policy.targets {
                        self.each_port(&target.service, |key| {
                            affected.extend([Affected::Service(key.clone()), Affected::Endpoints(key)]);
                        });
                    }
                }
            }
            Kind::Pod | Kind::Workload => {
                if let Some(workload) = self.workload_entry(&name) {
                    self.workload_concerns(workload, &mut affected);
                }
            }
        }
        affected
    }

    fn service_concerns(&self, service: &ServiceEntry, affected: &mut BTreeSet<Affected>) {
        affected.extend(service.ips.iter().map(|ip| Affected::Destination(*ip)));
        for key in service.keys() {
            affected.extend([Affected::Service(key.clone()), Affected::Endpoints(key)]);
        }
        // A backend that comes or goes changes what the parents of its routes answer.
        for route in self.routes_by_backend.of(&service.name) {
            for parent in
                self.routes.get(route).and_then(|slot| slot.entry.as_ref()).into_iter().flat_map(|r| &r.parents)
            {
                self.each_port(&parent.service, |key| affected.extend([Affected::Service(key)]));
            }
        }
        // The protocol and the Service of a workload's port come from here.
        for workload in self.workloads_of(service) {
            affected.insert(Affected::Inbound(workload.name.clone()));
            affected.extend(destinations(workload));
        }
    }

    fn workload_concerns(&self, workload: &WorkloadEntry, affected: &mut BTreeSet<Affected>) {
        affected.insert(Affected::Inbound(workload.name.clone()));
        affected.extend(destinations(workload));
        for service in self.services_of(workload) {
            affected.extend(service.keys().map(Affected::Endpoints));
        }
        // A slice that names its address names it, too.
        for slice in workload.own_ips().iter().flat_map(|ip| self.slices_by_ip.of(ip)) {
            if let Some(slice) = self.slices.get(slice).and_then(|slot| slot.entry.as_ref()) {
                self.each_port(&slice.service, |key| affected.extend([Affected::Endpoints(key)]));
            }
        }
    }

    fn authz_concerns(&self, name: &Name, affected: &mut BTreeSet<Affected>) {
        let Some(policy) = self.authz.get(name).and_then(|slot| slot.entry.as_ref()) else { return };
        match &policy.scope {
            Scope::Namespace => {
                affected.insert(Affected::InboundOfNamespace(Arc::clone(&name.namespace)));
            }
            Scope::Selector(selector) => {
                let selected = self.selected(&name.namespace, &selector.match_labels);
                affected.extend(selected.map(|w| Affected::Inbound(w.name.clone())));
            }
            Scope::Services(targets) => {
                for service in targets.iter().filter_map(|target| self.service_entry(&target.service)) {
                    affected.extend(self.workloads_of(service).map(|w| Affected::Inbound(w.name.clone())));
                }
            }
        }
    }

    fn mesh_concerns(&self, name: &Name, affected: &mut BTreeSet<Affected>) {
        let Some(policy) = self.mesh.get(name).and_then(|slot| slot.entry.as_ref()) else { return };
        let protocols = !policy.protocols.is_empty();
        match &policy.scope {
            mesh::Scope::Cluster => {
                affected.extend([Affected::InboundEverywhere, Affected::Mesh]);
                if protocols {
                    let services = self.services.values().filter_map(|slot| slot.entry.as_ref());
                    affected.extend(services.flat_map(ServiceEntry::keys).map(Affected::Service));
                    affected.extend(self.workload_entries().flat_map(destinations));
                }
            }
            mesh::Scope::Namespace => {
                affected.insert(Affected::InboundOfNamespace(Arc::clone(&name.namespace)));
                if protocols {
                    let services = self.services_in(&name.namespace);
                    affected.extend(services.flat_map(ServiceEntry::keys).map(Affected::Service));
                    affected.extend(self.workloads_in(&name.namespace).flat_map(|(_, w)| destinations(w)));
                }
            }
            mesh::Scope::Workloads(selector) => {
                for w in self.selected(&name.namespace, &selector.match_labels) {
                    affected.insert(Affected::Inbound(w.name.clone()));
                    affected.extend(destinations(w));
                }
            }
        }
    }

    fn each_port(&self, service: &Name, mut each: impl FnMut(ServiceKey)) {
        if let Some(service) = self.service_entry(service) {
            service.keys().for_each(&mut each);
        }
    }
}

/// The destinations that a workload is at its addresses.
fn destinations(workload: &WorkloadEntry) -> impl Iterator<Item = Affected> + '_ {
    workload.ips.iter().map(|ip| Affected::Destination(*ip))
}
