//! One worker: a thread with a single-threaded runtime, its own listeners, pool and metric shard. Workers share only
//! what semantics 23 names: limits, budgets, endpoint counters, ticket keys.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, timeout};
use weft_model::{ClientAddr, OriginalDst};
use weft_proxy_core::limit::Concurrency;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;
use weft_tls::MeshTls;

use crate::accept::{Accepted, Acceptor, Balance, Capture, Handed, Limits, OriginalDstSource, Side};
use crate::config::Config;
use crate::connect::pool::Pool;
use crate::connect::{Dialer, Handoff};
use crate::discovery::Discovery;
use crate::error::Reason;
use crate::forward::http::Http;
use crate::inbound::Inbound;
use crate::io::Io;
use crate::outbound::Outbound;
use crate::probe::Detours;
use crate::record::{Direction, Event, Gauge, Kind, Telemetry};

/// Sockets on their way to one worker; beyond it the acceptor waits and the kernel queues.
pub(crate) const HANDED_MAX: usize = 128;
/// Connections on their way from the outbound to the inbound story of one worker.
const HANDOFFS_MAX: usize = 128;
/// How often idle connections are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long connections that are cut may take to end; each needs one turn.
const LAST_TURN_MAX: Duration = Duration::from_secs(1);

/// What all workers share.
pub(crate) struct Shared<S> {
    pub(crate) config: Arc<Config>,
    pub(crate) discovery: Discovery,
    pub(crate) tls: MeshTls,
    pub(crate) telemetry: Telemetry,
    pub(crate) connections: Arc<Limits>,
    pub(crate) requests: Arc<Concurrency>,
    pub(crate) balance: Arc<Balance>,
    pub(crate) capture: Arc<Capture<S>>,
    pub(crate) drains: Drains,
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            discovery: self.discovery.clone(),
            tls: self.tls.clone(),
            telemetry: self.telemetry.clone(),
            connections: Arc::clone(&self.connections),
            requests: Arc::clone(&self.requests),
            balance: Arc::clone(&self.balance),
            capture: Arc::clone(&self.capture),
            drains: self.drains.clone(),
        }
    }
}

impl<S> Shared<S> {
    /// Has what is under way told at each scrape.
    pub(crate) fn tell_what_is_under_way(&self) {
        let (balance, requests) = (Arc::clone(&self.balance), Arc::clone(&self.requests));
        self.telemetry.on_scrape(move |text| {
            text.family("weft_connections", Kind::Gauge, "Connections being served.");
            text.sample(&[], balance.total() as u64);
            text.family("weft_requests_in_flight", Kind::Gauge, "HTTP requests being served.");
            text.sample(&[], requests.inside());
        });
    }
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

impl Drains {
    /// What connections of a side hold.
    fn of(&self, side: Side) -> &Drain {
        match side {
            Side::Inbound => &self.inbound,
            Side::Outbound => &self.outbound,
        }
    }

    /// What listeners of a side hold, and stop at.
    fn stop_of(&self, side: Side) -> &Drain {
        match side {
            Side::Inbound => &self.released,
            Side::Outbound => &self.outbound,
        }
    }
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
pub(crate) fn run<S: OriginalDstSource + 'static>(seat: Seat, shared: Shared<S>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(seat, shared))
}

/// The same on a runtime that is there, within a `LocalSet`.
pub(crate) async fn serve<S: OriginalDstSource + 'static>(seat: Seat, shared: Shared<S>) -> io::Result<()> {
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
            limit: shared.connections.of(side),
            workers: workers.clone(),
            drain: shared.drains.of(side).clone(),
            recorder: stories.http.recorder.clone(),
        };
        accepting.spawn_local("accept", accept(acceptor, listener, shared.drains.stop_of(side).clone()));
    }
    accepting.close();
    drop(workers);

    let sweeper = tasks.spawn_local("pool-sweep", sweep(Rc::clone(&stories), shared.clone()));
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
    tasks.close();
    // Each was told to cut its connection: without a turn to do so, they would end like orderly ones.
    drop(timeout(LAST_TURN_MAX, tasks.wait()).await);
    Ok(())
}

/// One listener's life.
async fn accept(acceptor: Acceptor, listener: TcpListener, stop: Drain) {
    // The drain waits until the kernel's queue is empty too.
    let hold = stop.hold();
    acceptor.run(listener, stop.draining()).await;
    drop(hold);
}

/// The two stories of a worker and what they need to begin.
struct Stories<S> {
    inbound: Rc<Inbound>,
    outbound: Rc<Outbound>,
    capture: Arc<Capture<S>>,
    http: Rc<Http>,
    drains: Drains,
    tasks: Tasks,
}

impl<S: OriginalDstSource> Stories<S> {
    fn new(shared: &Shared<S>, own: mpsc::Sender<Handoff>, tasks: Tasks) -> Self {
        let Shared { config, discovery, tls, telemetry, requests, capture, drains, .. } = shared.clone();
        let recorder = telemetry.recorder();
        let http = Rc::new(Http {
            dialer: Dialer { mark: config.socket_mark, tls, own, recorder: recorder.clone() },
            pool: Pool::new(tasks.clone()),
            recorder,
            requests,
            discovery,
            detours: Detours::new(&config.probes, config.ports.admin),
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
        let Handed { tcp, client, side, permit, held, hold } = socket;
        let Ok(tcp) = TcpStream::from_std(tcp) else { return };
        let client = ClientAddr(client);
        let dst = match self.capture.original_dst(side, &tcp) {
            Ok(dst) => dst,
            Err(reason) => return self.refuse(side, tcp, client, reason),
        };
        let accepted = Accepted { io: tcp.into(), client, dst, permit: Some(permit) };
        match side {
            Side::Inbound => {
                let story = Rc::clone(&self.inbound);
                self.tasks.spawn_local("inbound", async move {
                    story.serve(accepted).await;
                    drop((held, hold));
                });
            }
            Side::Outbound => {
                let story = Rc::clone(&self.outbound);
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

/// Closes idle connections that have no future: now and then, and at once when somebody may be trusted no longer.
async fn sweep<S>(stories: Rc<Stories<S>>, shared: Shared<S>) {
    let mut turn = interval(SWEEP_EVERY);
    let mut anchors = shared.tls.anchor_watch();
    let mut told = 0;
    loop {
        // Whichever is first; the sweep looks at everything.
        tokio::select! {
            _ = turn.tick() => {}
            () = anchors.changed() => {}
        }
        stories.http.pool.sweep(Instant::now(), |anchor| anchors.is_trusted(anchor));
        let idle = i64::try_from(stories.http.pool.idle_len()).unwrap_or(i64::MAX);
        shared.telemetry.change(Gauge::UpstreamIdle, idle - told);
        told = idle;
    }
}

#[cfg(test)]
mod tests;
