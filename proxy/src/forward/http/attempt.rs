//! One attempt at a request: its body goes up while the answer comes down. It ends in one of three ways: the answer
//! was passed on, the attempt failed while nothing had reached the client, or the answer broke off in the middle.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures::FutureExt;
use h2::Reason as H2Reason;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use weft_proxy_core::classify::Class;
use weft_proxy_core::h1::{AnswerTo, Persistence};
use weft_proxy_core::retry::Outcome;

use super::answer::{grpc_status, says_app_connect};
use super::body::{Body, Sink, Source, Transfer, transfer};
use super::headers::strip_weft;
use super::message::Response;
use super::responder::Responder;
use super::upstream::{Answer, Failed, Heard, INFORMATIONAL_MAX, Sent};
use crate::admit::Admitted;
use crate::balance::Picked;
use crate::error::Reason;
use crate::h1::{Connection, Writer};
use crate::record::HttpRecord;

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    /// What the answer may be changed by.
    pub(super) admitted: &'a Admitted,
    /// Whether `weft-*` fields of the answer are a verified peer proxy's.
    pub(super) from_proxy: bool,
    /// Whether the client may be told `weft-*` fields.
    pub(super) meshed_client: bool,
    /// How the answer is read.
    pub(super) answer_to: AnswerTo<'a>,
    /// Whether the client waits for 100 before it sends the body.
    pub(super) expects_continue: bool,
    /// Asked when an answer would be worth another attempt; `true` means that one will be made.
    pub(super) retry: &'a dyn Fn(Outcome) -> bool,
}

/// How an attempt ended after its answer had begun.
#[derive(Debug)]
pub(super) struct Relayed {
    /// The upstream's HTTP/1 connection, if it can be used again.
    pub(super) upstream: Option<Connection>,
    /// The client's HTTP/1 writer.
    pub(super) client: Option<Writer>,
    /// What becomes of the client's HTTP/1 connection.
    pub(super) then: Then,
    /// Why it was cut, where it was.
    pub(super) broken: Option<Reason>,
    /// What it says about the endpoint.
    pub(super) class: Class,
}

/// What comes after an exchange on an HTTP/1 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It ends in an orderly way.
    Close,
    /// The next request.
    KeepAlive,
    /// It is cut, so that the client does not take what it has for the whole.
    Reset,
    /// Bytes, both ways.
    Tunnel,
}

