//! What workers hold: services, their backends, workloads, and what was told about ourselves and the mesh. Each is an
//! identity with a snapshot inside; only [`super::apply`] publishes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use weft_model::ServiceKey;
use weft_model::policy::BackendPolicy;
use weft_model::resources::{EgressMode, EndpointsDelta, InboundSpec, MeshSpec, ServiceSpec, WorkloadDestination};
use weft_proxy_core::authz::Policies;
use weft_proxy_core::learn::ServerFirst;
use weft_proxy_core::retry::Budget;
use weft_proxy_core::route::http::HttpRoutes;
use weft_proxy_core::snapshot::EndpointSet;
use weft_runtime::Live;
use weft_tls::TrustBundle;

/// A service port that the workload talks to.
#[derive(Debug)]
pub(crate) struct Service {
    key: ServiceKey,
    config: Live<ServiceSnapshot>,
    /// What retries may cost, over all workers; its limits are in the snapshot.
    pub(crate) budget: Budget,
    /// Whether its servers were seen to speak first.
    pub(crate) learned: ServerFirst,
}

/// A service port's routes with the backends they name: taken once per decision, so that both agree.
#[derive(Debug)]
pub(crate) struct ServiceSnapshot {
    /// What discovery says of it.
    pub(crate) spec: ServiceSpec,
    /// Its routes, compiled.
    pub(crate) routes: HttpRoutes,
    /// The backend at each place of `routes.backend_keys()`. All of them were told at least once.
    pub(crate) backends: Box<[Arc<Backend>]>,
    /// The service port itself, for bytes, which no HTTPRoute concerns.
    pub(crate) own: Arc<Backend>,
}

impl Service {
    pub(super) fn new(key: ServiceKey, first: ServiceSnapshot, now: Instant) -> Self {
        Self { key, config: Live::new(first), budget: Budget::new(now), learned: ServerFirst::new(now) }
    }

    pub(super) fn publish(&self, snapshot: ServiceSnapshot) {
        self.config.publish(snapshot);
    }

    /// Which service port.
    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Its routes and backends as they are now.
    pub(crate) fn snapshot(&self) -> Arc<ServiceSnapshot> {
        self.config.get()
    }
}

/// A service port that traffic is balanced to. Shared by all services whose routes name it.
#[derive(Debug)]
pub(crate) struct Backend {
    key: ServiceKey,
    endpoints: Live<EndpointSet>,
    changed: watch::Sender<u64>,
}

impl Backend {
    pub(super) fn new(key: ServiceKey, first: &EndpointsDelta, now: Instant) -> Self {
        let endpoints = Live::new(EndpointSet::build(None, first, now));
        Self { key, endpoints, changed: watch::Sender::new(0) }
    }

    pub(super) fn apply(&self, delta: &EndpointsDelta, now: Instant) {
        self.endpoints.publish(EndpointSet::build(Some(&*self.endpoints.get()), delta, now));
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Marks all endpoints as gone, so that pools close what they keep to them.
    pub(super) fn retire(&self, now: Instant) {
        let policy = *self.endpoints.get().policy();
        self.apply(&EndpointsDelta { reset: true, upserted: Vec::new(), removed: Vec::new(), policy }, now);
    }

    /// Which service port.
    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Its endpoints and their policy as they are now.
    pub(crate) fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.get()
    }

    /// Wakes when the endpoints have changed. Subscribe first, then look, then wait: nothing is missed in between.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A workload that is dialled by its own address.
#[derive(Debug)]
pub(crate) struct Workload {
    config: Live<WorkloadSnapshot>,
    /// Whether it was seen to speak first.
    pub(crate) learned: ServerFirst,
}

/// What is at a workload's address now.
#[derive(Debug)]
pub(crate) struct WorkloadSnapshot {
    /// What discovery says of it.
    pub(crate) destination: WorkloadDestination,
    /// The one endpoint, as a set that balancing takes like any other.
    pub(crate) endpoints: EndpointSet,
}

impl Workload {
    pub(super) fn new(destination: WorkloadDestination, now: Instant) -> Self {
        let endpoints = EndpointSet::single(destination.endpoint.clone(), BackendPolicy::default(), now);
        let config = Live::new(WorkloadSnapshot { destination, endpoints });
        Self { config, learned: ServerFirst::new(now) }
    }

    pub(super) fn apply(&self, destination: WorkloadDestination, now: Instant) {
        let upserted = vec![destination.endpoint.clone()];
        let endpoints = self.next(upserted, now);
        self.config.publish(WorkloadSnapshot { destination, endpoints });
    }

    /// Marks the endpoint as gone. Who still holds the workload finds an empty set: whatever lives at the address now, it
    /// is not what was asked for.
    pub(super) fn retire(&self, now: Instant) {
        let destination = self.config.get().destination.clone();
        let endpoints = self.next(Vec::new(), now);
        self.config.publish(WorkloadSnapshot { destination, endpoints });
    }

    fn next(&self, upserted: Vec<weft_model::EndpointSpec>, now: Instant) -> EndpointSet {
        let delta = EndpointsDelta { reset: true, upserted, removed: Vec::new(), policy: BackendPolicy::default() };
        EndpointSet::build(Some(&self.config.get().endpoints), &delta, now)
    }

    /// What is there now.
    pub(crate) fn snapshot(&self) -> Arc<WorkloadSnapshot> {
        self.config.get()
    }
}

/// Our own inbound configuration.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What discovery says.
    pub(crate) spec: InboundSpec,
    /// The same, ready to judge.
    pub(crate) policies: Policies,
}

/// What holds for the whole mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// What discovery says.
    pub(crate) spec: MeshSpec,
    /// The trust anchors, checked.
    pub(crate) trust: TrustBundle,
}

impl Mesh {
    /// Whether an address is in one of the cluster's networks.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.spec.networks.iter().any(|network| network.contains(&ip))
    }

    /// What may leave the mesh.
    pub(crate) fn egress(&self) -> EgressMode {
        self.spec.egress
    }
}
