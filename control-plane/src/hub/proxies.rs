//! Proxies: who they are, what they asked for, what they were sent and what they said to it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use weft_model::resources::{ResourceKey, Update};
use weft_model::{ServiceKey, SpiffeId, WorkloadName};
use weft_proto::convert::{Hello, Request};

use super::answers::Watched;
use super::{BundleId, Hub, ProxyId, State};

/// Subscriptions of one proxy: a proxy keeps at most 8,192 destinations, each with a service, its endpoints and some
/// backends.
const SUBSCRIPTIONS_MAX: usize = 4 * 8_192 + 16;

/// Proxies of one control plane. Beyond it another replica is to take them.
const PROXIES_MAX: usize = 20_000;

/// Changes of one answer that a proxy has not acknowledged. One that never answers is not waited for any longer.
const OWED_MAX: usize = 16;

/// A proxy on its stream.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) workload: WorkloadName,
    pub(super) version: String,
    pub(super) subscriptions: BTreeMap<ResourceKey, Subscription>,
    /// What is to be sent, each key once.
    due: VecDeque<ResourceKey>,
    wake: Arc<Notify>,
}

/// One thing that a proxy asked for.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// The version that was sent last; `None`: nothing, or it must begin anew.
    sent: Option<u64>,
    /// The highest version that was ever sent on this stream: what may be acknowledged.
    told: u64,
    pub(super) acked: u64,
    /// The version that was refused last, and why.
    pub(super) nacked: Option<(u64, String)>,
    /// Whether it stands in `due`.
    is_due: bool,
    /// Versions whose acknowledgement somebody waits for.
    owed: VecDeque<u64>,
}

/// A proxy that may hold a certificate.
#[derive(Debug)]
pub(super) struct Known {
    /// Streams that it has.
    streams: usize,
    /// The trust bundle that it acknowledged last.
    pub(super) bundle: Option<BundleId>,
    /// When it is away: until when a certificate of its may be valid.
    returns_until_unix_s: u64,
}

impl Known {
    pub(super) fn is_connected(&self) -> bool {
        self.streams > 0
    }

    pub(super) fn may_return(&self, now_unix_s: u64) -> bool {
        self.is_connected() || now_unix_s <= self.returns_until_unix_s
    }
}

/// A stream that was let in.
#[derive(Debug)]
pub struct Connected {
    /// How the hub calls it.
    pub id: u64,
    /// Told when something is due.
    pub wake: Arc<Notify>,
}

/// Why a proxy is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It claims an address that is not its workload's.
    Address {
        /// The address.
        ip: IpAddr,
        /// Its owner, where there is one.
        owner: Option<WorkloadName>,
    },
    /// Too many proxies are here already.
    Full,
    /// Its certificate is somebody else's.
    Identity {
        /// The workload's.
        expected: SpiffeId,
        /// The certificate's.
        found: SpiffeId,
    },
    /// It subscribes to more than a proxy may.
    TooMany,
    /// It claims another uid.
    Uid,
    /// There is no such workload.
    Unknown(WorkloadName),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { ip, owner: Some(owner) } => write!(f, "{ip} is the address of workload {owner}"),
            Self::Address { ip, owner: None } => write!(f, "the workload's address {ip} is not among those claimed"),
            Self::Full => write!(f, "{PROXIES_MAX} proxies are served already"),
            Self::Identity { expected, found } => write!(f, "the workload is {expected}, the certificate says {found}"),
            Self::TooMany => write!(f, "more than {SUBSCRIPTIONS_MAX} subscriptions"),
            Self::Uid => f.write_str("the workload has another uid"),
            Self::Unknown(workload) => write!(f, "there is no workload {workload}"),
        }
    }
}

impl std::error::Error for Refused {}

impl Hub {
    /// Lets a proxy in, if what it claims belongs to the identity that it proved (semantics 30).
    ///
    /// # Errors
    /// What it claims does not; or there is no room.
    pub fn connect(&self, hello: &Hello, identity: &SpiffeId) -> Result<Connected, Refused> {
        let mut state = self.state();
        state.check(hello, identity)?;
        if state.proxies.len() >= PROXIES_MAX {
            return Err(Refused::Full);
        }
        let id = state.next_proxy;
        state.next_proxy += 1;
        let wake = Arc::new(Notify::new());
        let proxy = Proxy {
            workload: hello.workload.clone(),
            version: hello.version.clone(),
            subscriptions: BTreeMap::new(),
            due: VecDeque::new(),
            wake: Arc::clone(&wake),
        };
        state.proxies.insert(id, proxy);
        let known = Known { streams: 0, bundle: None, returns_until_unix_s: 0 };
        state.known.entry(hello.workload.clone()).or_insert(known).streams += 1;
        self.finish(state);
        Ok(Connected { id, wake })
    }