impl Attempt<'_> {
    /// Passes the body up and the answer down.
    ///
    /// **Cancel:** both sides are cut; whether the client had an answer can be asked of `responder`.
    ///
    /// # Errors
    /// Nothing of a final answer has reached the client.
    pub(super) async fn run(
        &self,
        sent: Sent,
        body: &mut Body,
        responder: &mut Responder,
        picked: &mut Picked,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Failed> {
        let Sent { mut sink, mut answer, _lease, anchor } = sent;
        let way_up = Cell::new(WayUp::Open);
        let (ended, relay) = {
            let mut upload = pin!(upload(body, &mut sink, &way_up).fuse());
            let heard = self.wait(&mut answer, upload.as_mut(), responder).await?;
            let Answered { mut head, stream, continued } = heard;
            picked.first_byte(Class::of(head.status(), grpc_status(head.headers())), Instant::now());
            self.judge(&mut head)?;
            if let Some(detour) = self.admitted.detour() {
                detour.turn(head.status(), head.headers_mut(), picked.addr().ip());
            }
            record.status = Some(head.status().as_u16());
            record.grpc_status = grpc_status(head.headers());
            let kept = keeps(&head);
            let rest = self.rest(&head, kept, continued);
            if way_up.get() != WayUp::Complete && rest == Rest::Unwanted {
                // The connection cannot go on behind a body that nobody will read.
                responder.close_after();
            }
            let is_tunnel = head.is_tunnel();
            let source = answer.into_source(&head, stream).ok_or_else(Failed::reset)?;
            let down = Body::once(source);
            let Ok((client, persistence)) = responder.begin(head, down.is_end()) else { return Err(client_gone()) };
            record.first_byte();
            let mut relay = Relay { down, client, persistence, is_tunnel, kept };
            let ended = relay.run(upload.as_mut(), record).await;
            if rest == Rest::Wanted && ended == Ended::Complete {
                send_rest(upload.as_mut(), &way_up).await;
            }
            (ended, relay)
        };
        if let Ended::ByClient { reset: Some(reason), .. } = ended {
            sink.abort(reason);
        }
        let class = class_of(record, ended);
        Ok(relay.finish(ended, sink, way_up.get() == WayUp::Complete, anchor, class))
    }

    /// Waits for the final head; informational ones are passed on.
    async fn wait(
        &self,
        answer: &mut Answer,
        mut upload: Pin<&mut impl Future<Output = Transfer>>,
        responder: &mut Responder,
    ) -> Result<Answered, Failed> {
        let mut informational = 0;
        let mut continued = false;
        loop {
            // An answer beats a failing upload: a server may answer and close without reading the rest. What the other
            // arms lose when they are dropped: nothing, all keep their place.
            let heard = tokio::select! {
                biased;
                heard = answer.head(&self.answer_to) => heard?,
                failed = upload.as_mut() => match failed {
                    Transfer::Read(end) => return Err(Failed::by_client(end.reason())),
                    Transfer::Write(_) => continue,
                },
                () = responder.given_up() => return Err(client_gone()),
            };
            match heard {
                Heard::Final(head, stream) => return Ok(Answered { head, stream, continued }),
                Heard::Informational(mut head) => {
                    informational += 1;
                    if informational > INFORMATIONAL_MAX {
                        return Err(Failed::reset());
                    }
                    continued |= head.status() == StatusCode::CONTINUE;
                    self.clean(head.headers_mut());
                    responder.informational(head).await.map_err(|_gone| client_gone())?;
                }
            }
        }
    }

    /// Whether the server takes the rest of a request that it has answered already.
    fn rest(&self, head: &Response, kept: bool, continued: bool) -> Rest {
        match head {
            // It says so by resetting the stream, or not (RFC 9113 §8.1).
            Response::Http2(_) => Rest::Wanted,
            // A client that was not told to continue does not send its body, and may not know whether it has to.
            Response::Http1(_) if self.expects_continue && !continued => Rest::Unwanted,
            Response::Http1(_) if kept => Rest::Wanted,
            Response::Http1(_) => Rest::Unwanted,
        }
    }

    /// Decides whether an answer is passed on, and prepares it.
    fn judge(&self, head: &mut Response) -> Result<(), Failed> {
        if self.from_proxy && says_app_connect(head.status(), head.headers()) {
            return Err(Failed::unprocessed(Reason::AppConnect));
        }
        let by_status = Outcome::Status(head.status());
        let by_grpc = grpc_status(head.headers()).map(Outcome::Grpc);
        for outcome in [Some(by_status), by_grpc].into_iter().flatten() {
            if (self.retry)(outcome) {
                return Err(Failed { outcome, reason: Reason::UpstreamReset });
            }
        }
        self.clean(head.headers_mut());
        for filters in self.admitted.routed().filters() {
            filters.on_response(head.headers_mut()).or(Err(Failed::reset()))?;
        }
        Ok(())
    }

    /// Only a proxy says `weft-*`, and only to those who may know.
    fn clean(&self, headers: &mut HeaderMap) {
        if !(self.from_proxy && self.meshed_client) {
            strip_weft(headers);
        }
    }
}

/// An answer on its way down.
struct Relay {
    down: Body,
    client: Option<Sink>,
    persistence: Persistence,
    is_tunnel: bool,
    /// Whether the upstream's connection is of use after a complete exchange.
    kept: bool,
}

/// How the way down ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The client went away, or its request broke off.
    ByClient {
        /// What it is called.
        reason: Reason,
        /// What the upstream's HTTP/2 stream is to be told.
        reset: Option<H2Reason>,
    },
    /// Complete.
    Complete,
    /// The upstream broke off.
    UpstreamBroke,
}

impl Relay {
    async fn run(&mut self, mut upload: Pin<&mut impl Future<Output = Transfer>>, record: &mut HttpRecord) -> Ended {
        let Some(client) = &mut self.client else { return Ended::Complete };
        let mut grpc = None;
        let mut cut = None;
        let ended = {
            let mut download = pin!(transfer(&mut self.down, client, |trailers| {
                strip_weft(trailers);
                grpc = grpc_status(trailers);
            }));
            loop {
                // Nothing is lost: a dropped upload means that its side is cut anyway.
                tokio::select! {
                    biased;
                    done = download.as_mut() => break match done {
                        Ok(()) => Ended::Complete,
                        Err(Transfer::Read(end)) => {
                            cut = Some(end.passed_on(H2Reason::INTERNAL_ERROR));
                            Ended::UpstreamBroke
                        }
                        Err(Transfer::Write(end)) => {
                            Ended::ByClient { reason: Reason::ClientGone, reset: Some(end.passed_on(H2Reason::CANCEL)) }
                        }
                    },
                    failed = upload.as_mut() => match failed {
                        Transfer::Read(end) => break Ended::ByClient { reason: end.reason(), reset: None },
                        // The server does not want the rest; its answer may still be complete.
                        Transfer::Write(_) => {}
                    },
                }
            }
        };
        record.response_bytes = self.down.bytes();
        record.grpc_status = grpc.or(record.grpc_status);
        if let Some(reason) = cut {
            client.abort(reason);
        }
        ended
    }

