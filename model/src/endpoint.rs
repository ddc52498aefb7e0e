//! Endpoints: the addresses that a service's traffic may go to, and who must answer there.

use std::fmt;
use std::sync::Arc;

use crate::addr::EndpointAddr;
use crate::identity::SpiffeId;

/// One address that serves a service port, as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Where it listens.
    pub addr: EndpointAddr,
    /// Who must answer there. `None`: it is not meshed, and plaintext is spoken.
    pub identity: Option<SpiffeId>,
    /// The workload behind the address, for telemetry and for recognising ourselves.
    pub workload: Option<WorkloadName>,
    /// Its zone, where known.
    pub zone: Option<Arc<str>>,
    /// Relative share of traffic among equals; 1 where nothing was said, never 0.
    pub weight: u32,
    /// Whether new traffic may be sent there.
    pub health: Health,
}

/// Whether an endpoint takes new traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// It does.
    #[default]
    Ready,
    /// It is terminating but still serves: used only where nothing is ready (as kube-proxy does).
    ServingTerminating,
}

/// A workload's name: what metrics call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The pod's or `Workload`'s name.
    pub name: Arc<str>,
}

impl WorkloadName {
    /// A name from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
