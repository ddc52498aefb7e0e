//! Answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_model::bounds::ROUTES_MAX;
use weft_model::policy::{AuthzPolicy, BackendPolicy};
use weft_model::resources::{
    Destination, EndpointsDelta, InboundSpec, Lifecycle, MeshSpec, ServiceSpec, WorkloadDestination,
};
use weft_model::{AppProtocol, ServiceKey, SpiffeId, WorkloadName};

use super::{Index, WorkloadFacts};
use crate::effective::{self, EffectiveMesh, InboundParts, ServiceParts};
use crate::near::Place;
use crate::object::{Kind, Name, ObjectKey};
use crate::policies::mesh::{MeshEntry, Scope};
use crate::policies::traffic::{TrafficEntry, default_backend};
use crate::read::{selector_selects, selects};
use crate::routes::RouteEntry;
use crate::services::{PortEntry, ServiceEntry, Target};
use crate::workloads::WorkloadEntry;

impl Index {
    /// What is behind an address.
    pub fn destination(&self, addr: SocketAddr) -> Destination {
        let (ip, port) = (addr.ip().to_canonical(), addr.port());
        if let Some(service) = self.service_at(ip) {
            return match service.ports.contains_key(&port) {
                true => Destination::Service(service.key(port)),
                false => Destination::PortNotFound,
            };
        }
        let Some(workload) = self.workload_at(ip) else { return Destination::NotFound };
        let services: Vec<_> = self.services_of(workload).collect();
        let protocols = self.mesh_of(workload).protocols;
        let (protocol, service) = effective::port_facts(workload, &services, &protocols, port);
        let endpoint = workload.endpoint(ip, port, self.zone_of(workload));
        Destination::Workload(WorkloadDestination { endpoint, protocol, service })
    }

    /// A service port as clients of a namespace see it. One that does not exist is one of which nothing is said.
    pub fn service(&self, client_namespace: &str, key: &ServiceKey) -> ServiceSpec {
        let Some((service, port)) = self.port_entry(key) else { return ServiceSpec::plain(key.clone()) };
        let mut routes = self.routes_of(client_namespace, service, key.port);
        routes.truncate(ROUTES_MAX);
        let parts = ServiceParts {
            key: key.clone(),
            protocol: self.service_protocol(service, port),
            client_ip_affinity: service.client_ip_affinity,
            traffic: self.traffic_for(service, key.port),
            routes,
        };
        effective::service_spec(parts, |name, port| self.has_port(name, port))
    }

    /// Whether any route of another namespace is attached to the Service, so that not every client sees the same.
    pub fn has_consumer_routes(&self, key: &ServiceKey) -> bool {
        let name = Name::new(&key.namespace, &key.name);
        self.routes_by_parent.of(&name).any(|route| route.namespace != name.namespace)
    }

    /// The endpoints of a service port: what changed after the version `since`, or all of them (`reset`) where that is
    /// not known. Those that any client gets.
    pub fn endpoints(&self, key: &ServiceKey, since: Option<u64>) -> EndpointsDelta {
        self.endpoints_near(key, since, None)
    }

    /// As [`Index::endpoints`], those that one client gets: where the Service or its slices say so, those of its node or zone.
    pub fn endpoints_of(&self, client: &WorkloadName, key: &ServiceKey, since: Option<u64>) -> EndpointsDelta {
        let name = Name::new(&client.namespace, &client.name);
        let place = self.workload_entry(&name).map(|workload| self.place_of(workload)).unwrap_or_default();
        self.endpoints_near(key, since, Some(&place))
    }

    fn endpoints_near(&self, key: &ServiceKey, since: Option<u64>, client: Option<&Place>) -> EndpointsDelta {
        let policy = self.backend_policy(key);
        let Some(set) = self.endpoints.get(key) else {
            return EndpointsDelta { reset: true, upserted: Vec::new(), removed: Vec::new(), policy };
        };
        if let Some((upserted, removed)) = since.and_then(|since| set.since(since, client)) {
            return EndpointsDelta { reset: false, upserted, removed, policy };
        }
        EndpointsDelta { reset: true, upserted: set.iter(client).cloned().collect(), removed: Vec::new(), policy }
    }

