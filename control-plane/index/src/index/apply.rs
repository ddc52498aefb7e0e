//! Changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_model::{ServiceKey, WorkloadName};

use super::{Affected, Changes, Index, Slot};
use crate::effective;
use crate::endpoints::{EndpointSet, Meant, Source};
use crate::object::{Kind, Name, Object, ObjectKey};
use crate::policies::authorization::AuthzEntry;
use crate::policies::{authorization, mesh, traffic};
use crate::problem::Problem;
use crate::read::Read;
use crate::routes::RouteEntry;
use crate::services::{PortEntry, ServiceEntry};
use crate::slices::SliceEntry;
use crate::workloads::WorkloadEntry;
use crate::{pods, routes, services, slices, workloads};

impl Index {
    /// Takes a new resource or a new version of one in.
    pub fn apply(&mut self, object: &Object) -> Changes {
        let key = object.key();
        let name = Name::of(&key);
        let before = self.before(&key);
        self.version += 1;
        let changed = match object {
            Object::AuthorizationPolicy(o) => {
                let mut read = authorization::read(&name, o);
                if read.entry.is_none() && self.authz.get(&name).is_none_or(|slot| slot.entry.is_none()) {
                    read.entry = Some(AuthzEntry::closed(&name, o));
                }
                put(&mut self.authz, &name, read, self.version).is_some()
            }
            Object::EndpointSlice(o) => {
                let old = put(&mut self.slices, &name, slices::read(&name, o), self.version);
                self.relink_slice(&name, old)
            }
            Object::GrpcRoute(o) => {
                let old = put(&mut self.routes, &key, routes::grpc::read(&name, o), self.version);
                self.relink_route(&key, old)
            }
            Object::HttpRoute(o) => {
                let old = put(&mut self.routes, &key, routes::http::read(&name, o), self.version);
                self.relink_route(&key, old)
            }
            Object::MeshPolicy(o) => {
                let changed = put(&mut self.mesh, &name, mesh::read(&name, o), self.version).is_some();
                self.configure_networks();
                changed
            }
            Object::Node(o) => {
                let zone = o.metadata.labels.as_ref().and_then(pods::zone_of);
                let read = Read { entry: Some(zone), problems: Vec::new() };
                let changed = put(&mut self.nodes, &name, read, self.version).is_some();
                changed && self.relink_node(&name)
            }
            Object::Pod(o) => {
                let was = self.workload_entry(&name).cloned();
                put(&mut self.pods, &name, pods::read(&name, o, &self.config), self.version);
                self.relink_workload(&name, was.as_ref())
            }
            Object::Service(o) => {
                let old = put(&mut self.services, &name, services::read(&name, o), self.version);
                self.relink_service(&name, old)
            }
            Object::TrafficPolicy(o) => {
                let old = put(&mut self.traffic, &name, traffic::read(&name, o), self.version);
                self.relink_traffic(&name, old)
            }
            Object::Workload(o) => {
                let was = self.workload_entry(&name).cloned();
                put(&mut self.workloads, &name, workloads::read(&name, o, &self.config), self.version);
                self.relink_workload(&name, was.as_ref())
            }
        };
        self.changes(&key, changed, before)
    }

    /// Takes a resource out. One that was never there changes nothing.
    pub fn delete(&mut self, key: &ObjectKey) -> Changes {
        let name = Name::of(key);
        let before = self.before(key);
        self.version += 1;
        let changed = match key.kind {
            Kind::AuthorizationPolicy => self.authz.remove(&name).is_some(),
            Kind::EndpointSlice => {
                let old = take(&mut self.slices, &name);
                self.relink_slice(&name, old)
            }
            Kind::GrpcRoute | Kind::HttpRoute => {
                let old = take(&mut self.routes, key);
                self.relink_route(key, old)
            }
            Kind::MeshPolicy => {
                let changed = self.mesh.remove(&name).is_some();
                self.configure_networks();
                changed
            }
            Kind::Node => take(&mut self.nodes, &name).is_some() && self.relink_node(&name),
            Kind::Pod => {
                let was = self.workload_entry(&name).cloned();
                take(&mut self.pods, &name);
                self.relink_workload(&name, was.as_ref())
            }
            Kind::Service => {
                let old = take(&mut self.services, &name);
                self.relink_service(&name, old)
            }
            Kind::TrafficPolicy => {
                let old = take(&mut self.traffic, &name);
                self.relink_traffic(&name, old)
            }
            Kind::Workload => {
                let was = self.workload_entry(&name).cloned();
                take(&mut self.workloads, &name);
                self.relink_workload(&name, was.as_ref())
            }
        };
        self.changes(key, changed, before)
    }

