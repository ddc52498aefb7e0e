//! The story of one request: route, admit, balance, connect, forward — again on another endpoint where that is safe or
//! asked for — and record.

use std::cell::Cell;
use std::time::Duration;

use http::Method;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep, timeout};
use weft_model::EndpointAddr;
use weft_proxy_core::classify::Class;
use weft_proxy_core::path::normalize;
use weft_proxy_core::retry::{self, Decision, Outcome, Replay};

use super::answer::{Audience, answer, is_grpc};
use super::attempt::{Attempt, Relayed, Then};
use super::body::{Body, Replayable, Source};
use super::headers::{introduce, strip_weft};
use super::message::Request;
use super::responder::Responder;
use super::upstream::{Failed, send};
use super::{Gate, Http, Session};
use crate::admit::{self, Admitted, Asked, Decided, Refusal};
use crate::balance::{Choice, Picked, Via, balance};
use crate::error::Reason;
use crate::h1::{Connection, Reader, Writer};
use crate::record::{HttpRecord, Mtls, Protocol, Verdict};
use crate::route;

/// A request with its body and the way back.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) request: Request,
    pub(super) source: Source,
    pub(super) responder: Responder,
}

/// What is left of an HTTP/1 connection after an exchange.
#[derive(Debug)]
pub(super) struct After {
    /// What reads from the client.
    pub(super) reader: Option<Reader>,
    /// What writes to the client.
    pub(super) writer: Option<Writer>,
    /// What comes next.
    pub(super) then: Then,
    /// The other end of a tunnel.
    pub(super) tunnel: Option<Connection>,
}

impl Http {
    /// Answers one request. Never fails: what goes wrong is answered, recorded, or ends the connection.
    ///
    /// **Cancel:** the client is cut off, and so is the upstream; the record says `client-gone`.
    pub(super) async fn exchange(&self, session: &Session, incoming: Incoming) -> After {
        let Incoming { mut request, source, mut responder } = incoming;
        let mut record = self.begin_record(session, &request);
        let audience = Audience { grpc: is_grpc(request.headers()), meshed: session.is_meshed() };
        let mut body = Body::replayed(source);
        let relayed = self.relay(session, &mut request, &mut body, &mut responder, &mut record).await;
        record.request_bytes = body.bytes();
        let whole = body.is_end();
        let reader = match body.into_source() {
            Source::Http1 { reader, .. } => Some(reader),
            Source::Http2 { .. } => None,
        };
        match relayed {
            Ok(Relayed { upstream, client, then, broken }) => {
                record.finish(broken.map_or(Ok(()), Err));
                After { reader, writer: client, then, tunnel: upstream.filter(|_| then == Then::Tunnel) }
            }
            Err(refusal) => {
                let (writer, then) = refuse(&refusal, audience, whole, &mut responder, &mut record).await;
                record.finish(Err(refusal.reason));
                After { reader, writer, then, tunnel: None }
            }
        }
    }

    fn begin_record(&self, session: &Session, request: &Request) -> HttpRecord {
        let protocol = match request {
            Request::Http1(_) => Protocol::Http1,
            Request::Http2(_) => Protocol::Http2,
        };
        let mut record = self.recorder.http(session.direction(), protocol, session.client, session.dst);
        record.request(request.method(), request.uri(), request.headers());
        if let Gate::Inbound { peer: Some(peer) } = &session.gate {
            record.traffic.mtls = Mtls::Yes;
            record.traffic.source = self.discovery.peer_workload(session.client.ip(), peer);
            record.traffic.peer = Some(peer.clone());
        }
        record
    }