    /// Forgets a proxy's stream.
    pub fn disconnect(&self, id: u64, now_unix_s: u64) {
        let mut state = self.state();
        let Some(proxy) = state.proxies.remove(&id) else { return };
        for (key, subscription) in &proxy.subscriptions {
            state.settle(&subscription.owed);
            state.unsubscribe_from(&Watched::of(key, &proxy.workload), id);
        }
        // It may have renewed its certificate just now.
        let until = now_unix_s.saturating_add(self.config.leaf_life.as_secs());
        if let Some(known) = state.known.get_mut(&proxy.workload) {
            known.streams = known.streams.saturating_sub(1);
            known.returns_until_unix_s = known.returns_until_unix_s.max(until);
        }
        self.finish(state);
    }

    /// Takes in what a proxy says.
    ///
    /// # Errors
    /// Only that it asks for too much; then its stream ends.
    pub fn request(&self, id: u64, request: Request) -> Result<(), Refused> {
        let mut state = self.state();
        match request {
            Request::Ack { key, version } => {
                if state.ack(id, &key, version) {
                    self.metrics.acks.inc();
                    self.acknowledged(&mut state, id, &key);
                }
            }
            Request::Nack { key, version, reason } => {
                if state.nack(id, &key, version, reason) {
                    self.metrics.nacks.inc();
                }
            }
            // A second Hello says nothing new: the stream stays what it is.
            Request::Hello(_) => {}
            Request::Subscribe(key) => state.subscribe(id, &key)?,
            Request::Unsubscribe(key) => {
                state.unsubscribe(id, &key);
                self.dropped(&mut state, id, &key);
            }
        }
        self.finish(state);
        Ok(())
    }

    /// What a proxy is to be sent next; `None`: nothing is due.
    pub fn next(&self, id: u64) -> Option<Arc<Update>> {
        let mut state = self.state();
        loop {
            let (key, watched, sent) = state.pop_due(id)?;
            let Some(update) = state.answer(id, &watched, sent) else { continue };
            state.mark_sent(id, &key, update.version);
            return Some(update);
        }
    }
}

impl State {
    fn check(&self, hello: &Hello, identity: &SpiffeId) -> Result<(), Refused> {
        let facts = self.index.workload(&hello.workload).ok_or_else(|| Refused::Unknown(hello.workload.clone()))?;
        if facts.identity != *identity {
            return Err(Refused::Identity { expected: facts.identity, found: identity.clone() });
        }
        if facts.uid.is_some_and(|uid| *uid != *hello.uid) {
            return Err(Refused::Uid);
        }
        let claims_one = hello.addresses.iter().any(|ip| facts.ips.contains(&ip.to_canonical()));
        if let Some(ip) = facts.ips.first().filter(|_| !hello.addresses.is_empty() && !claims_one) {
            return Err(Refused::Address { ip: *ip, owner: None });
        }
        for ip in hello.addresses.iter().filter(|ip| !facts.ips.contains(&ip.to_canonical())) {
            if let Some(owner) = self.index.owner(*ip).filter(|owner| *owner != hello.workload) {
                return Err(Refused::Address { ip: *ip, owner: Some(owner) });
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, id: ProxyId, key: &ResourceKey) -> Result<(), Refused> {
        let Some(proxy) = self.proxies.get_mut(&id) else { return Ok(()) };
        if !proxy.subscriptions.contains_key(key) && proxy.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(Refused::TooMany);
        }
        let watched = Watched::of(key, &proxy.workload);
        // Asking again for what one has means to begin anew.
        proxy.subscriptions.entry(key.clone()).or_default().sent = None;
        proxy.make_due(key);
        self.subscribe_to(&watched, id);
        Ok(())
    }

    fn unsubscribe(&mut self, id: ProxyId, key: &ResourceKey) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        let watched = Watched::of(key, &proxy.workload);
        if let Some(subscription) = proxy.subscriptions.remove(key) {
            proxy.due.retain(|due| due != key);
            self.settle(&subscription.owed);
            self.unsubscribe_from(&watched, id);
        }
    }

