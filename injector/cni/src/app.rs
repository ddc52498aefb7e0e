//! The wiring of the node's part: builds every piece, hands each what it needs, joins all.

use std::io;
use std::time::Duration;

use kube::Client;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use weft_init::told;
use weft_runtime::admin::Admin;
use weft_runtime::drain::Drain;
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::LogLevel;

use crate::config::{Config, Node, Task};
use crate::farewell::is_removed;
use crate::host::Host;
use crate::keep::{Standing, keep};
use crate::repair::{Repair, Repairs};

/// How long the tasks have to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Does what was asked for; the node's part runs until the process is asked to end.
///
/// # Errors
/// What cannot be started or done, and why.
pub async fn run(config: Config, log: LogLevel) -> Result<(), AppError> {
    let Config { task, bin_dir, conf_dir, log: _, log_format: _ } = config;
    let host = Host { programs: bin_dir, configurations: conf_dir };
    match task {
        Task::Node(node) => serve(node, host, log).await,
        Task::Remove => part(host).await,
    }
}

async fn serve(node: Node, host: Host, log: LogLevel) -> Result<(), AppError> {
    let mut signals = Signals::install().map_err(AppError::Signals)?;
    let client = Client::try_default().await.map_err(|error| AppError::Cluster(Box::new(error)))?;
    let program = std::env::current_exe().map_err(AppError::Program)?;
    let tasks = Tasks::new();
    let (signal, drain) = Drain::new();
    let (standing, stands) = watch::channel(Standing::default());

    let mut registry = Registry::with_prefix("weft_cni");
    let written = Counter::default();
    registry.register(
        "chain_writes",
        "How often the plugin had to be put into the node's CNI configuration",
        written.clone(),
    );
    let repairs = Repairs::register(&mut registry);
    let admin =
        admin(registry, stands.clone(), log).bind(&node.admin).and_then(Admin::start).map_err(AppError::Listen)?;

    tasks.spawn("keep", keep(host.clone(), program, standing, written, drain.clone()));
    let repair = Repair { client: client.clone(), node: node.node.clone(), standing: stands, repairs };
    tasks.spawn("repair", repair.run(drain.clone()));
    tracing::info!(node = node.node, "weft-cni looks after this node");

    let received = signals.next().await;
    tracing::info!(signal = %received, "weft-cni ends");
    signal.drain(Duration::ZERO).await;
    tasks.close();
    if tokio::time::timeout(DRAIN_DEADLINE, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some tasks did not end in time");
    }
    if is_removed(client, &node.namespace, &node.daemonset).await {
        part(host).await?;
    } else {
        tracing::info!("the plugin stays in the chain: its DaemonSet is there");
    }
    // It joins a thread.
    drop(spawn_blocking(move || drop(admin)).await);
    Ok(())
}

fn admin(registry: Registry, stands: watch::Receiver<Standing>, log: LogLevel) -> weft_runtime::admin::AdminBuilder {
    Admin::builder()
        .metrics(move |text| {
            if let Err(error) = encode(text, &registry) {
                tracing::error!(%error, "metrics cannot be written");
            }
        })
        .ready(move || match stands.borrow().file {
            Some(_) => Ok(()),
            None => Err(vec!["chain".to_owned()]),
        })
        .log_level(log)
}

async fn part(host: Host) -> Result<(), AppError> {
    let parted = spawn_blocking(move || host.part()).await;
    match parted {
        Ok(Ok(files)) => {
            tracing::info!(?files, "the plugin was taken out of the chain");
            Ok(())
        }
        Ok(Err(error)) => Err(AppError::Part(told(&error))),
        Err(error) => Err(AppError::Part(error.to_string())),
    }
}

/// Why the node's part does not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The API server cannot be used.
    #[error("neither a service account of a pod nor KUBECONFIG leads to the API server")]
    Cluster(#[source] Box<kube::Error>),
    /// An address cannot be listened on.
    #[error("not listening")]
    Listen(#[source] io::Error),
    /// The node's configuration is not as it was before us.
    #[error("the plugin cannot be taken out of the chain: {0}")]
    Part(String),
    /// Our own program cannot be found, which is to be put in place.
    #[error("it cannot be told where this program is")]
    Program(#[source] io::Error),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
}
