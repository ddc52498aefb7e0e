//! One worker: a thread with a single-threaded runtime, its own listeners, pool and metric shard. Workers share only
//! what semantics 23 names: limits, budgets, endpoint counters, ticket keys.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval};
use weft_model::{ClientAddr, OriginalDst};
use weft_proxy_core::limit::Concurrency;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;
use weft_tls::MeshTls;

use crate::accept::{Accepted, Acceptor, Balance, Capture, Handed, Kernel, Side};
use crate::config::Config;
use crate::connect::{Dialer, Handoff};
use crate::connect::pool::Pool;
use crate::discovery::Discovery;
use crate::error::Reason;
use crate::forward::http::Http;
use crate::inbound::Inbound;
use crate::io::Io;
use crate::outbound::Outbound;
use crate::record::{Direction, Event, Telemetry};

/// Sockets on their way to one worker; beyond it the acceptor waits and the kernel queues.
pub(crate) const HANDED_MAX: usize = 128;
/// Connections on their way from the outbound to the inbound story of one worker.
const HANDOFFS_MAX: usize = 128;
/// How often idle connections are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) discovery: Discovery,
    pub(crate) tls: MeshTls,
    pub(crate) telemetry: Telemetry,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) requests: Arc<Concurrency>,
    pub(crate) balance: Arc<Balance>,
    pub(crate) capture: Arc<Capture<Kernel>>,
    pub(crate) drains: Drains,
}

/// The ends that workers watch for.
#[derive(Clone, Debug)]
pub(crate) struct Drains {
    /// Inbound: tell clients to go elsewhere; the cut ends what is left.
    pub(crate) inbound: Drain,
    /// Nobody sends to us any more: stop accepting inbound, close what is idle.
    pub(crate) released: Drain,
    /// Outbound: the application is gone.
    pub(crate) outbound: Drain,
}

/// What one worker has of its own before its thread runs.
pub(crate) struct Seat {
    /// Its place among the workers.
    pub(crate) index: usize,
    /// Its listeners and the side each serves.
    pub(crate) listeners: Vec<(Side, StdListener)>,
    /// Sockets that it is to serve.
    pub(crate) handed: mpsc::Receiver<Handed>,
    /// The way to every worker.
    pub(crate) workers: Vec<mpsc::Sender<Handed>>,
}

/// Runs a worker to its end; returns when both sides were drained.
///
/// # Errors
/// The runtime or a listener could not be set up.
pub(crate) fn run(seat: Seat, shared: Shared) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(seat, shared))
}

async fn serve(seat: Seat, shared: Shared) -> io::Result<()> {
    let Seat { index, listeners, mut handed, workers } = seat;
    let tasks = Tasks::new();
    shared.telemetry.watch_tasks(tasks.clone());
    let (own, mut handoffs) = mpsc::channel(HANDOFFS_MAX);
    let stories = Rc::new(Stories::new(&shared, own, tasks.clone()));

    let accepting = Tasks::new();
    for (side, listener) in listeners {
        let listener = TcpListener::from_std(listener)?;
        let acceptor = Acceptor {
            side,
            worker: index,
            balance: Arc::clone(&shared.balance),
            limit: Arc::clone(&shared.connections),
            workers: workers.clone(),
        };
        let drains = shared.drains.clone();
        accepting.spawn_local("accept", async move {
            let stop = async {
                match side {
                    Side::Inbound => drains.released.draining().await,
                    Side::Outbound => drains.outbound.draining().await,
                }
            };
            acceptor.run(listener, stop).await;
        });
    }
    accepting.close();
    drop(workers);

    let sweeper = tasks.spawn_local("pool-sweep", sweep(Rc::clone(&stories), shared.tls.clone()));
    let ended = async {
        accepting.wait().await;
        shared.drains.inbound.cut().await;
        shared.drains.outbound.cut().await;
    };
    let mut ended = std::pin::pin!(ended);
    loop {
        // Nothing is lost: what is in a queue stays there until the next turn, and the end comes after both drains.
        tokio::select! {
            Some(socket) = handed.recv() => stories.take(socket),
            Some(handoff) = handoffs.recv() => stories.take_own(handoff),
            () = &mut ended => break,
        }
    }
    sweeper.abort();
    Ok(())
}

