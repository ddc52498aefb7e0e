//! The index: every resource as it is meant, and the links between them.

mod apply;
mod concerns;
mod links;
mod reads;
mod selection;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_model::{ServiceKey, SpiffeId, TrustDomain, WorkloadName};

use self::links::Links;
use self::selection::Selection;
use crate::endpoints::EndpointSet;
use crate::networks::Networks;
use crate::object::{Name, ObjectKey};
use crate::policies::authorization::AuthzEntry;
use crate::policies::mesh::MeshEntry;
use crate::policies::traffic::TrafficEntry;
use crate::problem::Problem;
use crate::routes::RouteEntry;
use crate::services::ServiceEntry;
use crate::slices::SliceEntry;
use crate::workloads::WorkloadEntry;

/// What the index is told once.
#[derive(Clone, Debug, Default)]
pub struct IndexConfig {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Networks of the cluster, beside those that policies name.
    pub networks: Vec<IpNet>,
    /// Networks of pods, services and nodes, in which no `Workload` may lie.
    pub reserved_networks: Vec<IpNet>,
}

/// Every resource as it is meant.
///
/// **Cost:** a change costs what it concerns: the Services that select a workload, the endpoints of a Service, the ports of a
/// route's parents. Answers are computed when they are read.
#[derive(Debug, Default)]
pub struct Index {
    config: IndexConfig,
    /// Grows with each change; the version of everything that the change affects.
    version: u64,
    services: Table<ServiceEntry>,
    slices: Table<SliceEntry>,
    workloads: Table<WorkloadEntry>,
    /// Pods; one that is no workload now has an entry of `None`.
    pods: Table<Option<WorkloadEntry>>,
    /// Of every kind of route.
    routes: BTreeMap<ObjectKey, Slot<RouteEntry>>,
    traffic: Table<TrafficEntry>,
    authz: Table<AuthzEntry>,
    mesh: Table<MeshEntry>,
    services_by_ip: Links<IpAddr>,
    workloads_by_ip: Links<IpAddr>,
    workloads_by_identity: Links<SpiffeId>,
    slices_by_ip: Links<IpAddr>,
    /// Zones, by node.
    nodes: Table<Option<Arc<str>>>,
    /// Pods, by node.
    workloads_by_node: Links<Arc<str>>,
    networks: Networks,
    routes_by_parent: Links<Name, ObjectKey>,
    routes_by_backend: Links<Name, ObjectKey>,
    traffic_by_service: Links<Name>,
    slices_by_service: Links<Name>,
    selection: Selection,
    endpoints: BTreeMap<ServiceKey, EndpointSet>,
    /// Terminating workloads that nobody sends to any more.
    released: BTreeSet<Name>,
}

type Table<E> = BTreeMap<Name, Slot<E>>;

/// A resource.
#[derive(Debug)]
struct Slot<E> {
    /// What is in force: of the last version that was understood. `None`: there was none.
    entry: Option<E>,
    /// Whether it is the newest version that is in force.
    is_newest: bool,
    /// What is wrong with the newest version.
    problems: Vec<Problem>,
    /// When what is in force changed last.
    version: u64,
}

impl Index {
    /// An empty index.
    pub fn new(config: IndexConfig) -> Self {
        let mut index = Self { config, ..Self::default() };
        index.configure_networks();
        index
    }

    /// The version of the latest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A new version, for a change of something that is answered beside the index.
    pub fn advance(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The version of every answer that it affects.
    pub version: u64,
    /// Whose answers may have changed.
    pub affected: BTreeSet<Affected>,
}

/// Answers that a change may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Affected {
    /// The destinations at this address, at every port.
    Destination(IpAddr),
    /// The endpoints of a service port.
    Endpoints(ServiceKey),
    /// The inbound configuration of one workload.
    Inbound(WorkloadName),
    /// The inbound configuration of every workload.
    InboundEverywhere,
    /// The inbound configuration of every workload of a namespace.
    InboundOfNamespace(Arc<str>),
    /// What holds for the whole mesh.
    Mesh,
    /// Routes and policies of a service port.
    Service(ServiceKey),
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(ip) => write!(f, "destination {ip}"),
            Self::Endpoints(key) => write!(f, "endpoints {key}"),
            Self::Inbound(workload) => write!(f, "inbound {workload}"),
            Self::InboundEverywhere => f.write_str("inbound everywhere"),
            Self::InboundOfNamespace(namespace) => write!(f, "inbound of {namespace}"),
            Self::Mesh => f.write_str("mesh"),
            Self::Service(key) => write!(f, "service {key}"),
        }
    }
}

/// What the control plane needs to know of a workload to tell whether a proxy speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// Its addresses, the one that it is known by first; never none.
    pub ips: Vec<IpAddr>,
    /// Who it is.
    pub identity: SpiffeId,
    /// Its uid, where it has one.
    pub uid: Option<Arc<str>>,
    /// Whether it was marked as terminating.
    pub terminating: bool,
}

#[cfg(test)]
mod tests;
