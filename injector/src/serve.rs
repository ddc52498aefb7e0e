//! The way in: HTTPS, with whatever certificate holds when a connection begins.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

/// Connections at once. The API server keeps a few open; anybody else's are held to this.
const CONNECTIONS_MAX: usize = 256;
/// How long a handshake, and the head of a question, may take.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the drain is over; connections that are open then are ended by their next answer.
pub(crate) async fn serve(
    listeners: Vec<TcpListener>,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    router: Router,
    tasks: Tasks,
    drain: Drain,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (tls, router, room) = (tls.clone(), router.clone(), Arc::clone(&room));
        let (spawner, drain) = (tasks.clone(), drain.clone());
        tasks.spawn("accept", async move {
            // What arrives after the drain has begun goes to another replica.
            tokio::select! {
                never = accept(listener, tls, router, room, spawner, drain.clone()) => match never {},
                () = drain.draining() => {}
            }
        });
    }
    Ok(())
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    router: Router,
    room: Arc<Semaphore>,
    tasks: Tasks,
    drain: Drain,
) -> Infallible {
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        let tcp = match listener.accept().await {
            Ok((tcp, _peer)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(config) = tls.borrow().clone() else { continue };
        let (router, drain) = (router.clone(), drain.clone());
        tasks.spawn("connection", async move {
            let _permit = permit;
            Box::pin(connection(tcp, config, router, drain)).await;
        });
    }
}

async fn connection(tcp: TcpStream, config: Arc<ServerConfig>, router: Router, drain: Drain) {
    let shaken = timeout(HELLO_MAX, TlsAcceptor::from(config).accept(tcp)).await;
    let Ok(Ok(stream)) = shaken else {
        tracing::debug!("a handshake failed");
        return;
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HELLO_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = drain.draining() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
