//! Chapter 1: takes connections from the kernel, with a permit each, and learns where they were going. It does not
//! read from them. Invariant: a connection whose original destination is missing, foreign or our own never gets past
//! this chapter (semantics 3).

mod local_addrs;
mod original_dst;
mod watch_peer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use weft_model::{ClientAddr, OriginalDst};
use weft_runtime::drain::{Drain, Hold};

pub(crate) use self::local_addrs::LocalAddrs;
pub(crate) use self::original_dst::{Kernel, OriginalDstSource};
pub(crate) use self::watch_peer::watch_peer;
use crate::config::Ports;
use crate::error::Reason;
use crate::io::Io;
use crate::record::{Event, Recorder};

/// How many connections the kernel holds ready for us; the usual ceiling (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A connection, where it came from and where it was going.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Nothing was read from it.
    pub(crate) io: Io,
    /// Who opened it.
    pub(crate) client: ClientAddr,
    /// Where it was going.
    pub(crate) dst: OriginalDst,
    /// Its place among the connections served at once; given back on drop.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The application's own connections.
    Outbound,
    /// Connections to the application.
    Inbound,
}

/// Binds one worker's listener. Several workers bind the same address (`SO_REUSEPORT`).
///
/// # Errors
/// The address is in use by another program, or the address family does not exist here.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections are served at once, over all workers. One count for each direction: were it one for both, an
/// application whose clients fill it could not make the calls that answer them.
#[derive(Debug)]
pub(crate) struct Limits {
    inbound: Arc<Semaphore>,
    outbound: Arc<Semaphore>,
}

impl Limits {
    /// The same number for either direction.
    pub(crate) fn new(connections_max: usize) -> Self {
        let limit = || Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { inbound: limit(), outbound: limit() }
    }

    /// The limit of one direction.
    pub(crate) fn of(&self, side: Side) -> Arc<Semaphore> {
        Arc::clone(match side {
            Side::Inbound => &self.inbound,
            Side::Outbound => &self.outbound,
        })
    }
}

/// How many connections each worker holds, to notice when the kernel's hash is unfair (semantics 24).
#[derive(Debug)]
pub(crate) struct Balance {
    held: Vec<AtomicUsize>,
}

impl Balance {
    /// For so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self { held: (0..workers).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// How many connections all workers hold.
    pub(crate) fn total(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }

    /// How many each holds.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).collect()
    }

    /// Who should serve a connection that `me` accepted: a worker that holds less than `me` when `me` would hold more
    /// than 1.5 times the mean, else `me`.
    fn owner(&self, me: usize) -> usize {
        let mine = self.held.get(me).map_or(0, |held| held.load(Ordering::Relaxed));
        if (mine + 1) * self.held.len() * 2 <= (self.total() + 1) * 3 {
            return me;
        }
        let counts = self.held.iter().map(|held| held.load(Ordering::Relaxed)).enumerate();
        // Where nobody holds less, a hand-over would only cost.
        counts.min_by_key(|(_, held)| *held).filter(|(_, held)| *held < mine).map_or(me, |(index, _)| index)
    }

    fn enter(self: &Arc<Self>, worker: usize) -> Held {
        if let Some(held) = self.held.get(worker) {
            held.fetch_add(1, Ordering::Relaxed);
        }
        Held { balance: Arc::clone(self), worker }
    }
}

/// One connection in a worker's count.
#[derive(Debug)]
pub(crate) struct Held {
    balance: Arc<Balance>,
    worker: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(held) = self.balance.held.get(self.worker) {
            held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A socket on its way to the worker that serves it.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Not blocking, and not registered with any runtime.
    pub(crate) tcp: std::net::TcpStream,
    /// Who opened it.
    pub(crate) client: SocketAddr,
    /// Which listener it came to.
    pub(crate) side: Side,
    /// Its place among the connections served at once.
    pub(crate) permit: OwnedSemaphorePermit,
    /// Its place in the worker's count.
    pub(crate) held: Held,
    /// Keeps a drain waiting for it, from the moment it was accepted.
    pub(crate) hold: Hold,
}

/// One worker's listener loop.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// Which listener this is.
    pub(crate) side: Side,
    /// Our place among the workers.
    pub(crate) worker: usize,
    /// What every worker holds.
    pub(crate) balance: Arc<Balance>,
    /// Connections served at once, over all workers.
    pub(crate) limit: Arc<Semaphore>,
    /// The way to each worker, ourselves included.
    pub(crate) workers: Vec<mpsc::Sender<Handed>>,
    /// What the connections of this side hold, and what cuts them.
    pub(crate) drain: Drain,
    /// Counts what happens here.
    pub(crate) recorder: Recorder,
}

