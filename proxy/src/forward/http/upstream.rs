//! One request on its way to an endpoint, in either version of HTTP: sending its head, and reading what comes back.

use std::future::poll_fn;
use std::task::Poll;

use h2::RecvStream;
use h2::client::ResponseFuture;
use tokio::time::Instant;
use weft_proxy_core::classify::Class;
use weft_proxy_core::h1::{AnswerTo, BodyDecoder, Persistence, RequestHead};
use weft_proxy_core::retry::Outcome;
use weft_tls::{AnchorId, StreamEnd};

use super::body::{Sink, Source};
use super::message::Response;
use crate::balance::Picked;
use crate::connect::Dialer;
use crate::connect::h2::Lease;
use crate::connect::pool::{H2_PER_ENDPOINT_MAX, Pool, ShareError};
use crate::error::{Blame, Reason};
use crate::h1::{Connection, ReadError, Reader};

/// Informational answers to one request: more is an attack, or a server gone wrong (guess; real ones send one or two).
pub(crate) const INFORMATIONAL_MAX: u32 = 32;
/// Shared connections that are tried for one request: those that one endpoint may have, and a new one.
const SHARED_TRIED_MAX: usize = H2_PER_ENDPOINT_MAX + 1;

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
            return Self::unprocessed(Reason::UpstreamReset);
        }
        Self::reset()
    }

    /// Whoever asked is not there any more, or asked for nonsense: no further attempt, nobody's fault upstream.
    pub(crate) fn by_client(reason: Reason) -> Self {
        Self { outcome: Outcome::Reset, reason }
    }

    /// Whether it is the client's doing.
    pub(crate) fn is_clients(self) -> bool {
        self.reason.blame() == Blame::Client
    }

    /// Whether it is the endpoint's doing, and not ours or the client's.
    pub(crate) fn is_upstreams(self) -> bool {
        self.reason.blame() == Blame::Upstream
    }

    /// Whether it was an open connection that was of no use any more: a new one to the very same server may be.
    pub(crate) fn is_stale(self) -> bool {
        match self.outcome {
            Outcome::ReusedClosed => true,
            Outcome::Unprocessed => self.reason == Reason::UpstreamReset,
            Outcome::Grpc(_) | Outcome::Reset | Outcome::Status(_) | Outcome::TimedOut => false,
        }
    }

    /// What it says about the endpoint.
    pub(crate) fn class(self) -> Class {
        match self.outcome {
            Outcome::Grpc(code) => Class::of_grpc(code),
            Outcome::Status(status) => Class::of_http(status),
            Outcome::Reset | Outcome::ReusedClosed | Outcome::TimedOut | Outcome::Unprocessed => Class::Failure,
        }
    }
}

/// A request that was sent, its body still to come.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Where the body goes.
    pub(crate) sink: Sink,
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

/// What a request is sent by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) dialer: &'a Dialer,
    /// Whether an open HTTP/1 connection may be used; not after one turned out to be closed.
    pub(crate) reuse: bool,
}

/// What of a request goes up first.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "lives for one call, which takes it apart")]
pub(crate) enum Head<'a> {
    /// With the connection that its body will follow on.
    Http1(&'a RequestHead),
    /// On a shared connection; `is_end`: it is all.
    Http2 { head: http::Request<()>, is_end: bool },
}

impl Sender<'_> {
    /// Opens a connection or takes one from the pool, and sends the head.
    ///
    /// **Cancel:** gives the attempt up.
    ///
    /// # Errors
    /// Nothing of the request was processed.
    pub(crate) async fn send(&self, head: Head<'_>, picked: &mut Picked) -> Result<Sent, Failed> {
        match head {
            Head::Http1(head) => self.http1(head, picked).await,
            Head::Http2 { head, is_end } => self.http2(head, is_end, picked).await,
        }
    }

    async fn http1(&self, head: &RequestHead, picked: &mut Picked) -> Result<Sent, Failed> {
        let tunnel = head.upgrade.is_some() || head.method == http::Method::CONNECT;
        // A refusal or a tunnel ends the connection: no reason to spend a pooled one.
        let connected = if self.reuse && !head.expect_continue && !tunnel {
            self.pool.http1(picked, self.dialer).await
        } else {
            self.pool.fresh_http1(picked, self.dialer).await.map(|connection| (connection, false))
        };
        let (connection, reused) = connected.map_err(|error| connect_failed(&error.into()))?;
        picked.sent(Instant::now());
        let anchor = connection.anchor();
        let Connection { reader, mut writer, .. } = connection;
        let encoder = writer.request(head, Persistence::KeepAlive);
        let sink = Sink::Http1 { writer, encoder };
        Ok(Sent { sink, answer: Answer::Http1 { reader, reused }, _lease: None, anchor })
    }

    async fn http2(&self, head: http::Request<()>, is_end: bool, picked: &mut Picked) -> Result<Sent, Failed> {
        // A shared connection may turn out to be closed, or to have been told to take no more. Nothing was sent then,
        // and the next one, in the end a new one, is as good.
        for _ in 0..SHARED_TRIED_MAX {
            let lease = self.pool.http2(picked, self.dialer).await.map_err(|error| connect_failed(&error))?;
            let Ok(mut stream) = lease.ready().await else {
                lease.retire();
                continue;
            };
            picked.sent(Instant::now());
            return match stream.send_request(head, is_end) {
                Ok((answer, sink)) => {
                    let sink = Sink::http2_request(sink, is_end);
                    Ok(Sent { sink, answer: Answer::Http2(answer), _lease: Some(lease), anchor: None })
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a request could not be begun");
                    Err(Failed::unprocessed(Reason::UpstreamReset))
                }
            };
        }
        Err(Failed::unprocessed(Reason::UpstreamReset))
    }
}

fn connect_failed(error: &ShareError) -> Failed {
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
                Ok(head) if head.is_informational() => {
                    // Whatever comes now, the server had begun to answer.
                    *reused = false;
                    Ok(Heard::Informational(Response::Http1(Box::new(head))))
                }
                Ok(head) => Ok(Heard::Final(Response::Http1(Box::new(head)), None)),
                Err(error) if *reused && !reader.has_some() && is_closed(&error) => {
                    Err(Failed { outcome: Outcome::ReusedClosed, reason: Reason::UpstreamReset })
                }
                // In TLS 1.3 a client learns only here that its certificate was refused.
                Err(ReadError::Io(error)) if StreamEnd::of(&error).is_certificate_refused() => {
                    Err(Failed::unprocessed(Reason::IdentityMismatch))
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

/// Whether a connection was closed by somebody who may not have seen what was just sent on it. A TLS stream that is cut off
/// belongs to a peer that died, and that may have been at work.
fn is_closed(error: &ReadError) -> bool {
    match error {
        ReadError::Ended => true,
        ReadError::Head(_) => false,
        ReadError::Io(error) => StreamEnd::of(error) == StreamEnd::Reset,
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
