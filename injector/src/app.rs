//! The wiring: builds every part, hands each what it needs, joins all.

use std::io;
use std::time::Duration;

use kube::Client;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use weft_runtime::admin::Admin;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::net;
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::LogLevel;

use crate::certificate::Keeper;
use crate::config::Config;
use crate::serve::serve;
use crate::webhook::Webhook;

/// The Service that the API server asks.
const SERVICE: &str = "weft-injector";

/// How long open connections have to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the process is asked to end.
///
/// # Errors
/// What cannot be started, and why.
pub async fn run(config: Config, log: LogLevel) -> Result<(), AppError> {
    let mut signals = Signals::install().map_err(AppError::Signals)?;
    let client = Client::try_default().await.map_err(|error| AppError::Cluster(Box::new(error)))?;
    let tasks = Tasks::new();
    let (signal, drain) = Drain::new();
    let (keeper, tls) = Keeper::new(client, config.namespace.clone(), SERVICE, WallClock::system());
    tasks.spawn("certificate", keeper.run(drain.clone()));

    let mut registry = Registry::with_prefix("weft_injector");
    let webhook = Webhook {
        installation: config.installation(),
        injected: counter(&mut registry, "injected_pods", "Pods that got a proxy"),
        skipped: counter(&mut registry, "skipped_pods", "Pods that were left alone"),
        refused: counter(&mut registry, "refused_pods", "Pods whose settings make no sense"),
    };
    let shown = tls.clone();
    let admin = Admin::builder()
        .metrics(move |text| {
            if let Err(error) = encode(text, &registry) {
                tracing::error!(%error, "metrics cannot be written");
            }
        })
        .ready(move || match shown.borrow().is_some() {
            true => Ok(()),
            false => Err(vec!["certificate".to_owned()]),
        })
        .log_level(log);
    let admin = admin.bind(&config.admin).and_then(Admin::start).map_err(AppError::Listen)?;
    let listeners = net::listen_all(&config.listen).map_err(AppError::Listen)?;
    serve(listeners, tls, webhook.router(), tasks.clone(), drain).await.map_err(AppError::Listen)?;
    tracing::info!(listen = ?config.listen, image = config.image, "injector serves");

    let received = signals.next().await;
    tracing::info!(signal = %received, "injector drains");
    signal.drain(Duration::ZERO).await;
    tasks.close();
    if tokio::time::timeout(DRAIN_DEADLINE, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some connections did not end in time");
    }
    // It joins a thread.
    drop(tokio::task::spawn_blocking(move || drop(admin)).await);
    Ok(())
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// Why the injector does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The API server cannot be used.
    #[error("neither a service account of a pod nor KUBECONFIG leads to the API server")]
    Cluster(#[source] Box<kube::Error>),
    /// An address cannot be listened on.
    #[error("not listening")]
    Listen(#[source] io::Error),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
}
