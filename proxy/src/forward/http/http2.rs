//! One HTTP/2 connection: its streams side by side, each a task, all on this worker.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use super::body::Source;
use super::exchange::Incoming;
use super::guard::{Guarded, is_flood};
use super::message::Request;
use super::responder::Responder;
use super::{Http, Session};
use crate::connect::h2::{CONNECTION_WINDOW, HEADER_LIST_BYTES_READ, SEND_BUFFER, STREAM_WINDOW, STREAMS_MAX};
use crate::error::Reason;
use crate::io::Io;
use crate::record::Protocol;

/// Streams that a peer may open and reset before we looked at them: the bound on rapid reset (CVE-2023-44487).
const RESET_PENDING_MAX: usize = 64;
/// How long the preface and the first SETTINGS may take.
const PREFACE_MAX: Duration = Duration::from_secs(10);
/// A connection that carries nothing for so long is ended (design §6); GOAWAY makes that safe for a request on its way.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How often a client is probed, and how long it may take to answer (semantics 20).
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn serve(http: &Rc<Http>, io: Io, session: Session) {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST_BYTES_READ)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_PENDING_MAX);
    let guarded = Guarded::new(io, session.is_meshed());
    let Ok(Ok(mut connection)) = timeout(PREFACE_MAX, builder.handshake::<_, Bytes>(guarded)).await else { return };
    let session = Rc::new(session);
    let ping_pong = connection.ping_pong();
    // Nothing is lost: a client that does not answer is gone, and its streams are cancelled with the connection.
    tokio::select! {
        () = streams(http, &mut connection, &session) => {}
        () = probe(ping_pong) => tracing::debug!(client = %session.client, "HTTP/2 client does not answer PING"),
    }
}

/// Takes streams until the connection ends. When draining, says GOAWAY and finishes what there is.
async fn streams(http: &Rc<Http>, connection: &mut Connection<Guarded, Bytes>, session: &Rc<Session>) {
    let mut told = false;
    loop {
        // Nothing is lost: `accept` keeps its place, and it also drives the connection's reads and writes.
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = leaving(session), if !told => {
                connection.graceful_shutdown();
                told = true;
                continue;
            }
            () = sleep(IDLE_MAX), if !told => {
                if !connection.has_streams() {
                    connection.graceful_shutdown();
                    told = true;
                }
                continue;
            }
        };
        let (request, responder) = match accepted {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, client = %session.client, "HTTP/2 failed");
                if error.is_library() || is_flood(&error) {
                    // A client that does not keep to the protocol, or floods us.
                    let record = http.recorder.http(session.direction(), Protocol::Http2, session.client, session.dst);
                    record.finish(Err(Reason::BadRequest));
                }
                return;
            }
            None => return,
        };
        let (parts, stream) = request.into_parts();
        let incoming = Incoming {
            request: Request::Http2(Box::new(parts)),
            source: Source::http2(stream),
            responder: Responder::Http2(responder),
        };
        let (http, session) = (Rc::clone(http), Rc::clone(session));
        http.tasks.clone().spawn_local("h2-stream", async move {
            // Boxed: a task is moved several times before it runs, and once more when it ends.
            // HTTP/2 has nothing left of an exchange.
            drop(Box::pin(http.exchange(&session, incoming)).await);
        });
    }
}

/// Resolves when the client is to go elsewhere.
async fn leaving(session: &Session) {
    // Nothing is lost: both stay as they are once they are there.
    tokio::select! {
        () = session.drain.draining() => {}
        // Said to peers alone; the others need not wait for it before each of their requests.
        () = session.farewell.said(), if session.peer().is_some() => {}
    }
}

/// Resolves when a PING is not answered in time.
async fn probe(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection itself reports its end.
            Ok(Err(_ended)) => return std::future::pending().await,
            Err(_silent) => return,
        }
    }
}
