//! Answers that somebody asked for: their values, and who is told when they change.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use weft_index::Affected;
use weft_model::policy::BackendPolicy;
use weft_model::resources::{InboundSpec, Lifecycle, Resource, ResourceKey, Update};
use weft_model::{ServiceKey, WorkloadName};

use super::{ProxyId, State, Unsettled};

/// What an answer depends on beside its key: some are the asker's own. The order makes one range of what a change
/// affects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watched {
    Destination(SocketAddr),
    Endpoints(ServiceKey),
    Inbound(WorkloadName),
    Mesh,
    /// With the namespace of the client, whose consumer routes apply.
    Service(ServiceKey, Arc<str>),
}

/// An answer that somebody asked for.
#[derive(Debug)]
pub(super) struct Answer {
    value: Value,
    /// When the value changed last.
    pub(super) version: u64,
    pub(super) subscribers: BTreeSet<ProxyId>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// Computed for each subscriber from what it was sent last.
    Endpoints(BackendPolicy),
    Update(Arc<Update>),
}

impl Watched {
    /// What a proxy's key means for that proxy.
    pub(super) fn of(key: &ResourceKey, workload: &WorkloadName) -> Self {
        match key {
            ResourceKey::Destination(addr) => Self::Destination(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
            ResourceKey::Endpoints(key) => Self::Endpoints(key.clone()),
            ResourceKey::Inbound => Self::Inbound(workload.clone()),
            ResourceKey::Mesh => Self::Mesh,
            ResourceKey::Service(key) => Self::Service(key.clone(), Arc::clone(&workload.namespace)),
        }
    }

    /// The first, in order, of those that a change affects.
    fn first(affected: &Affected) -> Self {
        let nothing: Arc<str> = Arc::from("");
        let first_of = |namespace| Self::Inbound(WorkloadName { namespace, name: Arc::from("") });
        match affected {
            Affected::Destination(ip) => Self::Destination(SocketAddr::new(*ip, 0)),
            Affected::Endpoints(key) => Self::Endpoints(key.clone()),
            Affected::Inbound(workload) => Self::Inbound(workload.clone()),
            Affected::InboundEverywhere => first_of(nothing),
            Affected::InboundOfNamespace(namespace) => first_of(Arc::clone(namespace)),
            Affected::Mesh => Self::Mesh,
            Affected::Service(key) => Self::Service(key.clone(), nothing),
        }
    }

    fn is_affected(&self, affected: &Affected) -> bool {
        match (self, affected) {
            (Self::Destination(addr), Affected::Destination(ip)) => addr.ip() == *ip,
            (Self::Endpoints(key), Affected::Endpoints(affected))
            | (Self::Service(key, _), Affected::Service(affected)) => key == affected,
            (Self::Inbound(workload), Affected::Inbound(affected)) => workload == affected,
            (Self::Inbound(workload), Affected::InboundOfNamespace(namespace)) => workload.namespace == *namespace,
            (Self::Inbound(_), Affected::InboundEverywhere) | (Self::Mesh, Affected::Mesh) => true,
            _ => false,
        }
    }

    /// The key under which proxies ask for it.
    pub(super) fn key(&self) -> ResourceKey {
        match self {
            Self::Destination(addr) => ResourceKey::Destination(*addr),
            Self::Endpoints(key) => ResourceKey::Endpoints(key.clone()),
            Self::Inbound(_) => ResourceKey::Inbound,
            Self::Mesh => ResourceKey::Mesh,
            Self::Service(key, _) => ResourceKey::Service(key.clone()),
        }
    }
}

impl State {
    /// Answers that are asked for, among those that a change affects.
    pub(super) fn watched(&self, affected: &Affected) -> Vec<Watched> {
        let from_first = self.answers.range(Watched::first(affected)..).map(|(watched, _)| watched);
        from_first.take_while(|watched| watched.is_affected(affected)).cloned().collect()
    }

    /// Computes anew what a change may have changed, and marks it as due where it did.
    pub(super) fn spread(&mut self, affected: &BTreeSet<Affected>, version: u64, now: Instant) {
        let watched: BTreeSet<Watched> = affected.iter().flat_map(|affected| self.watched(affected)).collect();
        let mut owed = 0;
        for watched in watched {
            owed += self.refresh(&watched, version);
        }
        if owed > 0 {
            let unsettled = self.unsettled.entry(version).or_insert(Unsettled { since: now, owed: 0 });
            unsettled.owed += owed;
        }
    }

