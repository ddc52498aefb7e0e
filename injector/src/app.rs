//! The wiring: builds every part, hands each what it needs, joins all.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use weft_runtime::admin::Admin;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::net;
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::LogLevel;

use crate::certificate::Keeper;
use crate::config::Config;
use crate::metrics::Metrics;
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

    let metrics = Arc::new(Metrics::new());
    let webhook = Webhook { installation: config.installation(), metrics: Arc::clone(&metrics) };
    let shown = tls.clone();
    let admin = Admin::builder()
        .metrics(move |text| metrics.write(text))
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
