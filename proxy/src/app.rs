//! The wiring: builds every part, hands each what it needs, and joins them at the end. The only file that knows all.
//!
//! Threads: this one runs identity, discovery, telemetry's exporter and the life cycle; the admin server has its own;
//! so has each worker. Only workers carry traffic.

mod resume;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use weft_model::probes;
use weft_model::resources::Lifecycle;
use weft_proto::convert::Hello;
use weft_proxy_core::limit::Concurrency;
use weft_runtime::admin::{Admin, AdminServer};
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::{self, LogFormat, LogLevel};
use weft_tls::{DefaultTimeProvider, MeshTls, TimeProvider as _};

use self::worker::{Drains, HANDED_MAX, Seat, Shared, run as run_worker};
use crate::accept::{Balance, Capture, Kernel, Limits, LocalAddrs, Side, bind};
use crate::config::Config;
use crate::control::ControlPlane;
use crate::discovery::{self, Discovery};
use crate::identity;
use crate::probe::Prober;
use crate::record::{Gauge, Telemetry};
use crate::state::StateDir;

/// How long we go on accepting while proxies that hold our endpoint have not acknowledged its removal (semantics 25).
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// Runs the proxy until it was told to end and is drained.
///
/// # Errors
/// What cannot be set up: a port in use, a file that cannot be read, a thread that cannot be made.
pub fn run(config: Config) -> anyhow::Result<()> {
    let format = if config.log_json { LogFormat::Json } else { LogFormat::Text };
    let log_level = telemetry::init(&config.log, format).context("WEFT_LOG")?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, log_level))
}

async fn serve(config: Config, log_level: LogLevel) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("signal handlers")?;
    let config = Arc::new(config);
    let tasks = Tasks::new();
    let (telemetry, exporter) = Telemetry::new(config.workload.clone(), WallClock::system());
    telemetry.watch_tasks(tasks.clone());
    let tls = MeshTls::new(config.trust_domain.clone());
    let (discovery, mut inbox) = Discovery::new(config.destination_idle);
    let state = resume::open(&config)?;
    if let Some(state) = &state
        && let (Some(anchors), Some(now)) = (resume::anchors(&config), DefaultTimeProvider.current_time())
    {
        // Before anything is served, so that nothing is judged by less than what is known.
        resume::resume(state, &tls, &mut inbox, &config.workload, &anchors, now);
    }
    let known = discovery.clone();
    telemetry.on_scrape(move |text| known.write_metrics(text));
    let (ends, drains) = Ends::new();
    let local = Arc::new(LocalAddrs::new());

    let workers = start_workers(&config, &discovery, &tls, &telemetry, &local, &drains)?;
    let (drain_asked, drain_requests) = watch::channel(());
    let _admin = start_admin(&config, &discovery, &tls, &telemetry, log_level, drain_asked)?;

    let control_plane =
        ControlPlane { addr: config.control_plane.clone(), mark: config.socket_mark, mesh: tls.clone() };
    tasks.spawn("identity", renewer(&config, &tls, &telemetry, control_plane.clone(), state.clone()).run());
    tasks.spawn("readiness", resume::say_that_it_waits(discovery.clone(), tls.clone(), state.is_some()));
    let certified = tls.clone();
    let connect = move || {
        let (control_plane, certified) = (control_plane.clone(), certified.clone());
        async move {
            // Without a certificate the stream would only be refused.
            certified.ready().await;
            control_plane.channel().await
        }
    };
    let hello = Hello {
        workload: config.workload.clone(),
        uid: config.workload_uid.clone(),
        addresses: local.reachable(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // Before the task that makes changes.
    let mesh_changes = discovery.mesh_changes();
    tasks.spawn("discovery", discovery::Client::new(inbox, connect, hello, state).run());
    tasks.spawn("spans", exporter.run(config.socket_mark));
    tasks.spawn("mesh", follow_mesh(discovery.clone(), mesh_changes, tls, telemetry.clone()));
    tracing::info!(workload = %config.workload, identity = %config.identity, workers = workers.len(), "proxy is up");

    let life = Life { discovery, ends: &ends, telemetry: &telemetry, deadline: config.drain_deadline };
    life.until_asked(&mut signals, drain_requests).await;
    life.end().await;
    join_workers(workers).await;
    Ok(())
}

/// The signals of the three ends.
struct Ends {
    inbound: DrainSignal,
    released: DrainSignal,
    outbound: DrainSignal,
}

impl Ends {
    fn new() -> (Self, Drains) {
        let (inbound, on_inbound) = Drain::new();
        let (released, on_released) = Drain::new();
        let (outbound, on_outbound) = Drain::new();
        let drains = Drains { inbound: on_inbound, released: on_released, outbound: on_outbound };
        (Self { inbound, released, outbound }, drains)
    }
}

/// From serving to gone (semantics 25).
struct Life<'a> {
    discovery: Discovery,
    ends: &'a Ends,
    telemetry: &'a Telemetry,
    deadline: Duration,
}