    /// Computes one answer anew; how many proxies now owe an acknowledgement of it.
    fn refresh(&mut self, watched: &Watched, version: u64) -> usize {
        let Some(answer) = self.answers.get(watched) else { return 0 };
        let value = self.value(watched, version);
        let changed = match (&answer.value, &value) {
            (Value::Endpoints(old), Value::Endpoints(new)) => {
                let Watched::Endpoints(key) = watched else { return 0 };
                let delta = self.index.endpoints(key, Some(answer.version));
                old != new || delta.reset || !delta.upserted.is_empty() || !delta.removed.is_empty()
            }
            (Value::Update(old), Value::Update(new)) => old.resource != new.resource,
            _ => true,
        };
        if !changed {
            return 0;
        }
        let key = watched.key();
        let subscribers = answer.subscribers.clone();
        if let Some(answer) = self.answers.get_mut(watched) {
            (answer.value, answer.version) = (value, version);
        }
        let mut owed = 0;
        for id in subscribers {
            owed += self.proxies.get_mut(&id).map_or(0, |proxy| proxy.owe(&key, version));
        }
        owed
    }

    /// Notes that a proxy asks for an answer.
    pub(super) fn subscribe_to(&mut self, watched: &Watched, id: ProxyId) {
        if !self.answers.contains_key(watched) {
            // Never 0, which on the wire is what nobody set.
            let version = self.index.version().max(1);
            let value = self.value(watched, version);
            let answer = Answer { value, version, subscribers: BTreeSet::new() };
            self.answers.insert(watched.clone(), answer);
        }
        if let Some(answer) = self.answers.get_mut(watched) {
            answer.subscribers.insert(id);
        }
    }

    /// Notes that a proxy no longer asks; what nobody asks for is forgotten.
    pub(super) fn unsubscribe_from(&mut self, watched: &Watched, id: ProxyId) {
        if let Some(answer) = self.answers.get_mut(watched) {
            answer.subscribers.remove(&id);
            if answer.subscribers.is_empty() {
                self.answers.remove(watched);
            }
        }
    }

    /// What a proxy that was sent the version `sent` is to be sent; `None`: it has the newest.
    pub(super) fn answer(&self, id: ProxyId, watched: &Watched, sent: Option<u64>) -> Option<Arc<Update>> {
        let answer = self.answers.get(watched)?;
        if sent == Some(answer.version) {
            return None;
        }
        match (&answer.value, watched) {
            (Value::Update(update), _) => Some(Arc::clone(update)),
            (Value::Endpoints(_), Watched::Endpoints(key)) => {
                let client = &self.proxies.get(&id)?.workload;
                let resource = Resource::Endpoints(self.index.endpoints_of(client, key, sent));
                Some(Arc::new(Update { key: watched.key(), version: answer.version, resource }))
            }
            (Value::Endpoints(_), _) => None,
        }
    }

    fn value(&self, watched: &Watched, version: u64) -> Value {
        self.answers_computed.inc();
        let resource = match watched {
            Watched::Destination(addr) => Resource::Destination(self.index.destination(*addr)),
            Watched::Endpoints(key) => return Value::Endpoints(self.index.endpoints(key, Some(u64::MAX)).policy),
            Watched::Inbound(workload) => Resource::Inbound(self.inbound(workload)),
            Watched::Mesh => Resource::Mesh(self.index.mesh(self.anchors.clone())),
            Watched::Service(key, client) => Resource::Service(self.index.service(client, key)),
        };
        Value::Update(Arc::new(Update { key: watched.key(), version, resource }))
    }

    /// A workload's own configuration. One whose resource was deleted keeps what it had and drains.
    fn inbound(&self, workload: &WorkloadName) -> InboundSpec {
        if let Some(spec) = self.index.inbound(workload) {
            return spec;
        }
        let released = self.departures.get(workload).is_some_and(|departure| departure.released);
        let lifecycle = if released { Lifecycle::Released } else { Lifecycle::Terminating };
        match self.answers.get(&Watched::Inbound(workload.clone())).map(|answer| &answer.value) {
            Some(Value::Update(last)) if matches!(last.resource, Resource::Inbound(_)) => {
                let Resource::Inbound(spec) = last.resource.clone() else { return closed(workload, lifecycle) };
                InboundSpec { lifecycle, ..spec }
            }
            _ => closed(workload, lifecycle),
        }
    }
}

/// What holds for a workload of which nothing is known: nobody is let in.
fn closed(workload: &WorkloadName, lifecycle: Lifecycle) -> InboundSpec {
    InboundSpec {
        workload: workload.clone(),
        ports: Vec::new(),
        mtls: weft_model::policy::MtlsMode::Strict,
        default_authorization: weft_model::policy::DefaultAuthorization::Deny,
        default_policy: None,
        authz: Vec::new(),
        lifecycle,
    }
}