    /// Whether it was about something that was sent.
    fn ack(&mut self, id: ProxyId, key: &ResourceKey, version: u64) -> bool {
        let Some(proxy) = self.proxies.get_mut(&id) else { return false };
        let workload = proxy.workload.clone();
        let Some(subscription) = proxy.subscriptions.get_mut(key).filter(|s| version <= s.told) else { return false };
        subscription.acked = subscription.acked.max(version);
        subscription.nacked.take_if(|(nacked, _)| *nacked < version);
        let settled = subscription.owed.iter().take_while(|owed| **owed <= version).count();
        let settled: VecDeque<u64> = subscription.owed.drain(..settled).collect();
        self.settle(&settled);
        if *key == ResourceKey::Mesh
            && version >= self.anchors_version
            && let Some(known) = self.known.get_mut(&workload)
        {
            known.bundle = self.bundle;
        }
        true
    }

    /// Whether it was about something that was sent. The proxy keeps what it had, which is not what was sent last: what
    /// comes next is the whole.
    fn nack(&mut self, id: ProxyId, key: &ResourceKey, version: u64, reason: String) -> bool {
        let Some(proxy) = self.proxies.get_mut(&id) else { return false };
        let workload = proxy.workload.clone();
        let Some(subscription) = proxy.subscriptions.get_mut(key).filter(|s| version <= s.told) else { return false };
        tracing::warn!(%workload, %key, version, reason, "proxy refused a version");
        subscription.nacked = Some((version, reason));
        if subscription.sent == Some(version) {
            // Not due: the same value would be refused again.
            subscription.sent = None;
        }
        let settled: VecDeque<u64> = subscription.owed.drain(..).collect();
        self.settle(&settled);
        true
    }

    /// The next thing that is due to a proxy, with what it was sent of it.
    fn pop_due(&mut self, id: ProxyId) -> Option<(ResourceKey, Watched, Option<u64>)> {
        let proxy = self.proxies.get_mut(&id)?;
        loop {
            let key = proxy.due.pop_front()?;
            if let Some(subscription) = proxy.subscriptions.get_mut(&key) {
                subscription.is_due = false;
                let (watched, sent) = (Watched::of(&key, &proxy.workload), subscription.sent);
                return Some((key, watched, sent));
            }
        }
    }

    fn mark_sent(&mut self, id: ProxyId, key: &ResourceKey, version: u64) {
        if let Some(subscription) = self.proxies.get_mut(&id).and_then(|proxy| proxy.subscriptions.get_mut(key)) {
            subscription.sent = Some(version);
            subscription.told = subscription.told.max(version);
        }
    }

    /// Notes that nobody waits for these acknowledgements any more.
    fn settle(&mut self, versions: &VecDeque<u64>) {
        for version in versions {
            if let Some(unsettled) = self.unsettled.get_mut(version) {
                unsettled.owed = unsettled.owed.saturating_sub(1);
            }
        }
    }

    /// Who holds endpoints of a service port, beside the version that they acknowledged.
    pub(super) fn holders(&self, key: &ServiceKey) -> impl Iterator<Item = (&WorkloadName, &Subscription)> {
        let answer = self.answers.get(&Watched::Endpoints(key.clone()));
        let key = ResourceKey::Endpoints(key.clone());
        answer.into_iter().flat_map(|answer| &answer.subscribers).filter_map(move |id| {
            let proxy = self.proxies.get(id)?;
            proxy.subscriptions.get(&key).map(|subscription| (&proxy.workload, subscription))
        })
    }
}

impl Subscription {
    /// How many acknowledgements are waited for.
    #[cfg(test)]
    pub(super) fn owed_len(&self) -> usize {
        self.owed.len()
    }

    /// Whether anything of this was ever sent.
    pub(super) fn was_told(&self) -> bool {
        self.told > 0
    }
}

impl Proxy {
    /// Notes that a version is to be sent and acknowledged; how many acknowledgements more are waited for.
    pub(super) fn owe(&mut self, key: &ResourceKey, version: u64) -> usize {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return 0 };
        let waits = subscription.owed.len() < OWED_MAX;
        if waits {
            subscription.owed.push_back(version);
        }
        self.make_due(key);
        usize::from(waits)
    }

    /// How many answers are to be sent.
    #[cfg(test)]
    pub(super) fn due_len(&self) -> usize {
        self.due.len()
    }

    fn make_due(&mut self, key: &ResourceKey) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if !subscription.is_due {
            subscription.is_due = true;
            self.due.push_back(key.clone());
        }
        self.wake.notify_one();
    }
}
