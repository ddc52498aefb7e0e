//! The books of the task: what is subscribed to, why, who waits for it, and when it is given up.
//!
//! Giving up is done in two steps, because a worker may take a service out of the snapshot at the very moment at which
//! it is found idle. First it is hidden: no reader finds it any more, while it stays subscribed. If by the next sweep
//! nobody holds it, nobody can come to hold it, and it goes; otherwise it is shown again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_model::ServiceKey;
use weft_model::resources::{ResourceKey, ServiceSpec};
use weft_proto::convert::Request;
use weft_proxy_core::route::http::HttpRoutes;

use super::cache::{Cache, Entry, Known, LastUsed};
use super::service::{Backend, Service, Workload};
use super::{Ask, Cause, DESTINATIONS_MAX, MISS_MAX, MISSES_MAX, PEERS_MAX, PENDING_MAX, UNANSWERED_MAX, WAITERS_MAX};

/// All state of the task that outlives a stream.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) cache: Arc<Cache>,
    pub(super) destinations: BTreeMap<SocketAddr, Destination>,
    pub(super) services: BTreeMap<ServiceKey, Subscribed>,
    pub(super) backends: BTreeMap<ServiceKey, Endpoints>,
    /// What is to be said on the stream, in order. Empty while there is none.
    pub(super) outbox: VecDeque<Request>,
    /// What nobody has used for so long is given up.
    idle_max: Duration,
    pub(super) is_up: bool,
    /// Whether readers' map is behind the books.
    pub(super) is_stale: bool,
    /// Whether what is kept for a restart is behind the books.
    pub(super) is_unkept: bool,
}

#[derive(Debug)]
pub(super) struct Destination {
    /// When it was asked for, or last answered.
    pub(super) since: Duration,
    pub(super) answer: Option<Answer>,
    waiters: Vec<oneshot::Sender<Result<Known, Cause>>>,
    pub(super) used: Arc<LastUsed>,
    is_hidden: bool,
}

#[derive(Debug)]
pub(super) enum Answer {
    NotFound,
    PortNotFound,
    Service(ServiceKey),
    Workload(Arc<Workload>),
}

/// A service port that is subscribed to.
#[derive(Debug, Default)]
pub(super) struct Subscribed {
    /// There once its first version is in force.
    pub(super) service: Option<Arc<Service>>,
    /// A version that waits for the endpoints of its backends.
    pub(super) staged: Option<Staged>,
}

#[derive(Debug)]
pub(super) struct Staged {
    pub(super) version: u64,
    pub(super) spec: ServiceSpec,
    pub(super) routes: HttpRoutes,
}

/// Endpoints that are subscribed to.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// There once its first answer is.
    pub(super) backend: Option<Arc<Backend>>,
    /// Whether the whole set was told on this stream, so that deltas have a base.
    pub(super) has_base: bool,
}

impl Books {
    pub(super) fn new(cache: Arc<Cache>, idle_max: Duration) -> Self {
        Self {
            cache,
            destinations: BTreeMap::new(),
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            outbox: VecDeque::new(),
            idle_max,
            is_up: false,
            is_stale: false,
            is_unkept: false,
        }
    }

    /// A stream is there: everything is asked for anew.
    pub(super) fn open(&mut self) {
        self.is_up = true;
        self.outbox.clear();
        for entry in self.services.values_mut() {
            // It will come again, with a version that this stream knows.
            entry.staged = None;
        }
        for entry in self.backends.values_mut() {
            entry.has_base = false;
        }
        let keys = [ResourceKey::Mesh, ResourceKey::Inbound].into_iter();
        let keys = keys.chain(self.destinations.keys().copied().map(ResourceKey::Destination));
        let keys = keys.chain(self.services.keys().cloned().map(ResourceKey::Service));
        let keys = keys.chain(self.backends.keys().cloned().map(ResourceKey::Endpoints));
        self.outbox.extend(keys.map(Request::Subscribe));
    }