    /// Makes `objects` all that there is: what is not among them is taken out.
    pub fn reset<'a>(&mut self, objects: impl IntoIterator<Item = &'a Object>) -> Changes {
        let mut affected = BTreeSet::new();
        let mut gone: BTreeSet<ObjectKey> = self.keys().collect();
        for object in objects {
            gone.remove(&object.key());
            affected.extend(self.apply(object).affected);
        }
        for key in gone {
            affected.extend(self.delete(&key).affected);
        }
        Changes { version: self.version, affected }
    }

    /// Says that nobody sends to a terminating workload any more.
    pub fn release(&mut self, workload: &WorkloadName) -> Changes {
        let name = Name::new(&workload.namespace, &workload.name);
        self.version += 1;
        let mut affected = BTreeSet::new();
        let terminating = self.workload_entry(&name).is_some_and(|entry| entry.terminating);
        if terminating && self.released.insert(name) {
            affected.insert(Affected::Inbound(workload.clone()));
        }
        Changes { version: self.version, affected }
    }

    fn before(&self, key: &ObjectKey) -> Before {
        Before { concerns: self.own_concerns(key), networks: self.networks.generation() }
    }

    fn changes(&self, key: &ObjectKey, changed: bool, before: Before) -> Changes {
        let mut affected = BTreeSet::new();
        if changed {
            affected = before.concerns;
            affected.extend(self.own_concerns(key));
        }
        if self.networks.generation() != before.networks {
            affected.insert(Affected::Mesh);
        }
        Changes { version: self.version, affected }
    }

    /// Reads the mesh's networks anew from the configuration and the policies.
    pub(super) fn configure_networks(&mut self) {
        let (written, _, _) = effective::wide(&self.cluster_policies());
        let configured = self.config.networks.iter().copied().chain(written);
        let named = self.services_by_ip.keys().chain(self.workloads_by_ip.keys()).chain(self.slices_by_ip.keys());
        self.networks.configure(configured, named.copied());
    }

    /// Takes note of addresses that a resource names, or no longer does.
    fn note_addresses(&mut self, ips: impl IntoIterator<Item = IpAddr>) {
        let is_named =
            |ip: &IpAddr| self.services_by_ip.has(ip) || self.workloads_by_ip.has(ip) || self.slices_by_ip.has(ip);
        let (named, unnamed): (Vec<IpAddr>, Vec<IpAddr>) = ips.into_iter().partition(is_named);
        // New ones first: an address that takes the place of its neighbour changes nothing.
        for (ips, is_named) in [(named, true), (unnamed, false)] {
            for ip in ips {
                self.networks.note(ip, is_named);
            }
        }
    }

    fn relink_service(&mut self, name: &Name, old: Option<Option<ServiceEntry>>) -> bool {
        let Some(old) = old else { return false };
        let new = self.services.get(name).and_then(|slot| slot.entry.clone());
        self.selection.remove_service(name);
        if let Some(selector) = new.as_ref().and_then(|new| new.selector.as_ref()) {
            self.selection.add_service(name, selector);
        }
        if let Some(old) = &old {
            self.services_by_ip.unlink(old.ips.iter().copied(), name);
            for key in old.keys().filter(|key| new.as_ref().is_none_or(|new| !new.ports.contains_key(&key.port))) {
                self.endpoints.remove(&key);
            }
        }
        if let Some(new) = &new {
            self.services_by_ip.link(new.ips.iter().copied(), name);
            for (port, entry) in &new.ports {
                self.rebuild_endpoints(new, *port, entry);
            }
        }
        self.note_addresses(old.iter().chain(&new).flat_map(|service| service.ips.iter().copied()));
        true
    }

    /// Links a workload anew that was `old` before one of the resources of its name changed.
    fn relink_workload(&mut self, name: &Name, old: Option<&WorkloadEntry>) -> bool {
        let new = self.workload_entry(name).cloned();
        if old == new.as_ref() {
            return false;
        }
        let own = |workload: Option<&WorkloadEntry>| workload.map(|w| w.own_ips().to_vec()).unwrap_or_default();
        let (old_ips, new_ips) = (own(old), own(new.as_ref()));
        self.workloads_by_ip.unlink(old_ips.iter().copied(), name);
        self.workloads_by_ip.link(new_ips.iter().copied(), name);
        self.workloads_by_node.unlink(old.and_then(|w| w.node.clone()), name);
        self.workloads_by_node.link(new.as_ref().and_then(|w| w.node.clone()), name);
        self.workloads_by_identity.unlink(old.map(|w| w.identity.clone()), name);
        self.workloads_by_identity.link(new.as_ref().map(|w| w.identity.clone()), name);
        self.note_addresses(old_ips.iter().chain(&new_ips).copied());
        if new.as_ref().is_none_or(|w| !w.terminating) {
            self.released.remove(name);
        }
        if let Some(old) = old {
            self.selection.remove_workload(name, &old.labels);
        }
        if let Some(new) = &new {
            self.selection.add_workload(name, &new.labels);
        }
        self.say_workload(name, old, new.as_ref());
        true
    }

    /// Puts down what a workload is to Services, and that it is no longer what it was; so for the slices that name it.
    fn say_workload(&mut self, name: &Name, old: Option<&WorkloadEntry>, new: Option<&WorkloadEntry>) {
        let services = old.into_iter().chain(new).flat_map(|workload| self.services_of(workload));
        let services: BTreeMap<&Name, &ServiceEntry> = services.map(|service| (&service.name, service)).collect();
        let mut said = Vec::new();
        for service in services.into_values() {
            for (port, entry) in &service.ports {
                let endpoints = new.map(|workload| self.workload_endpoints(service, entry, workload));
                said.push((service.key(*port), endpoints.unwrap_or_default()));
            }
        }
        self.say(&Source::Workload(name.clone()), said);
        let ips = old.into_iter().chain(new).flat_map(|workload| workload.own_ips());
        let slices: BTreeSet<Name> = ips.flat_map(|ip| self.slices_by_ip.of(ip)).cloned().collect();
        for slice in slices {
            self.say_slice(&slice, None);
        }
    }

    /// Says anew where the workloads of a node are, and begins anew for clients whose choice depends on where they are.
    fn relink_node(&mut self, node: &Name) -> bool {
        let there: Vec<WorkloadEntry> =
            self.workloads_by_node.of(&node.name).filter_map(|name| self.workload_entry(name)).cloned().collect();
        for workload in &there {
            self.say_workload(&Name::of_workload(&workload.name), Some(workload), Some(workload));
        }
        let version = self.version;
        self.endpoints.values_mut().filter(|set| set.has_near()).for_each(|set| set.restart(version));
        true
    }

    fn relink_slice(&mut self, name: &Name, old: Option<Option<SliceEntry>>) -> bool {
        let Some(old) = old else { return false };
        let new = self.slices.get(name).and_then(|slot| slot.entry.clone());
        self.slices_by_service.unlink(old.as_ref().map(|s| s.service.clone()), name);
        self.slices_by_service.link(new.as_ref().map(|s| s.service.clone()), name);
        self.slices_by_ip.unlink(old.iter().flat_map(SliceEntry::ips), name);
        self.slices_by_ip.link(new.iter().flat_map(SliceEntry::ips), name);
        self.note_addresses(old.iter().chain(&new).flat_map(SliceEntry::ips));
        self.say_slice(name, old.as_ref().map(|slice| &slice.service));
        true
    }

    /// Puts down what a slice says, and that it no longer says anything about the Service that it belonged to before.
    fn say_slice(&mut self, name: &Name, before: Option<&Name>) {
        let slice = self.slices.get(name).and_then(|slot| slot.entry.as_ref());
        let touched: BTreeSet<&Name> = slice.map(|slice| &slice.service).into_iter().chain(before).collect();
        let mut said = Vec::new();
        for service in touched.into_iter().filter_map(|service| self.service_entry(service)) {
            let of = |port: &PortEntry| match slice {
                Some(slice) if slice.service == service.name => self.slice_endpoints(service, port, slice),
                _ => Vec::new(),
            };
            said.extend(service.ports.iter().map(|(port, entry)| (service.key(*port), of(entry))));
        }
        self.say(&Source::Slice(name.clone()), said);
    }

    fn relink_route(&mut self, key: &ObjectKey, old: Option<Option<RouteEntry>>) -> bool {
        let Some(old) = old else { return false };
        if let Some(old) = &old {
            self.routes_by_parent.unlink(old.parents.iter().map(|p| p.service.clone()), key);
            self.routes_by_backend.unlink(backends(old), key);
        }
        if let Some(new) = self.routes.get(key).and_then(|slot| slot.entry.as_ref()) {
            self.routes_by_parent.link(new.parents.iter().map(|p| p.service.clone()), key);
            self.routes_by_backend.link(backends(new), key);
        }
        true
    }

    fn relink_traffic(&mut self, name: &Name, old: Option<Option<traffic::TrafficEntry>>) -> bool {
        let Some(old) = old else { return false };
        let targets =
            |entry: &traffic::TrafficEntry| entry.targets.iter().map(|t| t.service.clone()).collect::<Vec<_>>();
        if let Some(old) = &old {
            self.traffic_by_service.unlink(targets(old), name);
        }
        if let Some(new) = self.traffic.get(name).and_then(|slot| slot.entry.as_ref()) {
            self.traffic_by_service.link(targets(new), name);
        }
        true
    }

    /// Puts down what one source says about service ports.
    fn say(&mut self, source: &Source, said: Vec<(ServiceKey, Vec<Meant>)>) {
        for (key, endpoints) in said {
            let version = self.version;
            let set = self.endpoints.entry(key).or_insert_with(|| EndpointSet::new(version));
            set.replace(source, endpoints, version);
        }
    }

    /// What a slice says about a service port. Whoever is known to be at an address is expected there.
    fn slice_endpoints(&self, service: &ServiceEntry, port: &PortEntry, slice: &SliceEntry) -> Vec<Meant> {
        let mut endpoints = slice.endpoints(service, port.name.as_deref());
        for endpoint in endpoints.iter_mut().map(|meant| &mut meant.spec) {
            if let Some(workload) = self.workload_at(endpoint.addr.0.ip()) {
                let known = workload.endpoint(endpoint.addr.0.ip(), endpoint.addr.0.port(), None);
                (endpoint.identity, endpoint.workload) = (known.identity, known.workload);
            }
        }
        endpoints
    }

    /// The endpoints that a workload is for a service port: one for each of its addresses that the Service leads to.
    fn workload_endpoints(&self, service: &ServiceEntry, port: &PortEntry, workload: &WorkloadEntry) -> Vec<Meant> {
        let takes = !workload.terminating && (workload.ready || service.publish_not_ready);
        let Some(target) = workload.target(port).filter(|_| takes && service.selects(&workload.labels)) else {
            return Vec::new();
        };
        let place = self.place_of(workload);
        let hints = service.reach.hints(&place);
        let meant = |ip| Meant { spec: workload.endpoint(ip, target, place.zone.clone()), hints: hints.clone() };
        workload.ips_for(service).into_iter().map(meant).collect()
    }

    /// Asks everybody anew what endpoints a service port has.
    fn rebuild_endpoints(&mut self, service: &ServiceEntry, port: u16, entry: &PortEntry) {
        let mut said: Vec<(Source, Vec<Meant>)> = Vec::new();
        for workload in self.workloads_of(service) {
            let endpoints = self.workload_endpoints(service, entry, workload);
            if !endpoints.is_empty() {
                said.push((Source::Workload(Name::of_workload(&workload.name)), endpoints));
            }
        }
        for name in self.slices_by_service.of(&service.name) {
            if let Some(slice) = self.slices.get(name).and_then(|slot| slot.entry.as_ref()) {
                said.push((Source::Slice(name.clone()), self.slice_endpoints(service, entry, slice)));
            }
        }
        let version = self.version;
        let set = self.endpoints.entry(service.key(port)).or_insert_with(|| EndpointSet::new(version));
        set.set_reach(service.reach, version);
        let sources: BTreeSet<&Source> = said.iter().map(|(source, _)| source).collect();
        let silent: Vec<Source> = set.sources().filter(|source| !sources.contains(source)).cloned().collect();
        for source in silent {
            set.replace(&source, Vec::new(), version);
        }
        for (source, endpoints) in said {
            set.replace(&source, endpoints, version);
        }
    }
}

