//! What is known of the mesh: asked for on demand over one Watch stream, kept as snapshots that workers read.
//!
//! Two halves. [`Client`] is one task on the control thread: it owns the stream ([`stream`]), believes or refuses what
//! arrives and is the only writer of snapshots ([`apply`], with the books in [`subscriptions`]). [`Discovery`] is the
//! handle of the workers: what is known costs one lookup in a snapshot ([`cache`]) and no lock; only what is not known
//! yet goes through a bounded queue to the task, and waits at most [`LOOKUP_DEADLINE`].
//!
//! Invariants: an unknown destination inside the mesh is never taken for an outside one; a bad answer changes nothing;
//! while the stream is down nothing that is known is forgotten; a `Service` that is held by somebody stays subscribed;
//! every map and queue here has a bound in this file.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use weft_model::resources::EgressMode;
use weft_model::{OriginalDst, SpiffeId, WorkloadName};
use weft_proto::proxy::v1::WatchResponse;
use weft_tls::TrustBundle;

use crate::error::Reason;
use crate::record::Text;

mod apply;
mod cache;
mod dump;
mod keep;
mod report;
mod service;
mod stats;
mod stream;
mod subscriptions;

pub(crate) use service::{Backend, Inbound, Mesh, Service, Workload, WorkloadSnapshot};
pub(crate) use stream::Client;

use cache::{Cache, Known};
use subscriptions::Books;

/// How long an unknown destination is waited for (semantics 21).
pub(crate) const LOOKUP_DEADLINE: Duration = Duration::from_secs(3);
/// How long "nothing is there" is believed, though the control plane would say if that changed: a port scan must not
/// fill the subscriptions.
const MISS_MAX: Duration = Duration::from_secs(10);
/// How long a question is kept open that nobody waits for any more.
const PENDING_MAX: Duration = Duration::from_secs(10);
/// Destinations that are known or asked for at once. Guess: forty times what a busy workload talks to.
const DESTINATIONS_MAX: usize = 8_192;
/// Of these, how many may be misses; beyond, the oldest is forgotten.
const MISSES_MAX: usize = 1_024;
/// Of these, how many may be without an answer; beyond, a lookup fails at once.
const UNANSWERED_MAX: usize = 512;
/// Of these, how many may be peers, looked up for telemetry; beyond, a peer stays unknown.
const PEERS_MAX: usize = 2_048;
/// Connections that wait for the answer about one destination.
const WAITERS_MAX: usize = 4_096;
/// Service ports that the routes of one service may name.
const BACKENDS_OF_SERVICE_MAX: usize = 1_024;
/// Questions of workers that wait for the task. It answers in microseconds.
const ASKS_MAX: usize = 1_024;

/// What is behind an original destination.
#[derive(Clone, Debug)]
pub(crate) enum Resolved {
    /// Inside the mesh's networks, and nothing that is known.
    NotFound,
    /// Not of the mesh. Whether it may be reached is for the egress policy ([`Mesh::egress`]) to say.
    Outside,
    /// A Service's address, with a port that it does not have.
    PortNotFound,
    /// A service port.
    Service(Arc<Service>),
    /// A workload, dialled by its own address.
    Workload(Arc<Workload>),
}

/// Discovery had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// The control plane is away, or slow, or we are.
    #[error("discovery has no answer about {dst}: {cause}")]
    Unavailable {
        /// What was asked about.
        dst: OriginalDst,
        /// What was in the way.
        cause: Cause,
    },
}

/// What was in the way of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    /// None came within [`LOOKUP_DEADLINE`].
    #[error("none came within {} s", LOOKUP_DEADLINE.as_secs())]
    Deadline,
    /// A bound of this module was reached.
    #[error("too many lookups at once")]
    Full,
    /// The proxy is going down.
    #[error("discovery has stopped")]
    Stopped,
}

impl DiscoveryError {
    /// What metrics, logs and headers call it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Unavailable { .. } => Reason::DiscoveryUnavailable,
        }
    }
}

/// The readers' handle: cheap to clone, for all threads.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    cache: Arc<Cache>,
    asks: mpsc::Sender<Ask>,
}

/// A question of a worker to the task.
#[derive(Debug)]
struct Ask {
    addr: SocketAddr,
    /// Where the answer goes; `None` for peers, which nobody waits for.
    tell: Option<oneshot::Sender<Result<Known, Cause>>>,
}

impl Discovery {
    /// The handle, and what the task is made from by [`Client::new`]. What nobody has used for `idle_max` is no longer
    /// subscribed to.
    pub(crate) fn new(idle_max: Duration) -> (Self, Inbox) {
        let cache = Arc::new(Cache::new());
        let (asks, inbox) = mpsc::channel(ASKS_MAX);
        (Self { cache: Arc::clone(&cache), asks }, Inbox { books: Books::new(cache, idle_max), asks: inbox })
    }

    /// Finds out what is behind an original destination. Held results stay current: keep the `Arc` for as long as the
    /// connection lives and read its snapshot per decision.
    ///
    /// **Cost:** one map lookup for what is known. **Cancel:** loses nothing.
    ///
    /// # Errors
    /// No answer within [`LOOKUP_DEADLINE`], or a bound was hit. The caller refuses the connection; it must not go on in
    /// plaintext.
    pub(crate) async fn resolve(&self, dst: OriginalDst) -> Result<Resolved, DiscoveryError> {
        let addr = SocketAddr::new(dst.ip(), dst.port());
        if let Some(found) = self.cache.find(addr).flatten() {
            return Ok(self.resolved(addr.ip(), found));
        }
        if self.mesh().is_some_and(|mesh| mesh.passes(addr.ip())) {
            return Ok(Resolved::Outside);
        }
        // Boxed: once per destination, not once per connection.
        let answer = Box::pin(timeout(LOOKUP_DEADLINE, self.look_up(addr))).await.unwrap_or(Err(Cause::Deadline));
        answer.map_err(|cause| {
            self.cache.stats.lookup_failed(cause);
            DiscoveryError::Unavailable { dst, cause }
        })
    }

