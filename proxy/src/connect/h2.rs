//! A shared HTTP/2 connection to one endpoint: many requests, one handshake. It knows nothing of routes or retries.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use weft_runtime::task::Tasks;

use crate::io::Io;

/// How much of one stream may wait for a slow reader: RFC 9113's own default, so that a stalled body costs no more.
pub(crate) const STREAM_WINDOW: u32 = 65_535;
/// Streams of one connection at once (the field's usual bound); what is beyond waits.
pub(crate) const STREAMS_MAX: u32 = 1000;
/// How much of all streams of a connection may be under way: as much as all of them may. With less, a few streams whose
/// readers have stopped would take the window from their siblings (semantics 17).
pub(crate) const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// How much of one stream is buffered towards a peer that gives no window.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
/// Larger heads are refused with 431 (design §6).
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// The crate answers 431 by itself and tells nobody. It is given a larger limit, so that we see what is beyond ours, and
/// count it; only beyond this one it is the crate that answers.
pub(crate) const HEADER_LIST_BYTES_READ: u32 = 2 * HEADER_LIST_BYTES_MAX;
/// Streams taken to be allowed until the peer's SETTINGS say how many.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// How often a connection with streams is probed, and how long the answer may take: a vanished peer is found within
/// 30 s, below the 35 s that semantics 20 allows.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// One connection; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct H2Connection {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
    driver: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// False once the peer said GOAWAY, broke, or stayed silent.
    usable: Cell<bool>,
    /// Requests that hold a stream or are about to.
    active: Cell<usize>,
    /// When `active` last became zero.
    idle_since: Cell<Instant>,
}

/// One request's place on a connection; given back on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: H2Connection,
}

impl Lease {
    /// Waits until the peer lets one more stream be opened.
    ///
    /// # Errors
    /// The connection is gone; nothing was sent.
    pub(crate) async fn ready(&self) -> Result<SendRequest<Bytes>, h2::Error> {
        self.connection.send.clone().ready().await
    }

    /// Takes the connection out of use for new requests.
    pub(crate) fn retire(&self) {
        self.connection.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let shared = &self.connection.shared;
        shared.active.set(shared.active.get() - 1);
        if shared.active.get() == 0 {
            shared.idle_since.set(Instant::now());
        }
    }
}

impl H2Connection {
    /// Speaks HTTP/2 on a new connection and keeps it going in a task of its own.
    ///
    /// # Errors
    /// The preface could not be sent.
    pub(crate) async fn handshake(io: Io, tasks: &Tasks) -> Result<Self, h2::Error> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .enable_push(false);
        let (send, connection) = builder.handshake::<_, Bytes>(io).await?;
        let shared =
            Rc::new(Shared { usable: Cell::new(true), active: Cell::new(0), idle_since: Cell::new(Instant::now()) });
        let driver = tasks.spawn_local("h2-upstream", drive(connection, Rc::clone(&shared)));
        Ok(Self { send, shared, driver })
    }

    /// A place for one more request, unless the connection is on its way out.
    pub(crate) fn lease(&self) -> Option<Lease> {
        if !self.shared.usable.get() {
            return None;
        }
        self.shared.active.set(self.shared.active.get() + 1);
        Some(Lease { connection: self.clone() })
    }

    /// Whether the peer allows a further stream at once.
    pub(crate) fn has_room(&self) -> bool {
        self.active() < self.send.current_max_send_streams().min(STREAMS_MAX as usize)
    }

    /// How many requests it carries.
    pub(crate) fn active(&self) -> usize {
        self.shared.active.get()
    }

    /// Takes it out of use for new requests.
    pub(crate) fn retire(&self) {
        self.shared.usable.set(false);
    }

    /// Ends it where it stands, with all requests that it carries.
    pub(crate) fn cut(&self) {
        self.retire();
        self.driver.abort();
    }

    /// Whether new requests may use it.
    pub(crate) fn is_usable(&self) -> bool {
        self.shared.usable.get()
    }

    /// How long it has carried nothing; `None` while it carries something.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        (self.shared.active.get() == 0).then(|| now.saturating_duration_since(self.shared.idle_since.get()))
    }
}

/// Drives a connection until it ends or its peer stays silent.
async fn drive(mut connection: Connection<Io, Bytes>, shared: Rc<Shared>) {
    let ping_pong = connection.ping_pong();
    // Nothing is lost: whichever ends first ends the connection.
    tokio::select! {
        ended = connection => if let Err(error) = ended { tracing::debug!(%error, "HTTP/2 connection to an endpoint ended") },
        () = probe(ping_pong, &shared) => tracing::debug!("HTTP/2 endpoint does not answer PING"),
    }
    shared.usable.set(false);
}

/// Resolves when a PING is not answered in time. Idle connections are left alone.
async fn probe(ping_pong: Option<h2::PingPong>, shared: &Shared) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        if shared.active.get() == 0 {
            continue;
        }
        match timeout(PING_TIMEOUT, ping_pong.ping(h2::Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection itself reports its end.
            Ok(Err(_ended)) => return std::future::pending().await,
            Err(_silent) => return,
        }
    }
}