    /// A workload's own configuration; `None` for one that is not known.
    pub fn inbound(&self, workload: &WorkloadName) -> Option<InboundSpec> {
        let name = Name::new(&workload.namespace, &workload.name);
        let entry = self.workload_entry(&name)?;
        let services: Vec<_> = self.services_of(entry).collect();
        let lifecycle = match (entry.terminating, self.released.contains(&name)) {
            (false, _) => Lifecycle::Serving,
            (true, false) => Lifecycle::Terminating,
            (true, true) => Lifecycle::Released,
        };
        let authz = effective::bounded(self.authz_of(entry));
        let mesh = self.mesh_of(entry);
        Some(effective::inbound(InboundParts { workload: entry, services: &services, mesh, authz, lifecycle }))
    }

    /// What holds for the whole mesh; the trust anchors are not the index's to know.
    pub fn mesh(&self, trust_anchors: Vec<Vec<u8>>) -> MeshSpec {
        let (_, egress, telemetry) = effective::wide(&self.cluster_policies());
        MeshSpec { trust_anchors, networks: self.networks.cover().networks.clone(), egress, telemetry }
    }

    /// How many addresses are in the mesh only because a resource names them, where these are too many to be told one by
    /// one: then wider networks are told, in which they all lie, and proxies look up addresses that are not ours too.
    pub fn widened_networks(&self) -> Option<usize> {
        self.networks.cover().is_widened.then(|| self.networks.outside())
    }

    /// What is known of a workload.
    pub fn workload(&self, workload: &WorkloadName) -> Option<WorkloadFacts> {
        let entry = self.workload_entry(&Name::new(&workload.namespace, &workload.name))?;
        Some(WorkloadFacts {
            ips: entry.ips.clone(),
            identity: entry.identity.clone(),
            uid: entry.uid.clone(),
            terminating: entry.terminating,
        })
    }

    /// Whose address this is; of several workloads, the one that is not terminating, then by name.
    pub fn owner(&self, ip: IpAddr) -> Option<WorkloadName> {
        self.workload_at(ip.to_canonical()).map(|workload| workload.name.clone())
    }

    /// Whether a Workload with this identity and a proxy beside it exists. Pods do not count: they have better proof (semantics 31).
    pub fn has_identity(&self, identity: &SpiffeId) -> bool {
        let workloads = self.workloads_by_identity.of(identity).filter(|name| self.pod_entry(name).is_none());
        workloads.filter_map(|name| self.workload_entry(name)).any(|found| found.meshed)
    }

    /// Every workload with a proxy beside it.
    pub fn meshed(&self) -> impl Iterator<Item = &WorkloadName> {
        self.workload_entries().filter(|workload| workload.meshed).map(|workload| &workload.name)
    }

