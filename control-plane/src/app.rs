//! The wiring: builds every part, hands each what it needs, joins all. The only file that knows all of them.

mod admin;
mod authority;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use weft_index::IndexConfig;
use weft_runtime::admin::AdminServer;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_runtime::net;
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::LogLevel;
use weft_tls::MeshTls;

pub use self::authority::KeepError;
use self::authority::Keeper;
use crate::ca::{Authority, CaError, Settings};
use crate::config::Config;
use crate::hub::{Hub, HubConfig};
use crate::metrics::Metrics;
use crate::serve::identity::{IdentityService, TokenReviewer};
use crate::serve::mesh::MeshService;
use crate::serve::{ControlServer, ServeError, router};
use crate::source::Seen;
use crate::source::directory::{Following, follow};
use crate::status::{self, StatusDir};
use crate::token::{JoinTokens, TokenError};

/// How long streams have to end after SIGTERM. They end at once; this is for those whose peer does not read.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Batches of changes that wait for the hub: it takes each in a moment.
const SEEN_MAX: usize = 16;

/// A running control plane.
pub struct App {
    addrs: Vec<SocketAddr>,
    admin: AdminServer,
    following: Following,
    drain: DrainSignal,
    tasks: Tasks,
    /// Resolves when serving has ended, with what ended it.
    served: tokio::sync::oneshot::Receiver<Result<(), ServeError>>,
}

impl App {
    /// Starts everything: when it returns, the source was read once and proxies are served.
    ///
    /// # Errors
    /// What cannot be started, and why.
    pub async fn start(config: Config, log: Option<LogLevel>) -> Result<Self, AppError> {
        let clock = WallClock::system();
        let metrics = Metrics::new();
        let tasks = Tasks::new();
        let (signal, drain) = Drain::new();
        let listeners = net::listen_all(&config.listen).map_err(AppError::Listen)?;
        let addrs =
            listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(AppError::Listen)?;
        let hub = Arc::new(Hub::new(hub_config(&config), Arc::clone(&metrics)));
        let authority = open_authority(&config, &clock)?;
        let tls = MeshTls::new(config.trust_domain.clone());
        let kick = Arc::new(Notify::new());
        let keeper = Keeper::new(Arc::clone(&authority), Arc::clone(&hub), tls.clone(), &config, clock.clone())?;
        // Before the page that says that we are ready: whoever mints a token then finds the key that checks it.
        let identity = identity(&config, &hub, Arc::clone(&authority), clock.clone())?;
        let pages = admin::Pages { config: config.clone(), hub: Arc::clone(&hub), authority };
        let admin = pages.start(log, &metrics, &clock, &kick).map_err(AppError::Listen)?;

        let (following, first) = follow_source(&config, &hub, &tasks, &drain).await?;
        hub.take(&first);
        if let Some(path) = &config.status_dir {
            let dir = StatusDir::open(path).map_err(AppError::StatusDir)?;
            tasks.spawn("status", status::keep(dir, Arc::clone(&hub), drain.clone()));
        }
        let keeping = keeper.keep(kick, drain.clone(), Arc::clone(&metrics));
        tasks.spawn("authority", keeping);

        let mesh = MeshService {
            hub: Arc::clone(&hub),
            tasks: tasks.clone(),
            drain: drain.clone(),
            stream_age: config.stream_age,
            clock,
        };
        let router = router(mesh, identity, Arc::clone(&metrics));
        let server = ControlServer { tls, tasks: tasks.clone(), drain, metrics };
        let (ended, served) = tokio::sync::oneshot::channel();
        tasks.spawn("serve", async move {
            // Nobody listens only when the process ends.
            drop(ended.send(Box::pin(server.serve(listeners, router)).await));
        });
        tracing::info!(?addrs, source = %config.source.display(), "control plane serves");
        Ok(Self { addrs, admin, following, drain: signal, tasks, served })
    }

    /// Where proxies are served.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where the admin pages are.
    pub fn admin_addrs(&self) -> &[SocketAddr] {
        self.admin.addrs()
    }

