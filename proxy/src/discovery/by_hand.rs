//! Snapshots published by hand, for tests in which what is known changes: no control plane, no stream, no task.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::resources::{EndpointsDelta, InboundSpec, MeshSpec, ServiceSpec, WorkloadDestination};
use weft_proxy_core::authz::Policies;
use weft_proxy_core::route::http::HttpRoutes;
use weft_tls::TrustBundle;

use super::cache::{Entry, Known, LastUsed};
use super::service::{Backend, Inbound, Mesh, Service, ServiceSnapshot, Workload};
use super::subscriptions::std_now;
use super::{Discovery, Inbox};

/// What publishes. Questions that it has no answer to stay open.
#[derive(Debug)]
pub(crate) struct ByHand {
    discovery: Discovery,
    _unanswered: Inbox,
}

impl Discovery {
    /// A discovery that knows what it is told by hand.
    pub(crate) fn by_hand() -> (Self, ByHand) {
        let (discovery, inbox) = Self::new(std::time::Duration::MAX);
        (discovery.clone(), ByHand { discovery, _unanswered: inbox })
    }
}

impl ByHand {
    pub(crate) fn mesh(&self, spec: MeshSpec) {
        let trust = TrustBundle::from_der(&spec.trust_anchors).unwrap();
        self.discovery.cache.mesh.publish(Mesh { spec, trust });
    }

    pub(crate) fn inbound(&self, spec: InboundSpec) {
        let policies = Policies::compile(&spec);
        self.discovery.cache.inbound.publish(Inbound { spec, policies });
    }

    /// A service at `addr`; every backend of its routes is itself.
    pub(crate) fn service(&self, addr: SocketAddr, spec: ServiceSpec, endpoints: &EndpointsDelta) -> Arc<Backend> {
        let key = spec.key.clone();
        let own = Arc::new(Backend::new(key.clone(), endpoints, std_now()));
        let routes = HttpRoutes::compile(&spec);
        let backends = routes.backend_keys().iter().map(|_| Arc::clone(&own)).collect();
        let snapshot = ServiceSnapshot { spec, routes, backends, own: Arc::clone(&own) };
        self.know(addr, Known::Service(Arc::new(Service::new(key, snapshot, std_now()))));
        own
    }

    pub(crate) fn workload(&self, addr: SocketAddr, destination: WorkloadDestination) {
        self.know(addr, Known::Workload(Arc::new(Workload::new(destination, std_now()))));
    }

    pub(crate) fn port_not_found(&self, addr: SocketAddr) {
        self.know(addr, Known::PortNotFound);
    }

    pub(crate) fn not_found(&self, addr: SocketAddr) {
        self.know(addr, Known::NotFound);
    }

    fn know(&self, addr: SocketAddr, found: Known) {
        let cache = &self.discovery.cache;
        let mut destinations: HashMap<SocketAddr, Entry> = (*cache.destinations.get()).clone();
        let used = Arc::new(LastUsed::new(cache.now()));
        destinations.insert(addr, Entry { found: Some(found), used });
        cache.destinations.publish(destinations);
    }
}

impl Backend {
    /// A change to its endpoints.
    pub(crate) fn tell(&self, delta: &EndpointsDelta) {
        self.apply(delta, std_now());
    }
}