impl Acceptor {
    /// Accepts until `stop` resolves, then empties the kernel's queue.
    ///
    /// **Cancel:** dropping it resets the connections that wait in the kernel's queue; let `stop` end it instead.
    pub(crate) async fn run(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            // Nothing is lost when one arm wins: `accept` takes from the kernel in its last step.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted.and_then(|(tcp, client)| Ok((tcp.into_std()?, client))),
                () = &mut stop => break,
            };
            self.dispatch(accepted).await;
        }
        // What completed its handshake before the end was told "yes" by the kernel; serve it. Asked of the socket itself:
        // the runtime may not have heard yet of what is there.
        let queue = SockRef::from(&listener);
        loop {
            let accepted = queue.accept();
            if accepted.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            let addressed = |(tcp, client): (Socket, SockAddr)| Some((tcp.into(), client.as_socket()?));
            let accepted = accepted.and_then(|it| addressed(it).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
            self.dispatch(accepted).await;
        }
    }

    /// A place among those served at once. A listener asks for one only when it has a connection: there are several a
    /// worker, and small limits would be used up by waiting. `None` at the cut, when nobody is served any more.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // Nothing is lost: a place that is not taken stays free.
        tokio::select! {
            place = Arc::clone(&self.limit).acquire_owned() => place.ok(),
            () = self.drain.cut() => None,
        }
    }

    async fn dispatch(&self, accepted: io::Result<(std::net::TcpStream, SocketAddr)>) {
        let (tcp, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_the_connections_own(&error) => return,
            Err(error) => {
                self.recorder.count(Event::AcceptFailed);
                tracing::debug!(%error, "accept failed");
                // Out of descriptors or memory: at once again would spin.
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        self.recorder.count(Event::ConnectionAccepted);
        watch_peer(&tcp);
        // At the limit this one waits here, and the rest in the kernel's queue.
        let Some(permit) = self.place().await else { return };
        let owner = self.balance.owner(self.worker);
        if owner != self.worker {
            self.recorder.count(Event::ConnectionHandedOver);
        }
        let (held, hold) = (self.balance.enter(owner), self.drain.hold());
        let (Ok(()), Some(worker)) = (tcp.set_nonblocking(true), self.workers.get(owner)) else { return };
        // A full queue makes us wait, which leaves the rest in the kernel's queue; a closed one means the end.
        let handed = Handed { tcp, client, side: self.side, permit, held, hold };
        if worker.send(handed).await.is_err() {
            tracing::debug!("worker is gone");
        }
    }
}

/// How long a listener rests that cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Whether accept failed for a reason that lies in that one connection.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

/// What may be an original destination here.
#[derive(Debug)]
pub(crate) struct Capture<S> {
    /// Asks the kernel, or a test.
    pub(crate) source: S,
    /// Ports of ours, never a destination.
    pub(crate) ports: Ports,
    /// Addresses of this network namespace.
    pub(crate) local: Arc<LocalAddrs>,
}

impl<S: OriginalDstSource> Capture<S> {
    /// Learns where a connection was going.
    ///
    /// # Errors
    /// [`Reason::Loop`] when it was not captured, goes to a port of ours, or — inbound — to an address that is not
    /// ours: dialling on would come back to us or route for strangers.
    pub(crate) fn original_dst(&self, side: Side, tcp: &TcpStream) -> Result<OriginalDst, Reason> {
        let Ok(dst) = self.source.original_dst(tcp) else { return Err(Reason::Loop) };
        // The port first: what the application calls is mostly not ours, and an unknown address is looked for anew.
        let port_is_ours = self.ports.contains(dst.port());
        match side {
            Side::Inbound if port_is_ours || !self.local.contains(dst.ip()) => Err(Reason::Loop),
            Side::Outbound if port_is_ours && self.local.contains(dst.ip()) => Err(Reason::Loop),
            Side::Inbound | Side::Outbound => Ok(dst),
        }
    }
}

#[cfg(test)]
mod tests;
