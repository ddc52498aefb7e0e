//! One request on its way to an endpoint, in either version of HTTP: sending its head, and reading what comes back.

use std::future::poll_fn;
use std::task::Poll;

use h2::RecvStream;
use h2::client::ResponseFuture;
use weft_proxy_core::h1::{AnswerTo, BodyDecoder, Persistence};
use weft_proxy_core::retry::Outcome;
use weft_tls::AnchorId;

use super::body::{Sink, Source};
use super::message::{Request, Response};
use crate::balance::Picked;
use crate::connect::h2::Lease;
use crate::connect::pool::{Pool, ShareError};
use crate::connect::{ConnectError, Dialer};
use crate::error::Reason;
use crate::h1::{Connection, ReadError, Reader};

/// Informational answers to one request: more is an attack, or a server gone wrong (guess; real ones send one or two).
pub(crate) const INFORMATIONAL_MAX: u32 = 32;

/// An attempt that failed before its answer reached the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// What it means for another attempt.
    pub(crate) outcome: Outcome,
    /// What the client is told if there is none.
    pub(crate) reason: Reason,
}

impl Failed {
    pub(crate) fn unprocessed(reason: Reason) -> Self {
        Self { outcome: Outcome::Unprocessed, reason }
    }

    pub(crate) fn reset() -> Self {
        Self { outcome: Outcome::Reset, reason: Reason::UpstreamReset }
    }

    /// What an HTTP/2 error says about our stream: refused, and above the last id of a GOAWAY, mean "not processed"
    /// (RFC 9113 §8.7), but only when the peer says so.
    pub(crate) fn from_h2(error: &h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        if error.is_remote() && (refused || error.is_go_away()) {
            return Self::unprocessed(Reason::ConnectRefused);
        }
        Self::reset()
    }
}

/// A request that was sent, its body still to come.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Where the body goes. `None`: the head was all.
    pub(crate) sink: Option<Sink>,
    /// Where the answer comes from.
    pub(crate) answer: Answer,
    /// Our place on a shared connection.
    pub(crate) _lease: Option<Lease>,
    /// The trust anchor behind an HTTP/1 connection.
    pub(crate) anchor: Option<AnchorId>,
}

/// Where an answer comes from.
#[derive(Debug)]
pub(crate) enum Answer {
    /// An HTTP/1 connection; `reused` if it had carried a request before.
    Http1 {
        /// What it is read by.
        reader: Reader,
        /// Whether it had carried a request before this one.
        reused: bool,
    },
    /// An HTTP/2 stream.
    Http2(ResponseFuture),
}

/// A head that came back.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The answer; with the stream of its body for HTTP/2.
    Final(Response, Option<RecvStream>),
    /// Something before the answer.
    Informational(Response),
}

/// Opens a connection or takes one from the pool, and sends the head.
///
/// **Cancel:** gives the attempt up.
///
/// # Errors
/// Nothing of the request was processed.
pub(crate) async fn send(
    request: &Request,
    body_ended: bool,
    picked: &mut Picked,
    pool: &Pool,
    dialer: &Dialer,
) -> Result<Sent, Failed> {
    match request {
        Request::Http1(head) => {
            let connected = if head.expect_continue || request.wants_tunnel() {
                // A refusal or a tunnel ends the connection: no reason to spend a pooled one.
                pool.fresh_http1(picked, dialer).await.map(|connection| (connection, false))
            } else {
                pool.http1(picked, dialer).await
            };
            let (connection, reused) = connected.map_err(|error| connect_failed(&error))?;
            picked.sent(tokio::time::Instant::now());
            let anchor = connection.anchor();
            let Connection { reader, mut writer, .. } = connection;
            let encoder = writer.request(head, Persistence::KeepAlive);
            let sink = Some(Sink::Http1 { writer, encoder });
            Ok(Sent { sink, answer: Answer::Http1 { reader, reused }, _lease: None, anchor })
        }
        Request::Http2(parts) => {
            let lease = pool.http2(picked, dialer).await.map_err(|error| match error {
                ShareError::Connect(error) => connect_failed(&error),
                ShareError::Preface(_) => Failed::unprocessed(Reason::ConnectRefused),
            })?;
            let gone = |lease: &Lease| {
                lease.retire();
                // The stream was never opened.
                Failed::unprocessed(Reason::ConnectRefused)
            };
            let Ok(mut stream) = lease.ready().await else { return Err(gone(&lease)) };
            picked.sent(tokio::time::Instant::now());
            let head = http::Request::from_parts((**parts).clone(), ());
            let Ok((answer, sink)) = stream.send_request(head, body_ended) else { return Err(gone(&lease)) };
            let sink = (!body_ended).then_some(Sink::Http2(sink));
            Ok(Sent { sink, answer: Answer::Http2(answer), _lease: Some(lease), anchor: None })
        }
    }
}

fn connect_failed(error: &ConnectError) -> Failed {
    tracing::debug!(error = error as &dyn std::error::Error, "no connection to an endpoint");
    Failed::unprocessed(error.reason())
}

impl Answer {
    /// The next head. Informational ones come first.
    ///
    /// **Cancel:** loses nothing.
    ///
    /// # Errors
    /// What the failure means for another attempt.
    pub(crate) async fn head(&mut self, to: &AnswerTo<'_>) -> Result<Heard, Failed> {
        match self {
            Self::Http1 { reader, reused } => match reader.response(to).await {
                Ok(head) if head.is_informational() => Ok(Heard::Informational(Response::Http1(Box::new(head)))),
                Ok(head) => Ok(Heard::Final(Response::Http1(Box::new(head)), None)),
                Err(ReadError::Ended | ReadError::Io(_)) if *reused && !reader.has_some() => {
                    Err(Failed { outcome: Outcome::ReusedClosed, reason: Reason::UpstreamReset })
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no answer from an endpoint");
                    Err(Failed::reset())
                }
            },
            Self::Http2(_) => self.http2_head().await,
        }
    }

    async fn http2_head(&mut self) -> Result<Heard, Failed> {
        let Self::Http2(response) = self else { return Err(Failed::reset()) };
        poll_fn(|cx| {
            if let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
                let parts = Box::new(informational.into_parts().0);
                return Poll::Ready(Ok(Heard::Informational(Response::Http2(parts))));
            }
            std::pin::Pin::new(&mut *response).poll(cx).map(|head| match head {
                Ok(head) => {
                    let (parts, stream) = head.into_parts();
                    Ok(Heard::Final(Response::Http2(Box::new(parts)), Some(stream)))
                }
                Err(error) => Err(Failed::from_h2(&error)),
            })
        })
        .await
    }
}

impl Answer {
    /// The body behind a final head.
    pub(crate) fn into_source(self, head: &Response, stream: Option<RecvStream>) -> Option<Source> {
        match (self, head) {
            (Self::Http1 { reader, .. }, Response::Http1(head)) => {
                Some(Source::Http1 { reader, decoder: BodyDecoder::new(head.body) })
            }
            (Self::Http2(_), Response::Http2(_)) => stream.map(Source::http2),
            (Self::Http1 { .. }, Response::Http2(_)) | (Self::Http2(_), Response::Http1(_)) => None,
        }
    }
}