/// The two stories of a worker and what they need to begin.
struct Stories {
    inbound: Rc<Inbound>,
    outbound: Rc<Outbound>,
    capture: Arc<Capture<Kernel>>,
    http: Rc<Http>,
    drains: Drains,
    tasks: Tasks,
}

impl Stories {
    fn new(shared: &Shared, own: mpsc::Sender<Handoff>, tasks: Tasks) -> Self {
        let Shared { config, discovery, tls, telemetry, requests, capture, drains, .. } = shared.clone();
        let http = Rc::new(Http {
            dialer: Dialer { mark: config.socket_mark, tls, own },
            pool: Pool::new(tasks.clone()),
            recorder: telemetry.recorder(),
            requests,
            discovery,
            own: config.workload.clone(),
            tasks: tasks.clone(),
        });
        let inbound = Inbound {
            http: Rc::clone(&http),
            drain: drains.inbound.clone(),
            released: drains.released.clone(),
            own: config.identity.clone(),
        };
        let outbound = Outbound { http: Rc::clone(&http), drain: drains.outbound.clone() };
        Self { inbound: Rc::new(inbound), outbound: Rc::new(outbound), capture, http, drains, tasks }
    }

    /// Begins the story of an accepted socket.
    fn take(&self, socket: Handed) {
        let Handed { tcp, client, side, permit, held } = socket;
        let Ok(tcp) = TcpStream::from_std(tcp) else { return };
        let client = ClientAddr(client);
        self.http.recorder.count(Event::ConnectionAccepted);
        let dst = match self.capture.original_dst(side, &tcp) {
            Ok(dst) => dst,
            Err(reason) => return self.refuse(side, tcp, client, reason),
        };
        let accepted = Accepted { io: tcp.into(), client, dst, permit: Some(permit) };
        match side {
            Side::Inbound => {
                let (story, hold) = (Rc::clone(&self.inbound), self.drains.inbound.hold());
                self.tasks.spawn_local("inbound", async move {
                    story.serve(accepted).await;
                    drop((held, hold));
                });
            }
            Side::Outbound => {
                let (story, hold) = (Rc::clone(&self.outbound), self.drains.outbound.hold());
                self.tasks.spawn_local("outbound", async move {
                    story.serve(accepted).await;
                    drop((held, hold));
                });
            }
        }
    }

    /// Begins the inbound story of what our own outbound story hands over.
    fn take_own(&self, handoff: Handoff) {
        let (story, hold) = (Rc::clone(&self.inbound), self.drains.inbound.hold());
        self.tasks.spawn_local("inbound-own", async move {
            story.serve_own(handoff).await;
            drop(hold);
        });
    }

    fn refuse(&self, side: Side, tcp: TcpStream, client: ClientAddr, reason: Reason) {
        let direction = match side {
            Side::Inbound => Direction::Inbound,
            Side::Outbound => Direction::Outbound,
        };
        self.http.recorder.count(Event::LoopRefused);
        let local = tcp.local_addr().unwrap_or(client.0);
        self.http.recorder.tcp(direction, client, OriginalDst(local)).finish(Err(reason));
        Io::from(tcp).reset();
    }
}

/// Closes idle connections that have no future.
async fn sweep(stories: Rc<Stories>, tls: MeshTls) {
    let mut turn = interval(SWEEP_EVERY);
    loop {
        turn.tick().await;
        let anchors = tls.anchor_watch();
        stories.http.pool.sweep(Instant::now(), |anchor| anchors.is_trusted(anchor));
    }
}
