//! What all five programs do alike: flags, logs, listeners, and an end that loses nothing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_runtime::drain::Drain;
use weft_runtime::signal::Signals;
use weft_runtime::task::Tasks;
use weft_runtime::telemetry::{self, LogFormat, TelemetryError};

use crate::db::DbError;

/// Threads of a program: requests are short and SQLite has threads of its own.
const WORKERS_MAX: usize = 4;

/// Flags that every program has.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Address to listen on, repeatable. Port 0 takes a free one; the log says which.
    #[arg(long, env = "SHOP_LISTEN", value_delimiter = ',', value_name = "IP:PORT")]
    pub listen: Vec<SocketAddr>,
    /// File of the SQLite database. Instances of one service on one machine may share a file; without one, a file named
    /// after the program is made in the current directory.
    #[arg(long, env = "SHOP_DATABASE", value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// Name of this instance, told in logs and in the x-served-by header.
    #[arg(long, env = "SHOP_NAME")]
    pub name: Option<String>,
    /// What is logged: error, warn, info, debug, or target=level.
    #[arg(long, env = "SHOP_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look: text or json.
    #[arg(long, env = "SHOP_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// How long requests in flight may take to finish after SIGTERM, in milliseconds.
    #[arg(long, env = "SHOP_DRAIN_MS", default_value_t = 15_000)]
    pub drain_ms: u64,
}

/// Why a program could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[from] DbError),
    /// An address cannot be listened on.
    #[error("cannot listen")]
    Listen(#[source] io::Error),
    /// Logs cannot be set up.
    #[error("logs cannot be set up")]
    Logs(#[source] TelemetryError),
    /// The name cannot stand in a header.
    #[error("the name {0:?} cannot stand in a header")]
    Name(String),
    /// The system refuses threads or signals.
    #[error("the async runtime cannot be started")]
    Runtime(#[source] io::Error),
    /// The gRPC server ended by itself.
    #[error("the gRPC server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// What a program is handed to serve with.
pub(crate) struct Context {
    pub(crate) listeners: Vec<std::net::TcpListener>,
    pub(crate) name: String,
    pub(crate) database: PathBuf,
    /// Begins with SIGTERM or SIGINT.
    pub(crate) drain: Drain,
    /// Connections and background work; waited for at the end.
    pub(crate) tasks: Tasks,
}

/// Runs a program until it is told to end and what is in flight has finished.
///
/// # Errors
/// It could not start.
pub(crate) fn run<F, S>(role: &'static str, default_port: u16, common: Common, serve: S) -> Result<(), StartError>
where
    F: Future<Output = Result<(), StartError>>,
    S: FnOnce(Context) -> F,
{
    telemetry::init(&common.log, common.log_format).map_err(StartError::Logs)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::install().map_err(StartError::Runtime)?;
        let (signal, drain) = Drain::new();
        let listen = match common.listen.as_slice() {
            [] => vec![([0, 0, 0, 0], default_port).into(), (std::net::Ipv6Addr::UNSPECIFIED, default_port).into()],
            addrs => addrs.to_vec(),
        };
        let context = Context {
            listeners: weft_runtime::net::listen_all(&listen).map_err(StartError::Listen)?,
            name: common.name.unwrap_or_else(|| role.to_owned()),
            database: common.database.unwrap_or_else(|| PathBuf::from(format!("shop-{role}.sqlite"))),
            drain,
            tasks: Tasks::new(),
        };
        let mut serving = std::pin::pin!(serve(context));
        // The signal's arm loses nothing; a server that ends before the signal has failed.
        tokio::select! {
            ended = serving.as_mut() => return ended,
            received = signals.next() => tracing::info!(signal = %received, "stopping: finishing what is in flight"),
        }
        signal.begin();
        match tokio::time::timeout(Duration::from_millis(common.drain_ms), serving).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                tracing::warn!("the time to finish is over: cutting what is left");
                Ok(())
            }
        }
    })
}

/// Says where a program can be reached. People and tests read this line.
pub(crate) fn announce(name: &str, listeners: &[std::net::TcpListener]) {
    for listener in listeners {
        if let Ok(addr) = listener.local_addr() {
            tracing::info!(name, %addr, "listening");
        }
    }
}
