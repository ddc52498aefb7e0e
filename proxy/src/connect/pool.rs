//! Connections that wait for their next request. One pool a worker, never shared. Keyed by endpoint instance, which
//! has one address and one identity for its whole life, so that a reused address never meets an old connection.
//! Invariant: a connection whose endpoint is gone is never handed out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use weft_proxy_core::endpoint::Endpoint;
use weft_runtime::task::Tasks;
use weft_tls::{Alpn, AnchorId};

use super::h2::{H2Connection, Lease};
use super::{ConnectError, DISTRUSTED_MAX, Dialer};
use crate::balance::{Picked, PoolKey};
use crate::error::Reason;
use crate::h1::Connection as H1Connection;

/// Idle connections are closed after this (design §6).
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Idle HTTP/1 connections kept for one endpoint: a burst of more than this closes the rest when it ends.
const IDLE_PER_ENDPOINT_MAX: usize = 256;
/// Idle HTTP/1 connections kept in all: a client of the whole internet fills no more.
const IDLE_IN_ALL_MAX: usize = 4096;
/// HTTP/2 connections to one endpoint: more are opened only when every one is at its peer's stream limit.
pub(crate) const H2_PER_ENDPOINT_MAX: usize = 8;

/// One worker's connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<PoolKey, IdleSlot>>,
    /// How many connections are in `idle`.
    idle_count: Cell<usize>,
    shared: RefCell<HashMap<PoolKey, Rc<SharedSlot>>>,
    tasks: Tasks,
}

/// The idle HTTP/1 connections of one endpoint.
#[derive(Debug)]
struct IdleSlot {
    /// `None` for what is not meshed.
    endpoint: Option<Arc<Endpoint>>,
    waiting: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: H1Connection,
    since: Instant,
}

/// The HTTP/2 connections of one endpoint.
#[derive(Debug)]
struct SharedSlot {
    /// `None` for what is not meshed.
    endpoint: Option<Arc<Endpoint>>,
    connections: RefCell<Vec<(H2Connection, Option<AnchorId>)>>,
    /// Held while one request dials, so that a burst opens one connection and not one each.
    dialing: Mutex<()>,
    /// How many dials have failed, and how the last one did: who waited for it fails with it, and does not dial again
    /// after all others have.
    failed: Cell<(u64, Reason)>,
}

impl SharedSlot {
    fn lease(&self) -> Option<Lease> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|(connection, _)| connection.is_usable());
        let has_room = connections.iter().find(|(connection, _)| connection.has_room());
        let least = || connections.iter().min_by_key(|(connection, _)| connection.active());
        let any = || least().filter(|_| connections.len() >= H2_PER_ENDPOINT_MAX);
        has_room.or_else(any).and_then(|(connection, _)| connection.lease())
    }

    fn fail(&self, reason: Reason) {
        self.failed.set((self.failed.get().0 + 1, reason));
    }
}

/// Why a shared connection could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Another request dialled for this one too, and failed.
    #[error("no connection: {0}")]
    Others(Reason),
    /// The peer does not speak HTTP/2 after all.
    #[error("the HTTP/2 preface could not be sent")]
    Preface(#[from] h2::Error),
}

impl ShareError {
    /// The one word for it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Others(reason) => *reason,
            Self::Preface(_) => Reason::ConnectRefused,
        }
    }
}