/// How things stood before a change.
struct Before {
    concerns: BTreeSet<Affected>,
    /// The generation of the mesh's networks.
    networks: u64,
}

fn backends(route: &RouteEntry) -> Vec<Name> {
    let backends = route.rules.iter().flat_map(|rule| &rule.backends);
    backends.filter_map(|backend| backend.target.as_ref().map(|(service, _)| service.clone())).collect()
}

/// Puts a reading into its slot. What was in force before is returned where that changed.
#[expect(clippy::option_option, reason = "whether it changed, and what was there before")]
fn put<K: Ord + Clone, E: PartialEq>(
    table: &mut BTreeMap<K, Slot<E>>,
    name: &K,
    read: Read<E>,
    version: u64,
) -> Option<Option<E>> {
    let Read { entry, mut problems } = read;
    let slot =
        table.entry(name.clone()).or_insert(Slot { entry: None, is_newest: false, problems: Vec::new(), version });
    slot.is_newest = entry.is_some();
    let Some(entry) = entry else {
        if slot.entry.is_some() {
            problems.push(Problem::notice("", "the last good version stays in force"));
        }
        slot.problems = problems;
        return None;
    };
    slot.problems = problems;
    if slot.entry.as_ref() == Some(&entry) {
        return None;
    }
    slot.version = version;
    Some(slot.entry.replace(entry))
}

#[expect(clippy::option_option, reason = "whether it was there, and what was in force")]
fn take<K: Ord, E>(table: &mut BTreeMap<K, Slot<E>>, name: &K) -> Option<Option<E>> {
    table.remove(name).map(|slot| slot.entry)
}
