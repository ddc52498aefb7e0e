//! Workloads that go: who still holds their endpoints (semantics 25).

use std::collections::BTreeSet;

use tokio::time::Instant;
use weft_index::Affected;
use weft_model::resources::ResourceKey;
use weft_model::{ServiceKey, WorkloadName};

use super::{Hub, ProxyId, State};

/// A workload that goes.
#[derive(Debug)]
pub(super) struct Departure {
    /// The version of the endpoints that are without it.
    version: u64,
    /// Who held endpoints of which service and has not acknowledged that version. A proxy that is away stays here: it goes
    /// on with what it had. By workload, so that it is found again on another stream.
    waiting: BTreeSet<(WorkloadName, ServiceKey)>,
    /// Whether none of our own proxies is left; other replicas are told so.
    pub(super) let_go: bool,
    /// Whether it was told that nobody is left.
    pub(super) released: bool,
}

impl Hub {
    /// Begins to wait for those who hold endpoints of workloads that a change has marked or taken out.
    pub(super) fn depart(&self, state: &mut State, affected: &BTreeSet<Affected>, version: u64) {
        let services: Vec<&ServiceKey> = affected
            .iter()
            .filter_map(|affected| match affected {
                Affected::Endpoints(key) => Some(key),
                _ => None,
            })
            .collect();
        for affected in affected {
            let Affected::Inbound(workload) = affected else { continue };
            let leaves = state.index.workload(workload).is_none_or(|facts| facts.terminating);
            if !leaves {
                state.departures.remove(workload);
            } else if !state.departures.contains_key(workload) {
                let waiting = services.iter().flat_map(|key| {
                    let behind = state.holders(key).filter(|(_, s)| s.was_told() && s.acked < version);
                    behind.map(|(holder, _)| (holder.clone(), (*key).clone()))
                });
                let waiting = waiting.collect();
                state
                    .departures
                    .insert(workload.clone(), Departure { version, waiting, let_go: false, released: false });
            }
        }
        let _any = self.release_ready(state);
    }

    /// Notes that a proxy has acknowledged endpoints.
    pub(super) fn acknowledged(&self, state: &mut State, id: ProxyId, key: &ResourceKey) {
        let (ResourceKey::Endpoints(service), Some(proxy)) = (key, state.proxies.get(&id)) else { return };
        let acked = proxy.subscriptions.get(key).map_or(0, |subscription| subscription.acked);
        let holder = (proxy.workload.clone(), service.clone());
        for departure in state.departures.values_mut().filter(|departure| departure.version <= acked) {
            departure.waiting.remove(&holder);
        }
        let _any = self.release_ready(state);
    }

    /// Notes that a proxy gave endpoints up.
    pub(super) fn dropped(&self, state: &mut State, id: ProxyId, key: &ResourceKey) {
        let (ResourceKey::Endpoints(service), Some(proxy)) = (key, state.proxies.get(&id)) else { return };
        let holder = (proxy.workload.clone(), service.clone());
        for departure in state.departures.values_mut() {
            departure.waiting.remove(&holder);
        }
        let _any = self.release_ready(state);
    }

    /// Lets those workloads go that none of our own proxies holds any more, and tells those that nobody else's does either;
    /// whether there were any.
    pub(super) fn release_ready(&self, state: &mut State) -> bool {
        if self.started.elapsed() < self.config.release_grace {
            return false;
        }
        let mut any = false;
        for departure in state.departures.values_mut().filter(|departure| departure.waiting.is_empty()) {
            any |= !departure.let_go;
            departure.let_go = true;
        }
        let ready: Vec<WorkloadName> = state
            .departures
            .iter()
            .filter(|(workload, departure)| departure.let_go && !departure.released && state.peers_let_go(workload))
            .map(|(workload, _)| workload.clone())
            .collect();
        any |= !ready.is_empty();
        for workload in ready {
            if let Some(departure) = state.departures.get_mut(&workload) {
                departure.released = true;
            }
            let mut changes = state.index.release(&workload);
            changes.affected.insert(Affected::Inbound(workload));
            state.spread(&changes.affected, changes.version, Instant::now());
        }
        any
    }
}

impl State {
    /// Forgets workloads that are gone together with their proxy.
    pub(super) fn forget_departed(&mut self) {
        if self.departures.is_empty() {
            return;
        }
        let served: BTreeSet<&WorkloadName> = self.proxies.values().map(|proxy| &proxy.workload).collect();
        let index = &self.index;
        self.departures.retain(|workload, departure| {
            !departure.released || served.contains(workload) || index.workload(workload).is_some()
        });
    }
}
