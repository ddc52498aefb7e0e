//! The hub: the index on one side, the proxies on the other. It knows who asked for what, what each was sent and what
//! each acknowledged, and turns a change into work for exactly those whom it concerns.
//!
//! One mutex holds all of it. Every section is short and synchronous: a change costs the answers that somebody asked for
//! and that it affects; a proxy's next answer is mostly a reference count. Nothing is queued per proxy but the *names* of
//! answers that are due, each once: a proxy that reads slowly gets the newest value when it comes back, and costs no more
//! memory than its subscriptions.
//!
//! Invariants: a version is sent once; an answer that did not change in value is not sent again; acknowledgements count
//! only for what was sent to that very proxy.

mod answers;
mod departures;
mod facts;
mod peers;
mod proxies;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_index::{Condition, Index, IndexConfig, ObjectKey};
use weft_model::bounds::NETWORKS_MAX;
use weft_model::{SpiffeId, WorkloadName};

use self::answers::{Answer, Watched};
use self::departures::Departure;
use self::peers::Peer;
use self::proxies::{Known, Proxy};
use crate::metrics::Metrics;
use crate::source::{Event, FileProblem, Seen};

pub(crate) use self::facts::{BundleId, Fact, Facts, ProxyFact, REFUSALS_MAX, ResourceFact, departures};
pub use self::peers::PeerReport;
pub use self::proxies::{Connected, Refused};
pub use self::report::{ProblemReport, ProxyReport, RefusalReport, Report, ResourceReport};

/// How long a hub waits after its start before it tells a draining workload that nobody sends to it: so long may its
/// proxies take to come back and say what they hold. The draining proxy itself waits no longer (semantics 25).
const RELEASE_GRACE: Duration = Duration::from_secs(5);

/// What the hub is told once.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// For the index.
    pub index: IndexConfig,
    /// How long a workload's certificate lives: for so long an absent proxy may come back.
    pub leaf_life: Duration,
    /// See [`RELEASE_GRACE`]; zero in tests.
    pub release_grace: Duration,
    /// Whether other replicas may serve proxies too.
    pub replicated: bool,
}

impl HubConfig {
    /// The usual configuration.
    pub fn new(index: IndexConfig, leaf_life: Duration) -> Self {
        Self { index, leaf_life, release_grace: RELEASE_GRACE, replicated: false }
    }
}

/// The index on one side, the proxies on the other.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    /// Counts what may have changed a report.
    news: watch::Sender<u64>,
    config: HubConfig,
    started: Instant,
}

type ProxyId = u64;

#[derive(Debug)]
struct State {
    index: Index,
    /// Whether the source has been read once: before that nothing is known to be absent.
    loaded: bool,
    /// Trust anchors, DER, and the version of the mesh's answer that first had them.
    anchors: Vec<Vec<u8>>,
    anchors_version: u64,
    /// How other replicas call these anchors.
    bundle: Option<BundleId>,
    /// Where we serve ourselves, once we have heard ourselves there.
    own_addr: Option<SocketAddr>,
    /// Other replicas, by where they serve.
    peers: BTreeMap<SocketAddr, Peer>,
    proxies: BTreeMap<ProxyId, Proxy>,
    next_proxy: ProxyId,
    /// Every answer that somebody asked for.
    answers: BTreeMap<Watched, Answer>,
    /// Every proxy that may hold a certificate.
    known: BTreeMap<WorkloadName, Known>,
    departures: BTreeMap<WorkloadName, Departure>,
    /// Changes that are not acknowledged by all yet.
    unsettled: BTreeMap<u64, Unsettled>,
    files: Vec<FileProblem>,
    /// What Kubernetes calls the version of a resource that was taken in last.
    generations: BTreeMap<ObjectKey, i64>,
    /// Whether proxies are told wider networks than there are addresses.
    widened: bool,
    /// The metric of that name.
    answers_computed: Counter,
}

/// A change on its way.
#[derive(Debug)]
struct Unsettled {
    since: Instant,
    /// Acknowledgements that are still to come.
    owed: usize,
}

impl Hub {
    /// A hub without resources and proxies.
    pub fn new(config: HubConfig, metrics: Arc<Metrics>) -> Self {
        let state = State {
            index: Index::new(config.index.clone()),
            loaded: false,
            anchors: Vec::new(),
            anchors_version: 0,
            bundle: None,
            own_addr: None,
            peers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            next_proxy: 0,
            answers: BTreeMap::new(),
            known: BTreeMap::new(),
            departures: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            files: Vec::new(),
            generations: BTreeMap::new(),
            widened: false,
            answers_computed: metrics.answers_computed.clone(),
        };
        Self { state: Mutex::new(state), metrics, news: watch::Sender::new(0), config, started: Instant::now() }
    }