    /// The stream is gone; what is known stays.
    pub(super) fn close(&mut self) {
        self.is_up = false;
        self.outbox.clear();
    }

    pub(super) fn say(&mut self, request: Request) {
        if self.is_up {
            self.outbox.push_back(request);
        }
    }

    /// Answers a worker, now or later.
    pub(super) fn ask(&mut self, ask: Ask) {
        let Ask { addr, tell } = ask;
        let now = self.cache.now();
        if !self.destinations.contains_key(&addr) {
            if let Err(cause) = self.make_room(addr) {
                return refuse(tell, cause, &self.cache);
            }
            self.say(Request::Subscribe(ResourceKey::Destination(addr)));
            // Readers see that a peer is asked for.
            self.is_stale |= tell.is_none();
        }
        let found = self.found(addr);
        let entry = self.destinations.entry(addr).or_insert_with(|| Destination::new(now));
        entry.used.touch(now);
        self.is_stale |= std::mem::take(&mut entry.is_hidden);
        let Some(tell) = tell else { return };
        match found {
            Some(found) => answer(tell, Ok(found)),
            None => {
                entry.waiters.retain(|waiter| !waiter.is_closed());
                if entry.waiters.len() < WAITERS_MAX {
                    entry.waiters.push(tell);
                } else {
                    refuse(Some(tell), Cause::Full, &self.cache);
                }
            }
        }
    }

    /// Refuses a new destination where a bound is reached; misses make room for what may be more.
    fn make_room(&mut self, addr: SocketAddr) -> Result<(), Cause> {
        let peers = self.destinations.keys().filter(|addr| addr.port() == 0).count();
        let unanswered = self.destinations.values().filter(|entry| entry.answer.is_none()).count();
        if unanswered >= UNANSWERED_MAX || (addr.port() == 0 && peers >= PEERS_MAX) {
            return Err(Cause::Full);
        }
        if self.destinations.len() < DESTINATIONS_MAX || self.forget_oldest_miss() { Ok(()) } else { Err(Cause::Full) }
    }

    pub(super) fn bound_misses(&mut self) {
        let misses = self.destinations.values().filter(|entry| entry.is_miss()).count();
        if misses > MISSES_MAX {
            self.forget_oldest_miss();
        }
    }

    fn forget_oldest_miss(&mut self) -> bool {
        let misses = self.destinations.iter().filter(|(_, entry)| entry.is_miss());
        let oldest = misses.min_by_key(|(_, entry)| entry.since).map(|(addr, _)| *addr);
        if let Some(addr) = oldest {
            self.forget(addr);
        }
        oldest.is_some()
    }

    /// Gives a destination up. What it led to goes with the next sweep, if nothing else leads there.
    fn forget(&mut self, addr: SocketAddr) {
        if let Some(Destination { answer: Some(Answer::Workload(workload)), .. }) = self.destinations.remove(&addr) {
            workload.retire(std_now());
        }
        self.say(Request::Unsubscribe(ResourceKey::Destination(addr)));
        self.cache.stats.evicted.inc();
        self.is_stale = true;
        self.is_unkept = true;
    }

    /// What readers may be told about a destination, if it is complete.
    pub(super) fn found(&self, addr: SocketAddr) -> Option<Known> {
        match self.destinations.get(&addr)?.answer.as_ref()? {
            Answer::NotFound => Some(Known::NotFound),
            Answer::PortNotFound => Some(Known::PortNotFound),
            Answer::Service(key) => self.services.get(key)?.service.clone().map(Known::Service),
            Answer::Workload(workload) => Some(Known::Workload(Arc::clone(workload))),
        }
    }

    /// Tells those who wait for a destination, if it is complete now.
    pub(super) fn settle(&mut self, addr: SocketAddr) {
        let Some(found) = self.found(addr) else { return };
        self.is_stale = true;
        let Some(entry) = self.destinations.get_mut(&addr) else { return };
        for waiter in entry.waiters.drain(..) {
            answer(waiter, Ok(found.clone()));
        }
    }