impl Pool {
    /// An empty pool whose connections run as `tasks`.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self { idle: RefCell::default(), idle_count: Cell::new(0), shared: RefCell::default(), tasks }
    }

    /// An idle HTTP/1 connection that is still open, or a new one; `true` when it was used before.
    ///
    /// # Errors
    /// No new connection could be opened; nothing was sent.
    pub(crate) async fn http1(&self, picked: &Picked, dialer: &Dialer) -> Result<(H1Connection, bool), ConnectError> {
        if let Some(connection) = self.take_idle(picked.pool_key()) {
            return Ok((connection, true));
        }
        Ok((self.fresh_http1(picked, dialer).await?, false))
    }

    /// A new HTTP/1 connection.
    ///
    /// # Errors
    /// It could not be opened; nothing was sent.
    pub(crate) async fn fresh_http1(&self, picked: &Picked, dialer: &Dialer) -> Result<H1Connection, ConnectError> {
        // Boxed, as every dial here: few requests dial, and all would carry its size from call to call.
        let connected = Box::pin(dialer.connect(picked, Alpn::Http1)).await?;
        Ok(H1Connection::new(connected.io, connected.anchor))
    }

    /// Takes the most recently used one: the rest grows old and is closed.
    fn take_idle(&self, key: PoolKey) -> Option<H1Connection> {
        let mut idle = self.idle.borrow_mut();
        let slot = idle.get_mut(&key)?;
        while let Some(mut candidate) = slot.waiting.pop() {
            self.idle_count.set(self.idle_count.get() - 1);
            // What an idle connection has to read is its end, or bytes that no request asked for.
            if candidate.connection.is_quiet() {
                return Some(candidate.connection);
            }
        }
        None
    }

    /// Gives a connection back after a complete exchange.
    pub(crate) fn put(&self, picked: &Picked, connection: H1Connection) {
        let endpoint = picked.endpoint();
        if is_gone(endpoint) || self.idle_count.get() >= IDLE_IN_ALL_MAX {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let slot = idle
            .entry(picked.pool_key())
            .or_insert_with(|| IdleSlot { endpoint: endpoint.cloned(), waiting: Vec::new() });
        if slot.waiting.len() < IDLE_PER_ENDPOINT_MAX {
            slot.waiting.push(Idle { connection, since: Instant::now() });
            self.idle_count.set(self.idle_count.get() + 1);
        }
    }

    /// A place on a shared HTTP/2 connection.
    ///
    /// **Cancel:** gives the attempt up; a dial under way is dropped with it.
    ///
    /// # Errors
    /// No connection could be opened; nothing was sent.
    pub(crate) async fn http2(&self, picked: &Picked, dialer: &Dialer) -> Result<Lease, ShareError> {
        let slot = Rc::clone(self.shared.borrow_mut().entry(picked.pool_key()).or_insert_with(|| {
            Rc::new(SharedSlot {
                endpoint: picked.endpoint().cloned(),
                connections: RefCell::default(),
                dialing: Mutex::default(),
                failed: Cell::new((0, Reason::ConnectRefused)),
            })
        }));
        if let Some(lease) = slot.lease() {
            return Ok(lease);
        }
        Box::pin(self.share(picked, dialer, &slot)).await
    }

    /// A place on a shared connection that we open, or that somebody opens while we wait for our turn.
    async fn share(&self, picked: &Picked, dialer: &Dialer, slot: &SharedSlot) -> Result<Lease, ShareError> {
        let (failures, _) = slot.failed.get();
        let _dialing = slot.dialing.lock().await;
        // Somebody else may have dialled while we waited for our turn.
        if let Some(lease) = slot.lease() {
            return Ok(lease);
        }
        match slot.failed.get() {
            (now, reason) if now != failures => return Err(ShareError::Others(reason)),
            _ => {}
        }
        self.dial_http2(picked, dialer, slot).await.inspect_err(|error| slot.fail(error.reason()))
    }

    async fn dial_http2(&self, picked: &Picked, dialer: &Dialer, slot: &SharedSlot) -> Result<Lease, ShareError> {
        let connected = dialer.connect(picked, Alpn::H2).await?;
        let connection = H2Connection::handshake(connected.io, &self.tasks).await?;
        let lease = connection.lease();
        slot.connections.borrow_mut().push((connection, connected.anchor));
        lease.ok_or_else(|| h2::Error::from(h2::Reason::INTERNAL_ERROR).into())
    }

    /// Closes what has idled too long, what leads to an endpoint that is gone, and what an anchor authenticated that is
    /// trusted no longer; what such a connection carries has [`DISTRUSTED_MAX`] to end. Called by each worker every few
    /// seconds, and when the bundle changes.
    pub(crate) fn sweep(&self, now: Instant, trusted: impl Fn(AnchorId) -> bool) {
        self.idle.borrow_mut().retain(|_, slot| {
            let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE_MAX;
            let keep = |idle: &mut Idle| fresh(idle.since) && idle.connection.anchor().is_none_or(&trusted);
            slot.waiting.retain_mut(|idle| keep(idle) && idle.connection.is_quiet());
            !slot.waiting.is_empty() && !is_gone(slot.endpoint.as_ref())
        });
        self.idle_count.set(self.idle.borrow().values().map(|slot| slot.waiting.len()).sum());
        self.shared.borrow_mut().retain(|_, slot| {
            let gone = is_gone(slot.endpoint.as_ref());
            slot.connections.borrow_mut().retain(|(connection, anchor)| {
                if !anchor.is_none_or(&trusted) {
                    connection.retire();
                    self.tasks.spawn_local("h2-farewell", cut_later(connection.clone()));
                }
                let old = connection.idle_for(now).is_some_and(|idle| idle >= IDLE_MAX);
                connection.is_usable() && !gone && !old
            });
            // One that is being dialled right now is held by the dialler as well.
            !slot.connections.borrow().is_empty() || Rc::strong_count(slot) > 1
        });
    }
}

impl Pool {
    /// How many connections wait for their next request.
    pub(crate) fn idle_len(&self) -> usize {
        let idle: usize = self.idle.borrow().values().map(|slot| slot.waiting.len()).sum();
        let now = Instant::now();
        let is_idle = |(connection, _): &&(H2Connection, Option<AnchorId>)| connection.idle_for(now).is_some();
        let shared = self.shared.borrow();
        idle + shared.values().map(|slot| slot.connections.borrow().iter().filter(is_idle).count()).sum::<usize>()
    }
}

/// Cuts what a connection still carries, however long that was to last (semantics 35).
async fn cut_later(connection: H2Connection) {
    sleep(DISTRUSTED_MAX).await;
    connection.cut();
}

/// Whether discovery has withdrawn the endpoint.
fn is_gone(endpoint: Option<&Arc<Endpoint>>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.is_gone())
}
