//! Other replicas, and what each of them says of its own proxies: without them we would speak for a part of the mesh only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;
use weft_index::ObjectKey;
use weft_model::{ServiceKey, WorkloadName};

use super::facts::{Fact, Facts, ProxyFact, REFUSALS_MAX, ResourceFact};
use super::report::{AT_ONCE, Spread};
use super::{BundleId, Hub, Known, State};
use crate::ca::Acknowledgements;

/// Another replica.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// What it calls itself; empty until it was heard.
    name: String,
    /// Whether it has told all that it knows, and still would.
    is_heard: bool,
    facts: Facts,
}

/// Another replica, as the admin page says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    /// Where it is.
    pub address: String,
    /// What it calls itself; empty until it was heard.
    pub name: String,
    /// Whether it tells us of its proxies now.
    pub heard: bool,
}

impl Hub {
    /// Looks who serves proxies beside us, among the endpoints of the control plane's own Service. Whoever is new is waited for, and
    /// whoever is gone no longer.
    pub(crate) fn find_peers(&self, service: &ServiceKey) -> BTreeSet<SocketAddr> {
        let mut state = self.state();
        let endpoints = state.index.endpoints(service, None).upserted;
        let mut addrs: BTreeSet<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.addr.0).collect();
        // An address that is no replica's any more may become another's.
        state.own_addr = state.own_addr.filter(|own| addrs.remove(own));
        let is_same = state.peers.keys().eq(&addrs);
        if !is_same {
            state.peers.retain(|addr, _| addrs.contains(addr));
            for addr in &addrs {
                state.peers.entry(*addr).or_default();
            }
            let _any = self.release_ready(&mut state);
            self.finish(state);
        }
        addrs
    }

    /// Notes that it is ourselves who serve there.
    pub(crate) fn peer_is_self(&self, addr: SocketAddr) {
        let mut state = self.state();
        state.peers.remove(&addr);
        state.own_addr = Some(addr);
        let _any = self.release_ready(&mut state);
        self.finish(state);
    }

    /// Takes in what another replica says; `complete` when it has told everything once.
    pub(crate) fn peer_says(
        &self,
        addr: SocketAddr,
        name: &str,
        bundle: Option<BundleId>,
        facts: Vec<Fact>,
        complete: bool,
    ) {
        let mut state = self.state();
        let Some(peer) = state.peers.get_mut(&addr) else { return };
        if peer.name != name {
            name.clone_into(&mut peer.name);
        }
        peer.is_heard |= complete;
        peer.facts.bundle = bundle;
        facts.into_iter().for_each(|fact| peer.facts.take(fact));
        let _any = self.release_ready(&mut state);
        self.finish(state);
    }

    /// Forgets what another replica said: its proxies may be anywhere by now.
    pub(crate) fn peer_lost(&self, addr: SocketAddr) {
        let mut state = self.state();
        if let Some(peer) = state.peers.get_mut(&addr) {
            (peer.is_heard, peer.facts) = (false, Facts::default());
        }
        self.finish(state);
    }

    /// Everything to be told to other replicas.
    ///
    /// **Cost:** as [`Hub::report`]. Proxies are served meanwhile.
    pub(crate) fn facts(&self) -> Facts {
        let (mut facts, keys) = {
            let state = self.state();
            let proxy = |known: &Known| ProxyFact { connected: known.is_connected(), bundle: known.bundle };
            let proxies = state.known.iter().map(|(name, known)| (name.clone(), proxy(known))).collect();
            let bundle = state.bundle;
            let facts = Facts { bundle, proxies, departed: state.departed(), resources: BTreeMap::new() };
            (facts, state.generations.keys().cloned().collect::<Vec<_>>())
        };
        for some in keys.chunks(AT_ONCE) {
            let state = self.state();
            facts.resources.extend(some.iter().filter_map(|key| Some((key.clone(), state.resource_fact(key)?))));
        }
        facts
    }

    /// What of it somebody waits for: workloads that none of our own proxies sends to any more.
    pub(crate) fn departed(&self) -> BTreeSet<WorkloadName> {
        self.state().departed()
    }

    /// How many proxies do not provably have the trust anchors in force: those that are connected, here or elsewhere, and have
    /// not acknowledged them, and those that are away and may still come back with a valid certificate.
    ///
    /// For as long after its start as a certificate lives, every meshed workload counts until it has come: who was there
    /// before is not remembered over a restart. Beside other replicas, which may be younger than we are, that holds for good.
    pub fn without_anchors(&self, now_unix_s: u64) -> Acknowledgements {
        let state = self.state();
        let mut proxies: BTreeMap<&WorkloadName, Standing> = BTreeMap::new();
        for (name, known) in &state.known {
            let standing = proxies.entry(name).or_default();
            standing.add(known.is_connected(), known.bundle == state.bundle, known.may_return(now_unix_s));
        }
        for (name, fact) in state.peers.values().flat_map(|peer| &peer.facts.proxies) {
            // A replica tells only of those that may come back.
            proxies.entry(name).or_default().add(fact.connected, fact.bundle == state.bundle, true);
        }
        // A workload that is gone is given no certificate, and let in nowhere.
        let exists = |name: &WorkloadName| state.index.workload(name).is_some();
        let pending = proxies.iter().filter(|(name, it)| it.is_behind || (it.is_away() && exists(name))).count();
        let young = self.config.replicated || self.started.elapsed() < self.config.leaf_life;
        let unseen = state.index.meshed().filter(|workload| young && !proxies.contains_key(*workload)).count();
        let behind = |peer: &&Peer| !peer.is_heard || peer.facts.bundle != state.bundle;
        Acknowledgements { pending: pending + unseen, replicas: state.peers.values().filter(behind).count() }
    }
}