    /// Sorts out what of the two connections can be used again.
    fn finish(
        self,
        ended: Ended,
        sink: Sink,
        uploaded: bool,
        anchor: Option<weft_tls::AnchorId>,
        class: Class,
    ) -> Relayed {
        let complete = ended == Ended::Complete;
        let client = match self.client {
            Some(Sink::Http1 { writer, .. }) => Some(writer),
            Some(Sink::Http2(_)) | None => None,
        };
        let broken = match ended {
            Ended::ByClient { reason, .. } => Some(reason),
            Ended::Complete => None,
            Ended::UpstreamBroke => Some(Reason::UpstreamReset),
        };
        let connection = match (self.down.into_source(), sink) {
            (Source::Http1 { reader, .. }, Sink::Http1 { writer, .. }) => {
                Some(Connection::reunite(reader, writer, anchor))
            }
            _ => None,
        };
        let then = match (complete, self.persistence) {
            (false, _) => Then::Reset,
            (true, _) if self.is_tunnel && uploaded => Then::Tunnel,
            // What is left of the body would be taken for the tunnel's bytes.
            (true, _) if self.is_tunnel => Then::Reset,
            (true, Persistence::KeepAlive) if uploaded => Then::KeepAlive,
            (true, Persistence::KeepAlive | Persistence::Close) => Then::Close,
        };
        let reusable = complete && uploaded && (self.is_tunnel || self.kept);
        Relayed { upstream: connection.filter(|_| reusable), client, then, broken, class }
    }
}

/// How far the request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayUp {
    /// All of it was passed on.
    Complete,
    /// One side failed.
    Failed,
    /// There is more to come.
    Open,
}

/// What becomes of the rest of a request whose answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Nobody reads it.
    Unwanted,
    /// It is passed on, as it would be without us.
    Wanted,
}

/// A final head.
struct Answered {
    head: Response,
    stream: Option<h2::RecvStream>,
    /// Whether 100 came before it.
    continued: bool,
}

/// Passes the request's body up, then watches the client. Resolves only when one side fails.
async fn upload(body: &mut Body, sink: &mut Sink, way_up: &Cell<WayUp>) -> Transfer {
    if !sink.is_ended()
        && let Err(failed) = transfer(body, sink, strip_weft).await
    {
        way_up.set(WayUp::Failed);
        if let Transfer::Read(end) = &failed {
            sink.abort(end.passed_on(H2Reason::CANCEL));
        }
        return failed;
    }
    way_up.set(WayUp::Complete);
    Transfer::Read(body.broken().await)
}

/// Passes on what is left of a request whose answer the client has. Whoever ends it now takes nothing from anybody.
async fn send_rest(mut upload: Pin<&mut impl Future<Output = Transfer>>, way_up: &Cell<WayUp>) {
    poll_fn(|cx| {
        if way_up.get() == WayUp::Open {
            // How it failed is of no interest any more.
            drop(upload.as_mut().poll(cx));
        }
        if way_up.get() == WayUp::Open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// Whether the server will take another request on an HTTP/1 connection.
fn keeps(head: &Response) -> bool {
    matches!(head, Response::Http1(head) if head.persistence == Persistence::KeepAlive)
}

/// What an answer that was begun says about the endpoint.
fn class_of(record: &HttpRecord, ended: Ended) -> Class {
    let status = record.status.and_then(|status| StatusCode::from_u16(status).ok());
    match ended {
        Ended::UpstreamBroke => Class::Failure,
        Ended::ByClient { .. } | Ended::Complete => {
            status.map_or(Class::Success, |status| Class::of(status, record.grpc_status))
        }
    }
}

/// Whoever asked is not there any more: no answer, no further attempt, nobody's fault upstream.
fn client_gone() -> Failed {
    Failed::by_client(Reason::ClientGone)
}