    /// Takes in what a source saw.
    pub fn take(&self, seen: &Seen) {
        let mut state = self.state();
        let mut affected = BTreeSet::new();
        for event in &seen.events {
            state.count_generation(event);
            let changes = match event {
                Event::Apply(object) => state.index.apply(object),
                Event::Delete(key) => state.index.delete(key),
            };
            self.metrics.changes.inc();
            affected.extend(changes.affected);
        }
        if !seen.partial {
            state.complain(&seen.events);
            state.complain_of_networks();
            state.loaded = true;
        }
        state.files.clone_from(&seen.problems);
        let version = state.index.version();
        state.spread(&affected, version, Instant::now());
        self.depart(&mut state, &affected, version);
        self.finish(state);
    }

    /// Puts a new set of trust anchors into the mesh's answer.
    pub fn publish_anchors(&self, anchors: Vec<Vec<u8>>) {
        let mut state = self.state();
        if state.anchors == anchors {
            return;
        }
        state.bundle = Some(BundleId::of(&anchors));
        state.anchors = anchors;
        let version = state.index.advance();
        state.anchors_version = version;
        state.spread(&BTreeSet::from([weft_index::Affected::Mesh]), version, Instant::now());
        self.finish(state);
    }

    /// Does what is due by time alone: releases that waited for the grace, proxies that cannot come back.
    pub fn tick(&self, now_unix_s: u64) {
        let mut state = self.state();
        state.known.retain(|_, known| known.may_return(now_unix_s));
        state.forget_departed();
        if self.release_ready(&mut state) {
            self.finish(state);
        }
    }

    /// Brings the gauges up to date; for a scrape.
    pub fn measure(&self) {
        let state = self.state();
        self.metrics.proxies.set(gauge(state.proxies.len()));
        self.metrics.subscriptions.set(gauge(state.proxies.values().map(|proxy| proxy.subscriptions.len()).sum()));
        self.metrics.answers.set(gauge(state.answers.len()));
        let (heard, unheard) = state.peer_counts();
        self.metrics.set_peers(gauge(heard), gauge(unheard));
        self.metrics.file_problems.set(gauge(state.files.iter().filter(|problem| !problem.ignored).count()));
        drop(state);
        self.metrics.set_resources(self.resources());
    }

    /// Whether the source has been read once.
    pub fn is_loaded(&self) -> bool {
        self.state().loaded
    }

    /// Whether a workload with this identity exists now.
    pub fn identity_exists(&self, identity: &SpiffeId) -> bool {
        self.state().index.has_identity(identity)
    }

    /// Counts what may have changed a report.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Short sections only, never held across an await. A poisoned lock is taken as it is: every section leaves the state
    /// consistent at each of its steps, and stopping all proxies' configuration would be worse.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a section that changed something: settled changes, news.
    fn finish(&self, mut state: MutexGuard<'_, State>) {
        let now = Instant::now();
        let settled: Vec<u64> = state.unsettled.iter().filter(|(_, u)| u.owed == 0).map(|(v, _)| *v).collect();
        for version in settled {
            if let Some(unsettled) = state.unsettled.remove(&version) {
                self.metrics.settled.observe(now.duration_since(unsettled.since).as_secs_f64());
            }
        }
        drop(state);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl State {
    fn count_generation(&mut self, event: &Event) {
        match event {
            Event::Apply(object) => match object.generation() {
                Some(generation) => drop(self.generations.insert(object.key(), generation)),
                None => drop(self.generations.remove(&object.key())),
            },
            Event::Delete(key) => drop(self.generations.remove(key)),
        }
    }

    /// Says in the log what of new versions is not in force. Once all were taken in: they may be read in any order.
    fn complain(&self, events: &[Event]) {
        let keys = events.iter().filter_map(|event| match event {
            Event::Apply(object) => Some(object.key()),
            Event::Delete(_) => None,
        });
        // At a start, of all that came in parts.
        let keys: Vec<ObjectKey> = if self.loaded { keys.collect() } else { self.index.keys().collect() };
        for key in keys {
            let problems = self.index.status(&key).map(|status| status.problems).unwrap_or_default();
            for problem in problems.iter().filter(|problem| problem.condition != Condition::Notice) {
                tracing::warn!(resource = %key, %problem, "not all of a resource is in force");
            }
        }
    }

    /// Says in the log when addresses outside of the mesh's networks become too many to be told one by one. Once, not
    /// with every change.
    fn complain_of_networks(&mut self) {
        let widened = self.index.widened_networks();
        if let Some(outside) = widened.filter(|_| !self.widened) {
            tracing::warn!(
                outside,
                networks_max = NETWORKS_MAX,
                "too many addresses outside the mesh's networks, proxies are told wider ones; configure the networks"
            );
        }
        self.widened = widened.is_some();
    }

    /// The last thing that a source said about a resource's file, if it said something bad.
    fn file_problems<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = &'a FileProblem> {
        self.files.iter().filter(move |problem| problem.object.as_ref() == Some(key))
    }
}

#[cfg(test)]
mod churn;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire;