/// What all replicas together know of one proxy's trust bundle.
#[derive(Clone, Copy, Default)]
struct Standing {
    /// It is connected somewhere with another one.
    is_behind: bool,
    /// It acknowledged the one in force to somebody.
    is_current: bool,
    may_return: bool,
}

impl Standing {
    fn add(&mut self, connected: bool, current: bool, may_return: bool) {
        self.is_behind |= connected && !current;
        self.is_current |= current;
        self.may_return |= may_return;
    }

    /// Whether it may come back without it. One that has changed replicas is still remembered by the old one as it was there.
    fn is_away(self) -> bool {
        !self.is_current && self.may_return
    }
}

impl State {
    /// Other replicas, for the admin page.
    pub(super) fn peer_reports(&self) -> Vec<PeerReport> {
        let report = |(addr, peer): (&SocketAddr, &Peer)| PeerReport {
            address: addr.to_string(),
            name: peer.name.clone(),
            heard: peer.is_heard,
        };
        self.peers.iter().map(report).collect()
    }

    /// How many replicas tell us of their proxies, and how many should and do not.
    pub(super) fn peer_counts(&self) -> (usize, usize) {
        let heard = self.peers.values().filter(|peer| peer.is_heard).count();
        (heard, self.peers.len() - heard)
    }

    /// Whether no proxy of another replica sends to a workload any more. One that is not heard may have some that do.
    pub(super) fn peers_let_go(&self, workload: &WorkloadName) -> bool {
        self.peers.values().all(|peer| peer.facts.departed.contains(workload))
    }

    /// What other replicas say of a version of a resource.
    pub(super) fn peers_on<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = &'a ResourceFact> {
        self.peers.values().filter_map(move |peer| peer.facts.resources.get(key))
    }

    fn departed(&self) -> BTreeSet<WorkloadName> {
        let departed = self.departures.iter().filter(|(_, departure)| departure.let_go);
        departed.map(|(workload, _)| workload.clone()).collect()
    }

    /// How far a resource got among our own proxies; `None`: it concerns none of them, or has no version that others know.
    fn resource_fact(&self, key: &ObjectKey) -> Option<ResourceFact> {
        let (generation, status) = (*self.generations.get(key)?, self.index.status(key)?);
        let Spread { concerned, refused } = self.spread_of(key, status.version);
        if concerned.is_empty() {
            return None;
        }
        Some(ResourceFact {
            generation,
            running: concerned.values().filter(|running| **running).count(),
            concerned: concerned.len(),
            refused: refused.into_iter().take(REFUSALS_MAX).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
