//! One attempt at a request: its body goes up while the answer comes down. It ends in one of three ways: the answer
//! was passed on, the attempt failed while nothing had reached the client, or the answer broke off in the middle.

use std::cell::Cell;
use std::pin::{Pin, pin};

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
        let uploaded = Cell::new(false);
        let (ended, relay) = {
            let mut upload = pin!(upload(body, sink.as_mut(), &uploaded));
            let (mut head, stream) = self.wait(&mut answer, upload.as_mut(), responder).await?;
            picked.first_byte(Class::of(head.status(), grpc_status(head.headers())), Instant::now());
            self.judge(&mut head)?;
            record.status = Some(head.status().as_u16());
            record.grpc_status = grpc_status(head.headers());
            let is_tunnel = head.is_tunnel();
            let kept = keeps(&head);
            let source = answer.into_source(&head, stream).ok_or_else(Failed::reset)?;
            let down = Body::once(source);
            let Ok((client, persistence)) = responder.begin(head, down.is_end()) else { return Err(client_gone()) };
            record.first_byte();
            let mut relay = Relay { down, client, persistence, is_tunnel, kept };
            let ended = relay.run(upload.as_mut(), record).await;
            (ended, relay)
        };
        report(picked, record, ended);
        Ok(relay.finish(ended, sink, uploaded.get(), anchor))
    }

    /// Waits for the final head; informational ones are passed on.
    async fn wait(
        &self,
        answer: &mut Answer,
        mut upload: Pin<&mut impl Future<Output = Transfer>>,
        responder: &mut Responder,
    ) -> Result<(Response, Option<h2::RecvStream>), Failed> {
        let mut uploading = true;
        let mut informational = 0;
        loop {
            // An answer beats a failing upload: a server may answer and close without reading the rest. What the other
            // arms lose when they are dropped: nothing, all keep their place.
            let heard = tokio::select! {
                biased;
                heard = answer.head(&self.answer_to) => heard?,
                failed = upload.as_mut(), if uploading => match failed {
                    Transfer::Read(_) => return Err(client_gone()),
                    Transfer::Write(_) => {
                        uploading = false;
                        continue;
                    }
                },
                () = responder.given_up() => return Err(client_gone()),
            };
            match heard {
                Heard::Final(head, stream) => return Ok((head, stream)),
                Heard::Informational(mut head) => {
                    informational += 1;
                    if informational > INFORMATIONAL_MAX {
                        return Err(Failed::reset());
                    }
                    self.clean(head.headers_mut());
                    responder.informational(head).await.map_err(|_gone| client_gone())?;
                }
            }
        }
    }

    /// Decides whether an answer is passed on, and prepares it.
    fn judge(&self, head: &mut Response) -> Result<(), Failed> {
        if self.from_proxy && says_app_connect(head.status(), head.headers()) {
            return Err(Failed::unprocessed(Reason::AppConnect));
        }
        let status = Outcome::Status(head.status());
        let grpc = grpc_status(head.headers()).map(Outcome::Grpc);
        if (self.retry)(status) || grpc.is_some_and(self.retry) {
            return Err(Failed { outcome: status, reason: Reason::UpstreamReset });
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
    /// Complete.
    Complete,
    /// The client went away.
    ClientGone,
    /// The upstream broke off.
    UpstreamBroke,
}

impl Relay {
    async fn run(&mut self, mut upload: Pin<&mut impl Future<Output = Transfer>>, record: &mut HttpRecord) -> Ended {
        let Some(client) = &mut self.client else { return Ended::Complete };
        let mut grpc = None;
        let ended = {
            let mut download = pin!(transfer(&mut self.down, client, |trailers| {
                strip_weft(trailers);
                grpc = grpc_status(trailers);
            }));
            let mut uploading = true;
            loop {
                // Nothing is lost: a dropped upload means that its side is cut anyway.
                tokio::select! {
                    biased;
                    done = download.as_mut() => break match done {
                        Ok(()) => Ended::Complete,
                        Err(Transfer::Read(_)) => Ended::UpstreamBroke,
                        Err(Transfer::Write(_)) => Ended::ClientGone,
                    },
                    failed = upload.as_mut(), if uploading => match failed {
                        Transfer::Read(_) => break Ended::ClientGone,
                        // The server does not want the rest; its answer may still be complete.
                        Transfer::Write(_) => uploading = false,
                    },
                }
            }
        };
        record.response_bytes = self.down.bytes();
        record.grpc_status = grpc.or(record.grpc_status);
        if ended == Ended::UpstreamBroke {
            client.abort(H2Reason::INTERNAL_ERROR);
        }
        ended
    }

    /// Sorts out what of the two connections can be used again.
    fn finish(self, ended: Ended, sink: Option<Sink>, uploaded: bool, anchor: Option<weft_tls::AnchorId>) -> Relayed {
        let complete = ended == Ended::Complete;
        let client = match self.client {
            Some(Sink::Http1 { writer, .. }) => Some(writer),
            Some(Sink::Http2(_)) | None => None,
        };
        let broken = match ended {
            Ended::Complete => None,
            Ended::ClientGone => Some(Reason::ClientGone),
            Ended::UpstreamBroke => Some(Reason::UpstreamReset),
        };
        let connection = match (self.down.into_source(), sink) {
            (Source::Http1 { reader, .. }, Some(Sink::Http1 { writer, .. })) => {
                Some(Connection::reunite(reader, writer, anchor))
            }
            _ => None,
        };
        let then = match (complete, self.persistence) {
            (false, _) => Then::Reset,
            (true, _) if self.is_tunnel => Then::Tunnel,
            (true, Persistence::KeepAlive) if uploaded => Then::KeepAlive,
            (true, Persistence::KeepAlive | Persistence::Close) => Then::Close,
        };
        let reusable = complete && (self.is_tunnel || (uploaded && self.kept));
        Relayed { upstream: connection.filter(|_| reusable), client, then, broken }
    }
}

/// Passes the request's body up, then watches the client. Resolves only when one side fails.
async fn upload(body: &mut Body, sink: Option<&mut Sink>, uploaded: &Cell<bool>) -> Transfer {
    if let Some(sink) = sink
        && let Err(failed) = transfer(body, sink, strip_weft).await
    {
        if let Transfer::Read(_) = &failed {
            sink.abort(H2Reason::CANCEL);
        }
        return failed;
    }
    uploaded.set(true);
    Transfer::Read(body.broken().await)
}

/// Whether the server will take another request on an HTTP/1 connection.
fn keeps(head: &Response) -> bool {
    matches!(head, Response::Http1(head) if head.persistence == Persistence::KeepAlive)
}

/// Tells the balancer how the endpoint did.
fn report(picked: &mut Picked, record: &HttpRecord, ended: Ended) {
    let status = record.status.and_then(|status| StatusCode::from_u16(status).ok());
    let class = match ended {
        Ended::UpstreamBroke => Class::Failure,
        Ended::ClientGone | Ended::Complete => {
            status.map_or(Class::Success, |status| Class::of(status, record.grpc_status))
        }
    };
    picked.report(class, Instant::now());
}

/// Whoever asked is not there any more: no answer, no further attempt, nobody's fault upstream.
fn client_gone() -> Failed {
    Failed { outcome: Outcome::Reset, reason: Reason::ClientGone }
}