    /// Everything up to the end of the answer. An `Err` may come after the answer has begun; then it was cut.
    async fn relay(
        &self,
        session: &Session,
        request: &mut Request,
        body: &mut Body,
        responder: &mut Responder,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Refusal> {
        let Some(_permit) = self.requests.try_acquire() else { return Err(Reason::Overloaded.into()) };
        request.check_authority()?;
        strip_weft(request.headers_mut());
        let admitted = self.admit(session, request, record)?;
        record.traffic.route = admitted.routed().route().cloned();
        prepare(session, request, &admitted, record)?;
        if session.drain.is_draining() {
            responder.close_after();
        }
        let attempts = self.attempts(session, request, body, responder, &admitted, record);
        match admitted.routed().timeouts().request {
            Some(limit) => timeout(limit, attempts).await.unwrap_or(Err(Reason::RequestTimeout.into())),
            None => attempts.await,
        }
    }

    /// Chapters 3 and 4.
    fn admit(&self, session: &Session, request: &mut Request, record: &mut HttpRecord) -> Result<Admitted, Refusal> {
        let roll = fastrand::u64(..);
        match &session.gate {
            Gate::Outbound => {
                let routed = route::http(&session.target, &request.view(), roll)?;
                record.traffic.service = routed.destination().cloned();
                // Without the mesh's word on egress nothing leaves it.
                let mesh = self.discovery.mesh().ok_or(Reason::DiscoveryUnavailable)?;
                admit::outbound(&session.target, routed, mesh.egress())
            }
            Gate::Inbound { peer } => {
                let inbound = self.inbound().ok_or(Reason::DiscoveryUnavailable)?;
                let port = session.dst.port();
                record.traffic.service = inbound.policies.service(port).cloned();
                if inbound.policies.judges_paths(port) {
                    judge_path(request)?;
                }
                let routed = route::http(&session.target, &request.view(), roll)?;
                let path = normalize(request.uri().path()).ok();
                let asked = Asked { port, peer: peer.as_ref(), request: Some((request.method(), path.as_ref())) };
                admit::inbound(&inbound.policies, asked, routed, |policy, decided| {
                    record.judged(policy, verdict(decided));
                })
            }
        }
    }

    /// Chapters 5 and 6, as often as is safe or asked for.
    async fn attempts(
        &self,
        session: &Session,
        request: &Request,
        body: &mut Body,
        responder: &mut Responder,
        admitted: &Admitted,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Refusal> {
        let retries = Retries::new(admitted, request.method(), body);
        let mut tried = SmallVec::<[u64; 4]>::new();
        loop {
            let choice = Choice { client: session.client, tried: &tried, own: &self.own };
            let mut picked = balance(admitted, choice).await?;
            tried.extend(picked.endpoint().map(|endpoint| endpoint.id()));
            describe(record, &picked);
            let attempt = Box::pin(self.attempt(session, request, body, responder, admitted, &retries, &mut picked, record));
            let ended = match admitted.routed().timeouts().backend_request {
                Some(limit) => timeout(limit, attempt).await.unwrap_or(Err(timed_out())),
                None => attempt.await,
            };
            let failed = match ended {
                Ok(relayed) => return Ok(relayed),
                Err(failed) => failed,
            };
            if failed.reason != Reason::ClientGone {
                picked.report(Class::Failure, Instant::now());
            }
            drop(picked);
            let gone = responder.has_begun() || failed.reason == Reason::ClientGone;
            if gone || !retries.again(failed.outcome) || !body.rewind() {
                return Err(reason_for(session, failed).into());
            }
            record.retries += 1;
            sleep(retries.pause()).await;
        }
    }

    /// One attempt; gives a usable HTTP/1 connection back to the pool.
    #[expect(clippy::too_many_arguments, reason = "what one attempt reads, changes and reports to")]
    async fn attempt(
        &self,
        session: &Session,
        request: &Request,
        body: &mut Body,
        responder: &mut Responder,
        admitted: &Admitted,
        retries: &Retries<'_>,
        picked: &mut Picked,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Failed> {
        let sent = send(request, body.is_end(), picked, &self.pool, &self.dialer).await?;
        let attempt = Attempt {
            admitted,
            from_proxy: matches!(picked.via(), Via::MeshTls(_) | Via::Own),
            meshed_client: session.is_meshed(),
            answer_to: request.answer_to(),
            retry: &|outcome| retries.by_policy(outcome),
        };
        let mut relayed = attempt.run(sent, body, responder, picked, record).await?;
        if relayed.then != Then::Tunnel
            && let Some(connection) = relayed.upstream.take()
        {
            self.pool.put(picked, connection);
        }
        Ok(relayed)
    }
}

/// Where a request's path is judged, it must have one reading, and that one is forwarded (semantics 40).
fn judge_path(request: &mut Request) -> Result<(), Reason> {
    let path = normalize(request.uri().path()).or(Err(Reason::PathAmbiguous))?;
    if path.is_unchanged() {
        return Ok(());
    }
    let path = path.as_str().to_owned();
    request.set_path(&path)
}

/// Makes the head what the next hop is to see.
fn prepare(
    session: &Session,
    request: &mut Request,
    admitted: &Admitted,
    record: &HttpRecord,
) -> Result<(), Refusal> {
    let headers = request.headers_mut();
    if let Gate::Inbound { peer } = &session.gate {
        introduce(headers, session.client, peer.as_ref());
    }
    record.inject(headers);
    for filters in admitted.routed().filters() {
        filters.on_request(headers).or(Err(Reason::HeadersTooLarge))?;
    }
    Ok(())
}

/// Writes down where an attempt goes.
fn describe(record: &mut HttpRecord, picked: &Picked) {
    record.endpoint = Some(EndpointAddr(picked.addr()));
    if let Some(endpoint) = picked.endpoint() {
        let spec = endpoint.spec();
        record.traffic.destination.clone_from(&spec.workload);
        record.traffic.peer.clone_from(&spec.identity);
        record.traffic.mtls = if spec.identity.is_some() { Mtls::Yes } else { Mtls::No };
    }
}

/// Answers a request that is refused. Also says what becomes of an HTTP/1 connection.
async fn refuse(
    refusal: &Refusal,
    audience: Audience,
    body_was_read: bool,
    responder: &mut Responder,
    record: &mut HttpRecord,
) -> (Option<Writer>, Then) {
    if responder.has_begun() || refusal.reason == Reason::ClientGone {
        return (None, Then::Reset);
    }
    // HTTP/2 has a word for "not processed" that every client understands (semantics 26).
    if refusal.reason == Reason::AppConnect && audience.meshed && responder.refuse_stream() {
        return (None, Then::Close);
    }
    if !body_was_read {
        responder.close_after();
    }
    let (head, text) = answer(refusal, audience);
    record.status = Some(head.status().as_u16());
    record.grpc_status = audience.grpc.then(|| u16::from(refusal.reason.grpc_code()));
    record.response_bytes = text.len() as u64;
    record.first_byte();
    match responder.own(head, text).await {
        Ok(writer) => (writer, if body_was_read { Then::KeepAlive } else { Then::Close }),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "an answer of ours did not reach the client");
            (None, Then::Reset)
        }
    }
}

/// What the client is told when there is no further attempt. Next to the application every failure to connect is the
/// application's.
fn reason_for(session: &Session, failed: Failed) -> Reason {
    let connecting = matches!(failed.reason, Reason::ConnectRefused | Reason::ConnectTimeout);
    match session.gate {
        Gate::Inbound { .. } if connecting => Reason::AppConnect,
        Gate::Inbound { .. } | Gate::Outbound => failed.reason,
    }
}

fn timed_out() -> Failed {
    Failed { outcome: Outcome::TimedOut, reason: Reason::BackendTimeout }
}

fn verdict(decided: Decided) -> Verdict {
    match decided {
        Decided::Allow => Verdict::Allow,
        Decided::Audit => Verdict::Audit,
        Decided::Deny => Verdict::Deny,
    }
}

/// Keeps account of one request's further attempts.
struct Retries<'a> {
    admitted: &'a Admitted,
    method: &'a Method,
    made: Cell<u32>,
    /// The decision that was made for an answer, so that it is paid for once.
    decided: Cell<Option<Duration>>,
    pause: Cell<Duration>,
    replayable: Replayable,
}