    async fn look_up(&self, addr: SocketAddr) -> Result<Resolved, Cause> {
        self.cache.stats.lookups.inc();
        // Without the mesh's networks nobody knows what is outside.
        if self.cache.mesh.told().await.passes(addr.ip()) {
            return Ok(Resolved::Outside);
        }
        let (tell, told) = oneshot::channel();
        self.asks.try_send(Ask { addr, tell: Some(tell) }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Cause::Full,
            mpsc::error::TrySendError::Closed(_) => Cause::Stopped,
        })?;
        let Ok(answer) = told.await else { return Err(Cause::Stopped) };
        Ok(self.resolved(addr.ip(), answer?))
    }

    fn resolved(&self, ip: IpAddr, found: Known) -> Resolved {
        match found {
            // Looked up because of the egress mode, and not of the mesh.
            Known::NotFound if !self.mesh().is_some_and(|mesh| mesh.contains(ip)) => Resolved::Outside,
            Known::NotFound => Resolved::NotFound,
            Known::PortNotFound => Resolved::PortNotFound,
            Known::Service(service) => Resolved::Service(service),
            Known::Workload(workload) => Resolved::Workload(workload),
        }
    }

    /// The workload behind a peer's address, as far as it is known by now; asks for it otherwise. Believed only where
    /// its identity is the one that the peer proved (semantics 45).
    ///
    /// **Cost:** one map lookup; never waits.
    pub(crate) fn peer_workload(&self, peer: IpAddr, identity: &SpiffeId) -> Option<WorkloadName> {
        // Port 0 stands for "whoever lives at this address".
        let addr = SocketAddr::new(peer.to_canonical(), 0);
        if let Some(found) = self.cache.find(addr) {
            let Some(Known::Workload(workload)) = found else { return None };
            let snapshot = workload.snapshot();
            let endpoint = &snapshot.destination.endpoint;
            return endpoint.workload.clone().filter(|_| endpoint.identity.as_ref() == Some(identity));
        }
        // A connection that waits goes before a label: half of the queue is left to those. Where this fails the peer
        // stays unknown and is asked for again with its next request.
        if self.asks.capacity() > ASKS_MAX / 2 && self.asks.try_send(Ask { addr, tell: None }).is_err() {
            self.cache.stats.lookups_refused.inc();
        }
        None
    }

    /// What holds for the whole mesh; `None` until it was told once.
    pub(crate) fn mesh(&self) -> Option<Arc<Mesh>> {
        self.cache.mesh.get()
    }

    /// Wakes when [`Discovery::mesh`] has changed.
    pub(crate) fn mesh_changes(&self) -> watch::Receiver<u64> {
        self.cache.mesh.changes()
    }

    /// Our own inbound configuration; `None` until it was told once.
    pub(crate) fn inbound(&self) -> Option<Arc<Inbound>> {
        self.cache.inbound.get()
    }

    /// Wakes when [`Discovery::inbound`] has changed: who sleeps on a connection must judge it again, and a drain may
    /// begin ([`weft_model::resources::Lifecycle`]).
    pub(crate) fn inbound_changes(&self) -> watch::Receiver<u64> {
        self.cache.inbound.changes()
    }

    /// Whether Mesh and Inbound were told: before that neither side of the proxy can decide anything.
    pub(crate) fn is_ready(&self) -> bool {
        self.cache.mesh.is_told() && self.cache.inbound.is_told()
    }

    /// Resolves once [`Discovery::is_ready`]. **Cancel:** loses nothing.
    pub(crate) async fn ready(&self) {
        self.cache.mesh.told().await;
        self.cache.inbound.told().await;
    }

    /// Writes what discovery knows and did, at a scrape.
    pub(crate) fn write_metrics(&self, text: &mut Text<'_>) {
        report::write(&self.cache, text);
    }

    /// All that is known, for `/config`; without anything secret.
    pub(crate) fn dump(&self) -> serde_json::Value {
        dump::dump(&self.cache)
    }
}

/// What [`Client::new`] turns into the task.
#[derive(Debug)]
pub(crate) struct Inbox {
    books: Books,
    asks: mpsc::Receiver<Ask>,
}

impl Inbox {
    /// Puts in force what was kept before a restart, as if it came on the stream; what is not valid is left out. The
    /// first stream asks for all of it again, and its answers replace it. Returns how many destinations are known.
    pub(crate) fn restore(&mut self, kept: Vec<WatchResponse>, own: &WorkloadName) -> usize {
        self.books.restore(kept, own);
        self.books.cache.destinations.get().len()
    }

    /// The trust bundle, if the mesh was told or restored.
    pub(crate) fn trust(&self) -> Option<TrustBundle> {
        self.books.cache.mesh.get().map(|mesh| mesh.trust.clone())
    }
}

impl Mesh {
    /// Whether what goes to this address needs no lookup: it is outside, and no policy asks what is there.
    fn passes(&self, ip: IpAddr) -> bool {
        self.egress() == EgressMode::Allow && !self.contains(ip)
    }
}

#[cfg(test)]
pub(crate) mod by_hand;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
