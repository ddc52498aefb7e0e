//! Serves HTTP/1.1: connections with limits, one log line per request, and an end that finishes what is in flight.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use crate::app::{Context, StartError, announce};
use crate::error::{ApiError, Code};
use crate::trace::Trace;

/// Connections served at once, per listener. More wait in the kernel.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may be idle, and how long a head may take. Longer than pools keep idle connections (five
/// minutes with Weft, less elsewhere), so that the client closes first and no request meets a connection that is going.
const HEAD_TIMEOUT: Duration = Duration::from_secs(330);
/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body that anything here needs is a few hundred bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// Serves until the drain begins and the last request has been answered.
///
/// # Errors
/// A listener cannot be handed to the runtime, or the instance's name cannot be a header.
pub(crate) async fn http(context: Context, router: Router) -> Result<(), StartError> {
    let Context { listeners, name, drain, tasks, .. } = context;
    let served_by = HeaderValue::from_str(&name).ok().ok_or_else(|| StartError::Name(name.clone()))?;
    let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    announce(&name, &listeners);
    for listener in listeners {
        let listener = TcpListener::from_std(listener).map_err(StartError::Listen)?;
        let shop = Shop { router: router.clone(), served_by: served_by.clone(), drain: drain.clone() };
        let inner = tasks.clone();
        tasks.spawn("accept", async move { accept(listener, shop, inner).await });
    }
    drain.draining().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// What a connection needs.
#[derive(Clone)]
struct Shop {
    router: Router,
    served_by: HeaderValue,
    drain: Drain,
}

async fn accept(listener: TcpListener, shop: Shop, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        // Neither arm loses anything: a connection that was not taken stays in the kernel's queue.
        let (place, accepted) = tokio::select! {
            () = shop.drain.draining() => break,
            next = next => match next {
                Some(next) => next,
                None => break,
            },
        };
        match accepted {
            Ok((tcp, _peer)) => {
                let shop = shop.clone();
                tasks.spawn("connection", async move {
                    connection(tcp, shop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                // Out of descriptors: at once again would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Closing the listener resets whoever waits in its queue, so they are served first.
    while let Some(Ok((tcp, _peer))) = listener.accept().now_or_never() {
        let shop = shop.clone();
        tasks.spawn("connection", async move { connection(tcp, shop).await });
    }
}

async fn connection(tcp: TcpStream, shop: Shop) {
    // Answers are small: waiting for more to send would only add delay.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let drain = shop.drain.clone();
    let service = service_fn(move |request| {
        let shop = shop.clone();
        async move { Ok::<_, Infallible>(answer(&shop, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service);
    let mut served = std::pin::pin!(served);
    // The drain's arm holds nothing; the connection is polled on below.
    let ended = tokio::select! {
        ended = poll_fn(|cx| served.as_mut().poll(cx)) => ended,
        () = drain.draining() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn answer(shop: &Shop, request: Request<Incoming>) -> Response {
    let (begun, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    let trace = Trace::of(request.headers());
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, shop.router.clone().oneshot(request.map(Body::new))).await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_elapsed) => ApiError::new(Code::Busy, "the request took too long").into_response(),
    };
    response.headers_mut().insert(SERVED_BY, shop.served_by.clone());
    let (status, elapsed_us) = (response.status().as_u16(), begun.elapsed().as_micros());
    let trace_id = trace.id();
    if status >= 500 {
        tracing::warn!(%method, path, status, elapsed_us, trace_id, "request failed");
    } else if method == Method::GET {
        // Under load these would be all that the log holds.
        tracing::debug!(%method, path, status, elapsed_us, trace_id, "request");
    } else {
        tracing::info!(%method, path, status, elapsed_us, trace_id, "request");
    }
    response
}