    /// Runs until the process is asked to end, then ends everything in order.
    ///
    /// # Errors
    /// Serving ended by itself.
    pub async fn run_until_signal(mut self) -> Result<(), AppError> {
        let mut signals = Signals::install().map_err(AppError::Signals)?;
        let outcome = tokio::select! {
            signal = signals.next() => {
                tracing::info!(%signal, "control plane drains");
                Ok(())
            }
            served = &mut self.served => match served {
                Ok(Err(error)) => Err(AppError::Serve(error)),
                Ok(Ok(())) | Err(_) => Err(AppError::Ended),
            },
        };
        self.stop().await;
        outcome
    }

    /// Ends everything in order: proxies go elsewhere, then what they were served from.
    pub async fn stop(self) {
        self.drain.drain(Duration::ZERO).await;
        self.tasks.close();
        if tokio::time::timeout(DRAIN_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some streams did not end in time");
        }
        // Both join a thread.
        let (admin, following) = (self.admin, self.following);
        drop(tokio::task::spawn_blocking(move || drop((admin, following))).await);
    }
}

fn hub_config(config: &Config) -> HubConfig {
    let index = IndexConfig {
        trust_domain: config.trust_domain.clone(),
        networks: config.networks.clone(),
        reserved_networks: config.reserved_networks.clone(),
    };
    HubConfig::new(index, config.leaf_lifetime)
}

fn open_authority(config: &Config, clock: &WallClock) -> Result<Arc<Authority>, AppError> {
    let settings = Settings { leaf_life: config.leaf_lifetime, ..Settings::new(config.trust_domain.clone()) };
    let authority = Authority::open(&config.ca_dir, settings, clock.unix_seconds()).map_err(AppError::Authority)?;
    Ok(Arc::new(authority))
}

fn identity(
    config: &Config,
    hub: &Arc<Hub>,
    authority: Arc<Authority>,
    clock: WallClock,
) -> Result<IdentityService, AppError> {
    let tokens = JoinTokens::open(&config.ca_dir, config.trust_domain.clone(), clock.unix_seconds());
    let hub = Arc::clone(hub);
    Ok(IdentityService {
        authority,
        tokens: Arc::new(tokens.map_err(AppError::Tokens)?),
        workload_exists: Arc::new(move |identity| hub.identity_exists(identity)),
        reviewer: TokenReviewer::Absent,
        trust_domain: config.trust_domain.clone(),
        clock,
    })
}

/// Follows the source and hands back what it holds to begin with.
async fn follow_source(
    config: &Config,
    hub: &Arc<Hub>,
    tasks: &Tasks,
    drain: &Drain,
) -> Result<(Following, Seen), AppError> {
    if !config.source.is_dir() {
        let missing = format!("{} is not a directory", config.source.display());
        return Err(AppError::Source(io::Error::new(io::ErrorKind::NotADirectory, missing)));
    }
    let (sender, mut seen) = mpsc::channel::<Seen>(SEEN_MAX);
    let following = follow(&config.source, config.status_dir.as_deref(), sender).map_err(AppError::Source)?;
    let first = seen.recv().await.ok_or(AppError::Ended)?;
    let (hub, drain) = (Arc::clone(hub), drain.clone());
    tasks.spawn("source", async move {
        // What a stop cuts off is read again at the next start.
        loop {
            tokio::select! {
                () = drain.cut() => return,
                seen = seen.recv() => match seen {
                    Some(seen) => hub.take(&seen),
                    None => return,
                },
            }
        }
    });
    Ok((following, first))
}

/// Why the control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The authority cannot be opened.
    #[error("the certificate authority cannot be used")]
    Authority(#[source] CaError),
    /// Our own certificate cannot be made.
    #[error("no certificate for the control plane itself")]
    Certificate(#[source] KeepError),
    /// A part ended that never should.
    #[error("a part of the control plane ended by itself")]
    Ended,
    /// An address cannot be listened on.
    #[error("not listening")]
    Listen(#[source] io::Error),
    /// Serving ended.
    #[error("serving ended")]
    Serve(#[source] ServeError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    /// The source cannot be followed.
    #[error("the source cannot be followed")]
    Source(#[source] io::Error),
    /// The status directory cannot be made.
    #[error("the status directory cannot be used")]
    StatusDir(#[source] io::Error),
    /// Join tokens cannot be checked.
    #[error("join tokens cannot be checked")]
    Tokens(#[source] TokenError),
}