    /// Tells those who wait for any destination of a service.
    pub(super) fn settle_service(&mut self, key: &ServiceKey) {
        let leads = |entry: &Destination| matches!(&entry.answer, Some(Answer::Service(to)) if to == key);
        let addrs: Vec<_> = self.destinations.iter().filter(|(_, e)| leads(e)).map(|(addr, _)| *addr).collect();
        for addr in addrs {
            self.settle(addr);
        }
    }

    /// Subscribes to a service port, and to its endpoints right away: without routes they are what it needs.
    pub(super) fn need_service(&mut self, key: &ServiceKey) {
        if !self.services.contains_key(key) {
            self.services.insert(key.clone(), Subscribed::default());
            self.say(Request::Subscribe(ResourceKey::Service(key.clone())));
        }
        self.need_endpoints(key);
    }

    pub(super) fn need_endpoints(&mut self, key: &ServiceKey) {
        if !self.backends.contains_key(key) {
            self.backends.insert(key.clone(), Endpoints::default());
            self.say(Request::Subscribe(ResourceKey::Endpoints(key.clone())));
        }
    }

    /// Gives up endpoints that no service leads to any more. A request that was routed by an older snapshot still holds
    /// its backend, and may come to choose an endpoint, or another one, only now: that is waited for.
    fn drop_unused_endpoints(&mut self) {
        let mut used: BTreeSet<&ServiceKey> = self.services.keys().collect();
        let snapshots: Vec<_> =
            self.services.values().filter_map(|e| e.service.as_ref()).map(|s| s.snapshot()).collect();
        used.extend(snapshots.iter().flat_map(|snapshot| snapshot.routes.backend_keys()));
        let staged = self.services.values().filter_map(|entry| entry.staged.as_ref());
        used.extend(staged.flat_map(|staged| staged.routes.backend_keys()));
        let is_unused = |(key, entry): &(&ServiceKey, &Endpoints)| {
            let is_held = entry.backend.as_ref().is_some_and(|backend| Arc::strong_count(backend) > 1);
            !is_held && !used.contains(key)
        };
        let unused: Vec<_> = self.backends.iter().filter(is_unused).map(|(key, _)| key.clone()).collect();
        drop(snapshots);
        for key in unused {
            if let Some(Endpoints { backend: Some(backend), .. }) = self.backends.remove(&key) {
                backend.retire(std_now());
            }
            self.say(Request::Unsubscribe(ResourceKey::Endpoints(key)));
        }
    }

    /// Gives up what nobody uses. While the stream is down only open questions are, which nobody asks any more.
    pub(super) fn sweep(&mut self) {
        let now = self.cache.now();
        let is_abandoned = |entry: &mut Destination| {
            entry.waiters.retain(|waiter| !waiter.is_closed());
            let is_idle = now.saturating_sub(entry.since) >= PENDING_MAX;
            entry.answer.is_none() && entry.waiters.is_empty() && is_idle
        };
        let abandoned = self.destinations.iter_mut().filter_map(|(addr, e)| is_abandoned(e).then_some(*addr));
        let is_old_miss = |entry: &Destination| entry.is_miss() && now.saturating_sub(entry.since) >= MISS_MAX;
        let mut gone: Vec<_> = abandoned.collect();
        if self.is_up {
            gone.extend(self.destinations.iter().filter(|(_, e)| is_old_miss(e)).map(|(addr, _)| *addr));
            gone.extend(self.hide_idle(now));
        }
        for addr in gone {
            self.forget(addr);
        }
        if self.is_up {
            self.drop_unused_services();
            // What was given up after the map was published is counted out, too.
            self.count();
        }
    }