impl<'a> Retries<'a> {
    fn new(admitted: &'a Admitted, method: &'a Method, body: &Body) -> Self {
        if let Some(service) = &admitted.routed().service {
            service.budget.deposit(Instant::now().into_std());
        }
        Self {
            admitted,
            method,
            made: Cell::new(0),
            decided: Cell::new(None),
            pause: Cell::new(Duration::ZERO),
            replayable: body.replayable(),
        }
    }

    /// Whether an answer is to be thrown away for another attempt; pays for it.
    fn by_policy(&self, outcome: Outcome) -> bool {
        // Only a policy speaks of answers, and most requests have none.
        if self.admitted.routed().retry().is_none() {
            return false;
        }
        let after = self.decide(outcome);
        self.decided.set(after);
        after.is_some()
    }

    /// Whether a failed attempt is followed by another; pays for it, unless [`Retries::by_policy`] did.
    fn again(&self, outcome: Outcome) -> bool {
        let Some(after) = self.decided.take().or_else(|| self.decide(outcome)) else { return false };
        self.made.set(self.made.get() + 1);
        self.pause.set(after);
        true
    }

    fn pause(&self) -> Duration {
        self.pause.get()
    }

    fn decide(&self, outcome: Outcome) -> Option<Duration> {
        let routed = self.admitted.routed();
        // Without a service there is no other endpoint and no budget; one stale connection is worth a second try.
        if routed.service.is_none() && (outcome != Outcome::ReusedClosed || self.made.get() > 0) {
            return None;
        }
        let whole = self.replayable.get();
        let attempt = retry::Attempt {
            outcome,
            method: self.method,
            policy: routed.retry(),
            retries: self.made.get(),
            replay: if whole { Replay::Whole } else { Replay::Lost },
        };
        let Decision::Retry { after } = retry::may_retry(&attempt, fastrand::u64(..)) else { return None };
        let now = Instant::now().into_std();
        let paid = |service: &crate::discovery::Service| service.budget.withdraw(&routed.retry_budget, now);
        routed.service.as_deref().is_none_or(paid).then_some(after)
    }
}
