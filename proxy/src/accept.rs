//! Chapter 1: takes connections from the kernel, with a permit each, and learns where they were going. It does not
//! read from them. Invariant: a connection whose original destination is missing, foreign or our own never gets past
//! this chapter (semantics 3).

mod local_addrs;
mod original_dst;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use weft_model::{ClientAddr, OriginalDst};

pub(crate) use self::local_addrs::LocalAddrs;
pub(crate) use self::original_dst::{Kernel, OriginalDstSource};
use crate::config::Ports;
use crate::error::Reason;
use crate::io::Io;

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

/// Makes a socket notice a peer that vanished, without cutting one that merely stops reading.
///
/// Keep-alive finds a silent peer after 10 s + 2 × 10 s; `TCP_USER_TIMEOUT` covers unacknowledged data. It counts a
/// zero window too (RFC 5482 §2; seen), so it stays at 30 s and probes answered by the peer reset it.
pub(crate) fn watch_peer(tcp: &TcpStream) {
    const PROBE: Duration = Duration::from_secs(10);
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(3);
    // None of these can fail on a TCP socket of a supported kernel; without them we only notice later.
    drop(socket.set_tcp_keepalive(&keepalive));
    drop(socket.set_tcp_user_timeout(Some(Duration::from_secs(30))));
    drop(socket.set_tcp_nodelay(true));
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

    /// Who should serve a connection that `me` accepted: the least loaded worker when `me` holds more than 1.5 times
    /// the mean, else `me`.
    fn owner(&self, me: usize) -> usize {
        let total: usize = self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum();
        let mine = self.held.get(me).map_or(0, |held| held.load(Ordering::Relaxed));
        if (mine + 1) * self.held.len() * 2 <= (total + 1) * 3 {
            return me;
        }
        let least = self.held.iter().enumerate().min_by_key(|(_, held)| held.load(Ordering::Relaxed));
        least.map_or(me, |(index, _)| index)
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
    /// Not registered with any runtime.
    pub(crate) tcp: std::net::TcpStream,
    /// Who opened it.
    pub(crate) client: SocketAddr,
    /// Which listener it came to.
    pub(crate) side: Side,
    /// Its place among the connections served at once.
    pub(crate) permit: OwnedSemaphorePermit,
    /// Its place in the worker's count.
    pub(crate) held: Held,
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
}

impl Acceptor {
    /// Accepts until `stop` resolves, then empties the kernel's queue.
    ///
    /// **Cancel:** dropping it resets the connections that wait in the kernel's queue; let `stop` end it instead.
    pub(crate) async fn run(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            // Nothing is lost when one arm wins: `accept` is cancel-safe, and `stop` is polled again or not at all.
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                () = &mut stop => break,
            };
            self.dispatch(accepted).await;
        }
        // What completed its handshake before the end was told "yes" by the kernel; serve it.
        while let Some(accepted) = futures::FutureExt::now_or_never(self.accept(&listener)) {
            self.dispatch(accepted).await;
        }
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // At the limit the kernel's queue is the waiting room.
        let permit = Arc::clone(&self.limit).acquire_owned().await.map_err(io::Error::other)?;
        let (tcp, client) = listener.accept().await?;
        Ok((tcp, client, permit))
    }

    async fn dispatch(&self, accepted: io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)>) {
        let (tcp, client, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_the_connections_own(&error) => return,
            Err(error) => {
                // Out of descriptors or memory: at once again would spin.
                tracing::warn!(%error, "accept failed");
                return tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        watch_peer(&tcp);
        let owner = self.balance.owner(self.worker);
        let held = self.balance.enter(owner);
        let Ok(tcp) = tcp.into_std() else { return };
        let Some(worker) = self.workers.get(owner) else { return };
        // A full queue makes us wait, which leaves the rest in the kernel's queue; a closed one means the end.
        let handed = Handed { tcp, client, side: self.side, permit, held };
        if worker.send(handed).await.is_err() {
            tracing::debug!("worker is gone");
        }
    }
}

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
        let ours = self.local.contains(dst.ip());
        match side {
            Side::Inbound if !ours || self.ports.contains(dst.port()) => Err(Reason::Loop),
            Side::Outbound if ours && self.ports.contains(dst.port()) => Err(Reason::Loop),
            Side::Inbound | Side::Outbound => Ok(dst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_above_one_and_a_half_times_the_mean_hands_over() {
        let balance = Arc::new(Balance::new(4));
        let mut held = Vec::new();
        // The kernel sends all eight to worker 0.
        for _ in 0..8 {
            held.push(balance.enter(balance.owner(0)));
        }
        let counts: Vec<_> = balance.held.iter().map(|held| held.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|count| *count <= 3), "{counts:?}");
        drop(held);
        assert!(balance.held.iter().all(|held| held.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_single_worker_keeps_its_own() {
        let balance = Arc::new(Balance::new(1));
        let _held: Vec<_> = (0..9).map(|_| balance.enter(balance.owner(0))).collect();
        assert_eq!(balance.owner(0), 0);
    }
}
