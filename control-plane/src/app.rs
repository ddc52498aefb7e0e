//! The wiring: builds every part, hands each what it needs, joins all. The only file that knows all of them.

mod admin;
mod authority;
mod source;
mod waiting;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use weft_index::IndexConfig;
use weft_model::ServiceKey;
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
use self::source::{Cluster, Following};
use crate::ca::{Authority, CaError, Settings};
use crate::config::{Config, Source};
use crate::hub::{Hub, HubConfig};
use crate::kubernetes::ClientError;
use crate::kubernetes::authority::MirrorError;
use crate::metrics::Metrics;
use crate::replica::{self, Replica};
use crate::serve::identity::{IdentityService, TokenReviewer};
use crate::serve::mesh::MeshService;
use crate::serve::replica::ReplicaService;
use crate::serve::{ControlServer, ServeError, router};
use crate::status::{self, StatusDir};
use crate::token::{JoinTokens, TokenError};

/// How long streams have to end after SIGTERM. They end at once; this is for those whose peer does not read.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A running control plane.
pub struct App {
    addrs: Vec<SocketAddr>,
    admin: AdminServer,
    following: Option<Following>,
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
        let cluster = match config.source {
            Source::Directory(_) => None,
            Source::Kubernetes => Some(Box::pin(Cluster::join(&config, &clock, &metrics, (&tasks, &drain))).await?),
        };
        let authority = open_authority(&config, &clock)?;
        let issuer = match &cluster {
            None => None,
            Some(cluster) => cluster.follow_issuer(&authority, &metrics, (&tasks, &drain)).await,
        };
        let tls = MeshTls::new(config.trust_domain.clone());
        let kick = Arc::new(Notify::new());
        let keeper = Keeper::new(Arc::clone(&authority), Arc::clone(&hub), tls.clone(), &config, clock.clone())?
            .taking(issuer.clone());
        let leads = cluster.as_ref().map(|cluster| cluster.leads.clone());
        // Before the page that says that we are ready: whoever mints a token then finds the key that checks it.
        let reviewer = cluster.as_ref().map_or(TokenReviewer::Absent, Cluster::reviewer);
        let identity = identity(&config, &hub, Arc::clone(&authority), clock.clone(), reviewer)?;
        if let Some(cluster) = &cluster {
            cluster.tell_anchors(&authority, &tasks, &drain);
        }
        let (shown, leading) = (Arc::clone(&hub), leads.clone());
        let pages = admin::Pages { config: config.clone(), hub: shown, authority, leads: leading, issuer };
        let admin = pages.start(log, &metrics, &clock, &kick).map_err(AppError::Listen)?;

        let following = source::follow(&config, cluster.as_ref(), &hub, &metrics, (&tasks, &drain)).await?;
        if let Some(cluster) = &cluster {
            cluster.tell_status(&hub, &tasks, &drain);
            cluster.tell_uninjected(&metrics, &tasks, &drain);
        }
        if let Some(path) = &config.status_dir {
            let dir = StatusDir::open(path).map_err(AppError::StatusDir)?;
            tasks.spawn("status", status::keep(dir, Arc::clone(&hub), drain.clone()));
        }
        let keeping = keeper.keep(kick, leads, drain.clone(), Arc::clone(&metrics));
        tasks.spawn("authority", keeping);

        let mesh = MeshService {
            hub: Arc::clone(&hub),
            tasks: tasks.clone(),
            drain: drain.clone(),
            stream_age: config.stream_age,
            clock,
            metrics: Arc::clone(&metrics),
        };
        let replica = this_replica(&config, &hub, &tls, &tasks, &drain);
        let router = router(mesh, identity, served(&replica).map_err(AppError::Certificate)?, Arc::clone(&metrics));
        let server = ControlServer { tls, tasks: tasks.clone(), drain, metrics };
        if cluster.is_some() {
            tasks.spawn("replicas", replica.follow_all());
        }
        let (ended, served) = tokio::sync::oneshot::channel();
        tasks.spawn("serve", async move {
            // Nobody listens only when the process ends.
            drop(ended.send(Box::pin(server.serve(listeners, router)).await));
        });
        tracing::info!(?addrs, source = %config.source, "control plane serves");
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
    HubConfig { replicated: config.source == Source::Kubernetes, ..HubConfig::new(index, config.leaf_lifetime) }
}

fn open_authority(config: &Config, clock: &WallClock) -> Result<Arc<Authority>, AppError> {
    let settings = Settings {
        leaf_life: config.leaf_lifetime,
        issuer_secret: config.issuer_secret.clone(),
        ..Settings::new(config.trust_domain.clone())
    };
    let authority = Authority::open(&config.ca_dir, settings, clock.unix_seconds()).map_err(AppError::Authority)?;
    Ok(Arc::new(authority))
}

fn identity(
    config: &Config,
    hub: &Arc<Hub>,
    authority: Arc<Authority>,
    clock: WallClock,
    reviewer: TokenReviewer,
) -> Result<IdentityService, AppError> {
    let tokens = JoinTokens::open(&config.ca_dir, config.trust_domain.clone(), clock.unix_seconds());
    let hub = Arc::clone(hub);
    Ok(IdentityService {
        authority,
        tokens: Arc::new(tokens.map_err(AppError::Tokens)?),
        workload_exists: Arc::new(move |identity| hub.identity_exists(identity)),
        reviewer,
        trust_domain: config.trust_domain.clone(),
        clock,
    })
}

fn this_replica(config: &Config, hub: &Arc<Hub>, tls: &MeshTls, tasks: &Tasks, drain: &Drain) -> Replica {
    Replica {
        name: Arc::from(config.replica.as_str()),
        service: ServiceKey::new(&config.namespace, replica::SERVICE, replica::PORT),
        hub: Arc::clone(hub),
        tls: tls.clone(),
        tasks: tasks.clone(),
        drain: drain.clone(),
    }
}

/// What other replicas are served.
fn served(replica: &Replica) -> Result<ReplicaService, KeepError> {
    Ok(ReplicaService {
        name: Arc::clone(&replica.name),
        identity: replica.tls.control_plane_id().map_err(KeepError::Identity)?,
        hub: Arc::clone(&replica.hub),
        tasks: replica.tasks.clone(),
        drain: replica.drain.clone(),
    })
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
    /// The API server cannot be used.
    #[error("the API server cannot be used")]
    Cluster(#[source] ClientError),
    /// A part ended that never should.
    #[error("a part of the control plane ended by itself")]
    Ended,
    /// An address cannot be listened on.
    #[error("not listening")]
    Listen(#[source] io::Error),
    /// The authority's Secret cannot be used.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// It was asked to end while it waited for an issuer.
    #[error("asked to end before there was an issuer of certificates: {why}")]
    NoIssuer {
        /// What it waited for.
        why: String,
    },
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