impl Life<'_> {
    /// Serves until a signal. A terminating workload, or `/drain`, begins the inbound drain before that: the application
    /// is still there then, and outbound goes on for it.
    async fn until_asked(&self, signals: &mut Signals, mut drain_requests: watch::Receiver<()>) {
        let early = async {
            // Whichever is first; the other has nothing to add.
            tokio::select! {
                () = self.terminating() => { tracing::info!("workload is terminating, inbound drains"); }
                Ok(()) = drain_requests.changed() => { tracing::info!("drain was asked for, inbound drains"); }
            }
            self.release().await;
            std::future::pending::<()>().await;
        };
        // Cancelling `early` loses nothing: every step of it can be taken again.
        tokio::select! {
            signal = signals.next() => tracing::info!(%signal, "told to end"),
            () = early => {}
        }
    }

    async fn terminating(&self) {
        let mut changes = self.discovery.inbound_changes();
        while self.lifecycle() == Lifecycle::Serving {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn lifecycle(&self) -> Lifecycle {
        self.discovery.inbound().map_or(Lifecycle::Serving, |inbound| inbound.spec.lifecycle)
    }

    /// Sends clients elsewhere, goes on accepting until nobody sends any more, then stops.
    async fn release(&self) {
        self.telemetry.set(Gauge::Draining, 1);
        self.ends.inbound.begin();
        let mut changes = self.discovery.inbound_changes();
        let released = async {
            while self.lifecycle() != Lifecycle::Released {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        // Without the acknowledgement the time is the proof.
        drop(timeout(RELEASE_MAX, released).await);
        self.ends.released.begin();
    }

    /// Drains both sides and cuts what is left at the deadline.
    async fn end(&self) {
        // Nobody is served and nobody connected: nothing to wait for.
        if self.ends.inbound.holds() > 0 || self.lifecycle() == Lifecycle::Terminating {
            self.release().await;
        }
        self.telemetry.set(Gauge::Draining, 1);
        // Listeners hold this one until the kernel's queues are empty: what waits there is served, not cut.
        self.ends.released.drain(self.deadline).await;
        let (inbound, outbound) =
            tokio::join!(self.ends.inbound.drain(self.deadline), self.ends.outbound.drain(self.deadline));
        tracing::info!(cut_inbound = inbound, cut_outbound = outbound, "drained");
    }
}

type Worker = JoinHandle<io::Result<()>>;

fn start_workers(
    config: &Arc<Config>,
    discovery: &Discovery,
    tls: &MeshTls,
    telemetry: &Telemetry,
    local: &Arc<LocalAddrs>,
    drains: &Drains,
) -> anyhow::Result<Vec<Worker>> {
    let count = config.workers.get();
    let shared = Shared {
        config: Arc::clone(config),
        discovery: discovery.clone(),
        tls: tls.clone(),
        telemetry: telemetry.clone(),
        connections: Arc::new(Limits::new(usize::try_from(config.connections_max)?)),
        requests: Concurrency::new(config.requests_max),
        balance: Arc::new(Balance::new(count)),
        capture: Arc::new(Capture { source: Kernel, ports: config.ports, local: Arc::clone(local) }),
        drains: drains.clone(),
    };
    telemetry.set(Gauge::Workers, i64::try_from(count)?);
    shared.tell_what_is_under_way();
    let (ways, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED_MAX)).unzip();
    let mut workers = Vec::with_capacity(count);
    for (index, handed) in queues.into_iter().enumerate() {
        let seat = Seat { index, listeners: listeners(config)?, handed, workers: ways.clone() };
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name(format!("weft-worker-{index}"));
        workers.push(thread.spawn(move || run_worker(seat, shared)).context("worker thread")?);
    }
    Ok(workers)
}

/// One worker's listeners. A family that the kernel does not have is done without, as long as one is there.
fn listeners(config: &Config) -> anyhow::Result<Vec<(Side, std::net::TcpListener)>> {
    let mut bound = Vec::with_capacity(4);
    for (side, addrs) in
        [(Side::Outbound, config.ports.outbound_addrs()), (Side::Inbound, config.ports.inbound_addrs())]
    {
        for addr in addrs {
            match bind(addr) {
                Ok(listener) => bound.push((side, listener)),
                Err(error) if addr.is_ipv6() && is_without_ipv6(&error) => {
                    tracing::info!(%addr, "no IPv6 here");
                }
                Err(error) => return Err(error).with_context(|| format!("cannot listen on {addr}")),
            }
        }
    }
    Ok(bound)
}

/// Whether IPv6 does not exist here, by kernel (97) or by configuration (99).
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn start_admin(
    config: &Config,
    discovery: &Discovery,
    tls: &MeshTls,
    telemetry: &Telemetry,
    log_level: LogLevel,
    drain_asked: watch::Sender<()>,
) -> anyhow::Result<AdminServer> {
    let prober = Prober::new(&config.probes, config.ports.all(), config.socket_mark).context("TLS for probes")?;
    let (metrics, known, shown, tls) = (telemetry.clone(), discovery.clone(), discovery.clone(), tls.clone());
    let builder = Admin::builder()
        .metrics(move |out| metrics.write(out))
        .ready(move || {
            let mut missing = Vec::new();
            if tls.credentials().is_none() {
                missing.push("a certificate".to_owned());
            }
            if !known.is_ready() {
                missing.push("the first configuration".to_owned());
            }
            if missing.is_empty() { Ok(()) } else { Err(missing) }
        })
        .config(move || shown.dump().to_string())
        .log_level(log_level)
        .below(probes::PATH_PREFIX, move |path, own| prober.clone().answer(path.to_owned(), own).boxed())
        .drain(move || {
            drain_asked.send_replace(());
        });
    let mut addrs = config.ports.admin_addrs().to_vec();
    addrs.retain(|addr| addr.is_ipv4() || std::net::UdpSocket::bind((addr.ip(), 0)).is_ok());
    Ok(builder.bind(&addrs).context("admin port")?.start()?)
}

/// The certificate client; what it counts is told at each scrape.
fn renewer(
    config: &Config,
    tls: &MeshTls,
    telemetry: &Telemetry,
    control_plane: ControlPlane,
    state: Option<Arc<StateDir>>,
) -> identity::Renewer<ControlPlane> {
    let stats = Arc::new(identity::Stats::default());
    let told = Arc::clone(&stats);
    telemetry.on_scrape(move |text| told.write(text));
    let settings = identity::Settings {
        identity: config.identity.clone(),
        trust_anchors: config.trust_anchors.clone(),
        join_token_file: config.join_token_file.clone(),
        service_account_token_file: config.service_account_token_file.clone(),
        state,
    };
    identity::Renewer::new(settings, tls.clone(), control_plane, Arc::new(DefaultTimeProvider), stats)
}

/// Puts what holds for the whole mesh in force: whom we trust and what is told. Of what was restored the bundle is in
/// force already, see [`resume`].
async fn follow_mesh(discovery: Discovery, mut changes: watch::Receiver<u64>, tls: MeshTls, telemetry: Telemetry) {
    loop {
        if let Some(mesh) = discovery.mesh() {
            telemetry.apply(&mesh.spec.telemetry);
        }
        if changes.changed().await.is_err() {
            return;
        }
        if let Some(mesh) = discovery.mesh()
            && let Err(error) = tls.publish_bundle(mesh.trust.clone())
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the trust bundle cannot be used");
        }
    }
}

async fn join_workers(workers: Vec<Worker>) {
    for worker in workers {
        let joined = tokio::task::spawn_blocking(move || worker.join()).await;
        match joined {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "worker failed"),
            Ok(Err(_)) | Err(_) => tracing::error!("worker panicked"),
        }
    }
}

/// Connections are descriptors: takes as many as the platform allows (the soft limit is often 1,024).
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the descriptor limit stays");
    }
}
