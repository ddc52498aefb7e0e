//! One HTTP/1 connection: its requests one after the other, in the order they came.

use std::rc::Rc;
use std::time::Duration;

use http::Method;
use tokio::time::timeout;
use weft_proxy_core::h1::{BodyDecoder, Persistence, RequestHead};

use super::answer::{Audience, answer};
use super::attempt::Then;
use super::body::Source;
use super::exchange::{After, Incoming};
use super::message::Request;
use super::responder::Responder;
use super::{Http, Session};
use crate::error::Reason;
use crate::h1::{ReadError, Reader, Writer, begin, into_io, is_too_large};
use crate::io::Io;
use crate::record::{HttpRecord, Protocol};

/// How long a head may take once its first byte is there. Waiting for that byte has no limit: closing idle connections
/// is the client's and the drain's business, and a timer here would race with its next request.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How long the rest of a request that we will not read is waited for before its connection is closed, so that the
/// answer is not lost to a reset (RFC 9112 §9.6).
const LINGER_MAX: Duration = Duration::from_secs(5);

/// How HTTP ended on a connection.
#[derive(Debug)]
pub(crate) enum Http1End {
    /// The connection is over.
    Closed,
    /// The client asked for a tunnel and has it: bytes now.
    Tunnel {
        /// The client.
        client: Io,
        /// Whom it talks to.
        upstream: Io,
    },
}

pub(super) async fn serve(http: &Rc<Http>, io: Io, session: &Session) -> Http1End {
    let (mut reader, mut writer) = begin(io);
    loop {
        if !wait_for_request(&mut reader, session).await {
            // Whether it took our end or not, there is nothing more to do for it.
            drop(timeout(LINGER_MAX, writer.shutdown()).await);
            return Http1End::Closed;
        }
        let head = match timeout(HEAD_MAX, reader.request()).await {
            Ok(Ok(Some(head))) => head,
            Ok(Ok(None)) => return Http1End::Closed,
            Ok(Err(ReadError::Head(error))) => {
                tracing::debug!(error = &error as &dyn std::error::Error, client = %session.client, "head refused");
                let reason = if is_too_large(error) { Reason::HeadersTooLarge } else { Reason::BadRequest };
                Box::pin(refuse_head(http, session, reason, &mut reader, &mut writer)).await;
                return Http1End::Closed;
            }
            Ok(Err(ReadError::Ended | ReadError::Io(_))) => {
                record_head(http, session).finish(Err(Reason::ClientGone));
                return Http1End::Closed;
            }
            Err(_slow) => {
                Box::pin(refuse_head(http, session, Reason::BadRequest, &mut reader, &mut writer)).await;
                return Http1End::Closed;
            }
        };
        let After { reader: read, writer: written, then, tunnel } =
            Box::pin(http.exchange(session, incoming(head, reader, writer))).await;
        // What is dropped in the middle of a message is reset.
        let (Some(read), Some(written)) = (read, written) else { return Http1End::Closed };
        (reader, writer) = (read, written);
        match then {
            Then::KeepAlive => {}
            Then::Close => {
                linger(&mut reader, &mut writer).await;
                return Http1End::Closed;
            }
            Then::Reset => {
                writer.break_off();
                return Http1End::Closed;
            }
            Then::Tunnel => {
                let upstream = tunnel.and_then(|connection| into_io(connection.reader, connection.writer));
                return match (into_io(reader, writer), upstream) {
                    (Some(client), Some(upstream)) => Http1End::Tunnel { client, upstream },
                    _ => Http1End::Closed,
                };
            }
        }
    }
}

/// Waits for the first byte of a request. `false`: none will come.
async fn wait_for_request(reader: &mut Reader, session: &Session) -> bool {
    // Nothing is lost: `begun` keeps what it read. Idle connections are closed only once nobody sends any more, because
    // a close can cross a request on its way.
    tokio::select! {
        biased;
        begun = reader.begun() => begun.unwrap_or(false),
        () = session.released.draining() => false,
        // Said to peers alone; the others need not wait for it before each of their requests.
        () = session.farewell.idle_closed(), if session.peer().is_some() => false,
    }
}

fn incoming(mut head: RequestHead, reader: Reader, writer: Writer) -> Incoming {
    head.retain_upgrades(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    let responder = Responder::Http1 { writer, version: head.version, persistence: persistence(&head) };
    let source = Source::Http1 { reader, decoder: BodyDecoder::new(head.body) };
    Incoming { request: Request::Http1(Box::new(head)), source, responder }
}

fn persistence(head: &RequestHead) -> Persistence {
    // After a tunnel was asked for and refused, who knows what the client sends next.
    if head.method == Method::CONNECT { Persistence::Close } else { head.persistence }
}

/// Answers a head that cannot be read; the connection ends with it.
async fn refuse_head(http: &Http, session: &Session, reason: Reason, reader: &mut Reader, writer: &mut Writer) {
    let mut record = record_head(http, session);
    record.status = Some(reason.status().as_u16());
    let own = answer(&reason.into(), Audience { grpc: false, meshed: session.is_meshed(), head: false });
    let told = timeout(LINGER_MAX, writer.last_words(own.head, own.body)).await;
    if matches!(told, Ok(Ok(()))) {
        record.first_byte();
    }
    record.finish(Err(reason));
    linger(reader, writer).await;
}

/// The record of a request of which nothing is known.
fn record_head(http: &Http, session: &Session) -> HttpRecord {
    http.recorder.http(session.direction(), Protocol::Http1, session.client, session.dst)
}

/// Ends our half and reads on for a moment, so that the client gets to read the answer before it sees the end.
async fn linger(reader: &mut Reader, writer: &mut Writer) {
    let drained = async {
        writer.shutdown().await;
        while matches!(reader.skim().await, Ok(1..)) {}
    };
    // Whether it ended or the time ran out, there is nothing more to do for it.
    drop(timeout(LINGER_MAX, drained).await);
}