    /// Every resource that is there.
    pub fn keys(&self) -> impl Iterator<Item = ObjectKey> + '_ {
        let key = |kind: Kind| {
            move |name: &Name| ObjectKey { kind, namespace: Arc::clone(&name.namespace), name: Arc::clone(&name.name) }
        };
        let authz = self.authz.keys().map(key(Kind::AuthorizationPolicy));
        let slices = self.slices.keys().map(key(Kind::EndpointSlice));
        let routes = self.routes.keys().cloned();
        let mesh = self.mesh.keys().map(key(Kind::MeshPolicy));
        let nodes = self.nodes.keys().map(key(Kind::Node));
        let pods = self.pods.keys().map(key(Kind::Pod));
        let services = self.services.keys().map(key(Kind::Service));
        let traffic = self.traffic.keys().map(key(Kind::TrafficPolicy));
        let workloads = self.workloads.keys().map(key(Kind::Workload));
        let policies = authz.chain(routes).chain(mesh).chain(traffic);
        policies.chain(slices).chain(services).chain(workloads).chain(pods).chain(nodes)
    }

    /// What a service port is declared to speak: by the Service, else by a `MeshPolicy` for the port that it targets.
    fn service_protocol(&self, service: &ServiceEntry, port: &PortEntry) -> AppProtocol {
        match (port.protocol, &port.target) {
            (AppProtocol::Undeclared, Target::Number(target)) => {
                let (cluster, namespace) = (self.cluster_policies(), self.namespace_policies(&service.name.namespace));
                let protocols = effective::mesh([&cluster, &namespace, &[]]).protocols;
                protocols.get(target).copied().unwrap_or_default()
            }
            (declared, _) => declared,
        }
    }

    fn backend_policy(&self, key: &ServiceKey) -> BackendPolicy {
        let policy = self.port_entry(key).and_then(|(service, _)| self.traffic_for(service, key.port));
        policy.map_or_else(default_backend, |policy| policy.backend)
    }

    pub(super) fn traffic_for(&self, service: &ServiceEntry, port: u16) -> Option<&TrafficEntry> {
        let attached = self.traffic_by_service.of(&service.name);
        let policies = attached.filter_map(|name| self.traffic.get(name).and_then(|slot| slot.entry.as_ref()));
        effective::traffic_for(service, port, policies)
    }

    pub(super) fn mesh_of(&self, workload: &WorkloadEntry) -> EffectiveMesh {
        let (cluster, namespace) = (self.cluster_policies(), self.namespace_policies(&workload.name.namespace));
        let selected = sorted(in_namespace(&self.mesh, &workload.name.namespace).map(|(_, policy)| policy).filter(
            |policy| matches!(&policy.scope, Scope::Workloads(selector) if selector_selects(selector, &workload.labels)),
        ));
        effective::mesh([&cluster, &namespace, &selected])
    }

    pub(super) fn cluster_policies(&self) -> Vec<&MeshEntry> {
        let policies = in_namespace(&self.mesh, weft_crds::SYSTEM_NAMESPACE).map(|(_, policy)| policy);
        sorted(policies.filter(|policy| policy.scope == Scope::Cluster))
    }

    pub(super) fn namespace_policies(&self, namespace: &str) -> Vec<&MeshEntry> {
        let policies = in_namespace(&self.mesh, namespace).map(|(_, policy)| policy);
        sorted(policies.filter(|policy| policy.scope == Scope::Namespace))
    }

    /// The routes of a service port that clients of a namespace get, in order of precedence.
    pub(super) fn routes_of(&self, client: &str, service: &ServiceEntry, port: u16) -> Vec<&RouteEntry> {
        let attached = self.routes_by_parent.of(&service.name);
        let routes = attached.filter_map(|key| self.routes.get(key).and_then(|slot| slot.entry.as_ref()));
        effective::attached_routes(Some(client), service, port, routes)
    }

    /// The policies that select a workload.
    pub(super) fn authz_of(&self, workload: &WorkloadEntry) -> Vec<AuthzPolicy> {
        let services: Vec<_> = self.services_of(workload).collect();
        let policies = in_namespace(&self.authz, &workload.name.namespace).map(|(_, policy)| policy);
        effective::authz(workload, &services, policies)
    }

    fn port_entry(&self, key: &ServiceKey) -> Option<(&ServiceEntry, &PortEntry)> {
        let service =
            self.service_entry(&Name { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) })?;
        service.ports.get(&key.port).map(|port| (service, port))
    }

    pub(super) fn has_port(&self, service: &Name, port: u16) -> bool {
        self.service_entry(service).is_some_and(|service| service.ports.contains_key(&port))
    }

    /// The Service that an address belongs to; of several, the one whose name sorts first.
    pub(super) fn service_at(&self, ip: IpAddr) -> Option<&ServiceEntry> {
        self.services_by_ip.of(&ip).find_map(|name| self.service_entry(name))
    }

    /// The workload at an address; one that is not terminating before one that is, then by name.
    pub(super) fn workload_at(&self, ip: IpAddr) -> Option<&WorkloadEntry> {
        let here = self.workloads_by_ip.of(&ip).filter_map(|name| self.workload_entry(name));
        here.min_by_key(|workload| (workload.terminating, &workload.name))
    }

    /// The zone of a workload: what it says itself, or its node's.
    pub(super) fn zone_of(&self, workload: &WorkloadEntry) -> Option<Arc<str>> {
        workload.zone.clone().or_else(|| self.nodes.get(&node_name(workload.node.as_ref()?))?.entry.clone()?)
    }

    /// Where a workload runs.
    pub(super) fn place_of(&self, workload: &WorkloadEntry) -> Place {
        Place { node: workload.node.clone(), zone: self.zone_of(workload) }
    }

    pub(super) fn service_entry(&self, name: &Name) -> Option<&ServiceEntry> {
        self.services.get(name)?.entry.as_ref()
    }

    /// The workload of a name: a Pod before a Workload that is called the same.
    pub(super) fn workload_entry(&self, name: &Name) -> Option<&WorkloadEntry> {
        self.pod_entry(name).or_else(|| self.workloads.get(name)?.entry.as_ref())
    }

    pub(super) fn pod_entry(&self, name: &Name) -> Option<&WorkloadEntry> {
        self.pods.get(name)?.entry.as_ref()?.as_ref()
    }

    /// Every workload: Workloads by name, then Pods by name.
    pub(super) fn workload_entries(&self) -> impl Iterator<Item = &WorkloadEntry> {
        let workloads = self.workloads.iter().filter(|(name, _)| self.pod_entry(name).is_none());
        let pods = self.pods.values().filter_map(|slot| slot.entry.as_ref()?.as_ref());
        workloads.filter_map(|(_, slot)| slot.entry.as_ref()).chain(pods)
    }

    pub(super) fn services_in(&self, namespace: &str) -> impl Iterator<Item = &ServiceEntry> {
        in_namespace(&self.services, namespace).map(|(_, service)| service)
    }

    pub(super) fn workloads_in(&self, namespace: &str) -> impl Iterator<Item = (&Name, &WorkloadEntry)> {
        let workloads = in_namespace(&self.workloads, namespace).filter(|(name, _)| self.pod_entry(name).is_none());
        let pods = in_namespace(&self.pods, namespace).filter_map(|(name, pod)| Some((name, pod.as_ref()?)));
        workloads.chain(pods)
    }

    /// The workloads that a selector selects, by name.
    pub(super) fn selected<'a>(
        &'a self,
        namespace: &'a Arc<str>,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a WorkloadEntry> {
        let filed = self.selection.workloads_for(namespace, selector);
        // Nothing asked for selects everything.
        let all = filed.is_none().then(|| self.workloads_in(namespace).map(|(_, workload)| workload));
        let filed = filed.into_iter().flatten().filter_map(|name| self.workload_entry(name));
        filed.chain(all.into_iter().flatten()).filter(move |workload| selects(selector, &workload.labels))
    }

    /// The workloads that a Service selects, by name; one without a selector selects none.
    pub(super) fn workloads_of<'a>(&'a self, service: &'a ServiceEntry) -> impl Iterator<Item = &'a WorkloadEntry> {
        let selector = service.selector.iter();
        selector.flat_map(|selector| self.selected(&service.name.namespace, selector))
    }

    /// The Services that select a workload, by name.
    pub(super) fn services_of<'a>(&'a self, workload: &'a WorkloadEntry) -> impl Iterator<Item = &'a ServiceEntry> {
        let filed = self.selection.services_for(&workload.name.namespace, &workload.labels);
        let services = filed.into_iter().filter_map(|name| self.service_entry(name));
        services.filter(|service| service.selects(&workload.labels))
    }
}

/// What a Node is called in the table of them: it has no namespace, and one has to stand there.
pub(super) fn node_name(node: &Arc<str>) -> Name {
    Name { namespace: Arc::from("default"), name: Arc::clone(node) }
}

/// What a namespace has of a kind, by name.
pub(super) fn in_namespace<'a, E>(
    table: &'a super::Table<E>,
    namespace: &str,
) -> impl Iterator<Item = (&'a Name, &'a E)> {
    let namespace: Arc<str> = Arc::from(namespace);
    let first = Name { namespace: Arc::clone(&namespace), name: Arc::from("") };
    let slots = table.range(first..).take_while(move |(name, _)| name.namespace == namespace);
    slots.filter_map(|(name, slot)| slot.entry.as_ref().map(|entry| (name, entry)))
}

fn sorted<'a>(policies: impl Iterator<Item = &'a MeshEntry>) -> Vec<&'a MeshEntry> {
    let mut policies: Vec<_> = policies.collect();
    policies.sort_by(|a, b| effective::precedence(a.created, &a.id).cmp(&effective::precedence(b.created, &b.id)));
    policies
}