    /// Hides what is idle, shows again what was taken meanwhile, and returns what was hidden before and is still idle.
    fn hide_idle(&mut self, now: Duration) -> Vec<SocketAddr> {
        let held = self.held();
        let mut gone = Vec::new();
        for (addr, entry) in &mut self.destinations {
            let is_held = match &entry.answer {
                Some(Answer::Service(key)) => held.contains(key),
                // Beyond ours and the readers' map.
                Some(Answer::Workload(workload)) => Arc::strong_count(workload) > 1 + usize::from(!entry.is_hidden),
                Some(Answer::NotFound | Answer::PortNotFound) | None => continue,
            };
            let is_idle = !is_held && entry.used.idle(now) >= self.idle_max;
            if is_idle && entry.is_hidden {
                gone.push(*addr);
            } else if is_idle != entry.is_hidden {
                entry.is_hidden = is_idle;
                self.is_stale = true;
            }
        }
        gone
    }

    /// Services that somebody holds: beyond one reference of ours, and one of the readers' map per visible destination.
    fn held(&self) -> BTreeSet<ServiceKey> {
        let mut visible: BTreeMap<&ServiceKey, usize> = BTreeMap::new();
        for entry in self.destinations.values().filter(|entry| !entry.is_hidden) {
            if let Some(Answer::Service(key)) = &entry.answer {
                *visible.entry(key).or_default() += 1;
            }
        }
        let is_held = |(key, entry): &(&ServiceKey, &Subscribed)| {
            let known = 1 + visible.get(key).copied().unwrap_or_default();
            entry.service.as_ref().is_some_and(|service| Arc::strong_count(service) > known)
        };
        self.services.iter().filter(is_held).map(|(key, _)| key.clone()).collect()
    }

    /// Gives up services that no destination leads to and nobody holds. The readers' map must be current.
    fn drop_unused_services(&mut self) {
        if self.is_stale {
            self.publish();
        }
        let target = |entry: &Destination| match &entry.answer {
            Some(Answer::Service(key)) => Some(key.clone()),
            _ => None,
        };
        let mut needed: BTreeSet<ServiceKey> = self.destinations.values().filter_map(target).collect();
        needed.extend(self.held());
        let unused: Vec<_> = self.services.keys().filter(|key| !needed.contains(key)).cloned().collect();
        for key in unused {
            self.services.remove(&key);
            self.cache.stats.evicted.inc();
            self.say(Request::Unsubscribe(ResourceKey::Service(key)));
        }
        self.drop_unused_endpoints();
    }

    /// Brings the readers' map up to date.
    pub(super) fn publish(&mut self) {
        self.is_stale = false;
        let mut visible = HashMap::with_capacity(self.destinations.len());
        for (addr, entry) in self.destinations.iter().filter(|(_, entry)| !entry.is_hidden) {
            let found = self.found(*addr);
            if found.is_some() || addr.port() == 0 {
                visible.insert(*addr, Entry { found, used: Arc::clone(&entry.used) });
            }
        }
        self.cache.destinations.publish(visible);
        self.count();
    }

    /// Tells how much is subscribed to.
    fn count(&self) {
        let subscriptions = 2 + self.destinations.len() + self.services.len() + self.backends.len();
        self.cache.stats.subscriptions.set(i64::try_from(subscriptions).unwrap_or(i64::MAX));
    }
}

impl Destination {
    pub(super) fn new(now: Duration) -> Self {
        let used = Arc::new(LastUsed::new(now));
        Self { since: now, answer: None, waiters: Vec::new(), used, is_hidden: false }
    }

    fn is_miss(&self) -> bool {
        matches!(self.answer, Some(Answer::NotFound | Answer::PortNotFound))
    }
}

/// What the pure parts count in; moves with tokio's clock, so that tests can.
pub(super) fn std_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn answer(waiter: oneshot::Sender<Result<Known, Cause>>, found: Result<Known, Cause>) {
    // Who no longer waits needs no answer.
    drop(waiter.send(found));
}

fn refuse(tell: Option<oneshot::Sender<Result<Known, Cause>>>, cause: Cause, cache: &Cache) {
    match tell {
        Some(tell) => answer(tell, Err(cause)),
        None => cache.stats.lookup_failed(cause),
    }
}
