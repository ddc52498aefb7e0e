//! The story of one request: route, admit, balance, connect, forward — again on another endpoint where that is safe or
//! asked for — and record.

use std::borrow::Cow;
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::Method;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep, timeout_at};
use weft_model::EndpointAddr;
use weft_model::route::Timeouts;
use weft_proxy_core::classify::Class;
use weft_proxy_core::h1::Persistence;
use weft_proxy_core::limit::Permit;
use weft_proxy_core::path::normalize;
use weft_proxy_core::retry::{self, Decision, Outcome, Replay, StopCause};
use weft_proxy_core::route::http::Rewrite;

use super::answer::{Audience, answer, redirect};
use super::attempt::{Attempt, Relayed, Then};
use super::body::{Body, Source};
use super::headers::{introduce, strip_weft};
use super::message::Request;
use super::replay::Replayable;
use super::responder::{Own, Responder};
use super::upstream::{Failed, Head, Sender};
use super::{Gate, Http, Session};
use crate::admit::{self, Admitted, Asked, Decided, Refusal};
use crate::balance::{Choice, Picked, Via, balance};
use crate::error::Reason;
use crate::h1::{Connection, Reader, Writer};
use crate::record::{Event, HttpRecord, Mtls, Protocol, Recorder, Verdict};
use crate::route::{self, Routed, Unrouted};

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
        let audience = Audience::of(&request, session.is_meshed());
        let mut body = Body::replayed(source);
        // Two steps and not one that awaits the other: each call that may wait is a state that is copied once more.
        let relayed = match self.let_in(session, &mut request, &mut responder, &mut record) {
            Ok(LetIn { admitted, permit: _permit }) => {
                let job = Job { session, admitted: &admitted };
                self.attempts(job, &mut request, &mut body, &mut responder, &mut record).await.map_err(Stop::from)
            }
            Err(stop) => Err(stop),
        };
        record.request_bytes = body.bytes();
        let body_was_read = body.is_read();
        let reader = reader_of(body.into_source(), request);
        match relayed {
            Ok(Relayed { upstream, client, then, broken, class: _ }) => {
                record.finish(broken.map_or(Ok(()), Err));
                After { reader, writer: client, then, tunnel: upstream.filter(|_| then == Then::Tunnel) }
            }
            Err(stop) => {
                let result = stop.result();
                // Boxed: few come here, and all would pay for its size.
                let answered = answer_stopped(session, stop, audience, body_was_read, &mut responder, &mut record);
                let (writer, then) = Box::pin(answered).await;
                record.finish(result);
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

    /// Everything before the first attempt.
    fn let_in(
        &self,
        session: &Session,
        request: &mut Request,
        responder: &mut Responder,
        record: &mut HttpRecord,
    ) -> Result<LetIn, Stop> {
        let Some(permit) = self.requests.try_acquire() else { return Err(Reason::Overloaded.into()) };
        request.check()?;
        if session.drain.is_draining() || session.farewell.is_said() {
            responder.close_after();
        }
        strip_weft(request.headers_mut());
        let admitted = self.admit(session, request, record)?;
        record.traffic.route = admitted.routed().route().cloned();
        prepare(session, request, &admitted, record)?;
        Ok(LetIn { admitted, permit })
    }

    /// Chapters 3 and 4.
    fn admit(&self, session: &Session, request: &mut Request, record: &mut HttpRecord) -> Result<Admitted, Stop> {
        match &session.gate {
            Gate::Outbound => {
                let routed = route(session, request, record)?;
                record.traffic.service = routed.destination().cloned();
                // Without the mesh's word on egress nothing leaves it.
                let mesh = self.discovery.mesh().ok_or(Reason::DiscoveryUnavailable)?;
                Ok(admit::outbound(&session.target, routed, mesh.egress())?)
            }
            Gate::Inbound { peer } => {
                let inbound = self.inbound().ok_or(Reason::DiscoveryUnavailable)?;
                let port = session.dst.port();
                record.traffic.service = inbound.policies.service(port).cloned();
                if inbound.policies.judges_paths(port) {
                    judge_path(request)?;
                }
                let routed = route(session, request, record)?;
                let path = normalize(request.uri().path()).ok();
                let detours = Some(&self.detours);
                let asked =
                    Asked { port, peer: peer.as_ref(), request: Some((request.method(), path.as_ref())), detours };
                Ok(admit::inbound(&inbound.policies, asked, routed, |policy, decided| {
                    record.judged(policy, verdict(decided));
                })?)
            }
        }
    }

    /// Chapters 5 and 6, as often as is safe or asked for. An `Err` may come after the answer has begun; then it was cut.
    async fn attempts(
        &self,
        job: Job<'_>,
        request: &mut Request,
        body: &mut Body,
        responder: &mut Responder,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Refusal> {
        let Job { session, admitted } = job;
        let retries = Retries::new(admitted, &self.recorder, request.method(), body);
        let limits = Limits::of(admitted.routed().timeouts());
        let mut tried = SmallVec::<[u64; 4]>::new();
        let mut before = None;
        loop {
            let choice = Choice { client: session.client, tried: &tried, own: &self.own };
            // That no endpoint is left says less than why the last one was of no use.
            let picked = limits.within(pin!(balance(admitted, choice))).await?;
            let mut picked = picked.map_err(|reason| before.unwrap_or(reason))?;
            tried.extend(picked.endpoint().map(|endpoint| endpoint.id()));
            describe(record, &picked);
            let relayed = {
                let attempt = pin!(self.attempt(job, request, body, responder, &retries, &mut picked, record));
                limits.attempt(attempt).await
            };
            let failed = match relayed {
                Ok(relayed) => return Ok(relayed),
                Err(failed) => failed,
            };
            if failed.is_upstreams() {
                self.report(&mut picked, failed.class());
            }
            drop(picked);
            let is_last = responder.has_begun() || failed.is_clients() || failed.reason == Reason::RequestTimeout;
            if is_last || !retries.again(failed) || !body.rewind() {
                return Err(reason_for(session, failed).into());
            }
            before = Some(reason_for(session, failed));
            record.retries += 1;
            limits.within(pin!(sleep(retries.pause()))).await?;
        }
    }

    /// One attempt; gives a usable HTTP/1 connection back to the pool.
    #[expect(clippy::too_many_arguments, reason = "what one attempt reads, changes and reports to")]
    async fn attempt(
        &self,
        job: Job<'_>,
        request: &mut Request,
        body: &mut Body,
        responder: &mut Responder,
        retries: &Retries<'_>,
        picked: &mut Picked,
        record: &mut HttpRecord,
    ) -> Result<Relayed, Failed> {
        let sender = Sender { pool: &self.pool, dialer: &self.dialer, reuse: !retries.met_stale() };
        let head = match (request.http2(retries.may_follow()), &*request) {
            (Some(head), _) => Head::Http2 { head, is_end: body.is_end() },
            (None, Request::Http1(head)) => Head::Http1(head),
            (None, Request::Http2(_)) => return Err(Failed::unprocessed(Reason::Internal)),
        };
        // Nothing is lost: a client that gave up needs no connection.
        let sent = tokio::select! {
            biased;
            sent = sender.send(head, picked) => sent?,
            () = responder.given_up() => return Err(Failed::by_client(Reason::ClientGone)),
        };
        let attempt = Attempt {
            admitted: job.admitted,
            from_proxy: matches!(picked.via(), Via::MeshTls(_) | Via::Own),
            meshed_client: job.session.is_meshed(),
            answer_to: request.answer_to(),
            expects_continue: request.expects_continue(),
            retry: &|outcome| retries.by_policy(outcome),
        };
        let mut relayed = attempt.run(sent, body, responder, picked, record).await?;
        self.report(picked, relayed.class);
        if relayed.then != Then::Tunnel
            && let Some(connection) = relayed.upstream.take()
        {
            self.pool.put(picked, connection);
        }
        Ok(relayed)
    }

    /// Tells the balancer how the endpoint did.
    fn report(&self, picked: &mut Picked, class: Class) {
        if picked.report(class, Instant::now()) {
            self.recorder.count(Event::Ejected);
        }
    }
}

/// Why a request is not sent on.
enum Stop {
    /// It is refused.
    Refused(Refusal),
    /// Its rule has the answer.
    Answered(Box<Own>),
}

impl Stop {
    fn result(&self) -> Result<(), Reason> {
        match self {
            Self::Refused(refusal) => Err(refusal.reason),
            Self::Answered(_) => Ok(()),
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason.into())
    }
}

/// Chapter 3 with what becomes of those that go nowhere.
fn route(session: &Session, request: &Request, record: &mut HttpRecord) -> Result<Routed, Stop> {
    match route::http(&session.target, &request.view(), fastrand::u64(..)) {
        Ok(routed) => Ok(routed),
        Err(Unrouted::Refused(reason)) => Err(reason.into()),
        Err(Unrouted::Redirected(redirected)) => {
            record.traffic.route = redirected.route().cloned();
            record.traffic.service = Some(redirected.service.clone());
            Err(Stop::Answered(Box::new(redirect(&redirected, request)?)))
        }
    }
}

/// What a request that was let in has.
struct LetIn {
    admitted: Admitted,
    /// Its place among the requests at once.
    permit: Permit,
}

/// A request that was let in, and by whom it came.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    session: &'a Session,
    admitted: &'a Admitted,
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
fn prepare(session: &Session, request: &mut Request, admitted: &Admitted, record: &HttpRecord) -> Result<(), Reason> {
    let headers = request.headers_mut();
    if let Gate::Inbound { peer } = &session.gate {
        introduce(headers, session.client, peer.as_ref());
    }
    record.inject(headers);
    for filters in admitted.routed().filters() {
        filters.on_request(request.headers_mut()).or(Err(Reason::HeadersTooLarge))?;
        if let Some(written) = filters.rewrite() {
            rewrite(request, written)?;
        }
    }
    Ok(())
}

/// Asks the backend for what the rule says in place of what the client said.
fn rewrite(request: &mut Request, rewrite: &Rewrite) -> Result<(), Reason> {
    // A tunnel's target is all of its request: there is nothing left of it when that is replaced.
    if request.method() == Method::CONNECT {
        return Ok(());
    }
    if let Some(path) = rewrite.path(request.uri().path()).map(Cow::into_owned) {
        request.set_path(&path)?;
    }
    match rewrite.authority() {
        Some((authority, field)) => request.set_host(authority, field),
        None => Ok(()),
    }
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

/// Answers a request that is not sent on. Also says what becomes of an HTTP/1 connection.
async fn answer_stopped(
    session: &Session,
    stop: Stop,
    audience: Audience,
    body_was_read: bool,
    responder: &mut Responder,
    record: &mut HttpRecord,
) -> (Option<Writer>, Then) {
    let own = match stop {
        Stop::Answered(own) => *own,
        Stop::Refused(Refusal { reason, .. }) if responder.has_begun() || reason == Reason::ClientGone => {
            return (None, Then::Reset);
        }
        Stop::Refused(refusal) => {
            // HTTP/2 has a word for "not processed" that the peer's proxy understands (semantics 26).
            if refusal.reason == Reason::AppConnect && session.peer().is_some() && responder.refuse_stream() {
                return (None, Then::Close);
            }
            record.grpc_status = audience.grpc.then(|| u16::from(refusal.reason.grpc_code()));
            answer(&refusal, audience)
        }
    };
    if !body_was_read {
        responder.close_after();
    }
    record.status = Some(own.head.status().as_u16());
    record.response_bytes = if own.to_head { 0 } else { own.body.len() as u64 };
    record.first_byte();
    match responder.own(own).await {
        Ok((writer, Persistence::KeepAlive)) => (writer, Then::KeepAlive),
        Ok((writer, Persistence::Close)) => (writer, Then::Close),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "an answer of ours did not reach the client");
            (None, Then::Reset)
        }
    }
}

/// What the client is told when there is no further attempt. Next to the application all that it did not begin to work
/// on is the application's refusal.
fn reason_for(session: &Session, failed: Failed) -> Reason {
    match session.gate {
        Gate::Inbound { .. } if failed.outcome == Outcome::Unprocessed => Reason::AppConnect,
        Gate::Inbound { .. } | Gate::Outbound => failed.reason,
    }
}

/// What is left of an HTTP/1 client's connection, with the memory of its head for the next one.
fn reader_of(source: Source, request: Request) -> Option<Reader> {
    let Source::Http1 { mut reader, .. } = source else { return None };
    if let Request::Http1(head) = request {
        reader.recycle(head.headers);
    }
    Some(reader)
}

/// The deadlines of one request.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// When all attempts must have ended.
    request: Option<Instant>,
    /// How long one may take.
    attempt: Option<Duration>,
}

impl Limits {
    fn of(timeouts: Timeouts) -> Self {
        let Timeouts { request, backend_request } = timeouts;
        Self { request: request.map(|limit| Instant::now() + limit), attempt: backend_request }
    }

    /// Something between attempts.
    async fn within<T>(&self, future: Pin<&mut impl Future<Output = T>>) -> Result<T, Reason> {
        match self.request {
            Some(at) => timeout_at(at, future).await.or(Err(Reason::RequestTimeout)),
            None => Ok(future.await),
        }
    }

    /// One attempt.
    async fn attempt<T>(&self, attempt: Pin<&mut impl Future<Output = Result<T, Failed>>>) -> Result<T, Failed> {
        let own = self.attempt.map(|limit| Instant::now() + limit);
        let (at, reason) = match (own, self.request) {
            (None, None) => return attempt.await,
            (Some(own), Some(request)) if request <= own => (request, Reason::RequestTimeout),
            (Some(own), _) => (own, Reason::BackendTimeout),
            (None, Some(request)) => (request, Reason::RequestTimeout),
        };
        timeout_at(at, attempt).await.unwrap_or(Err(Failed { outcome: Outcome::TimedOut, reason }))
    }
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
    recorder: &'a Recorder,
    method: Method,
    made: Cell<u32>,
    /// The decision that was made for an answer, so that it is paid for once.
    decided: Cell<Option<Duration>>,
    pause: Cell<Duration>,
    /// Whether the last attempt met a connection that was of no use any more.
    met_stale: Cell<bool>,
    replayable: Replayable,
}

impl<'a> Retries<'a> {
    fn new(admitted: &'a Admitted, recorder: &'a Recorder, method: &Method, body: &Body) -> Self {
        if let Some(service) = &admitted.routed().service {
            service.budget.deposit(Instant::now().into_std());
        }
        Self {
            admitted,
            recorder,
            method: method.clone(),
            made: Cell::new(0),
            decided: Cell::new(None),
            pause: Cell::new(Duration::ZERO),
            met_stale: Cell::new(false),
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

    /// Whether there may be another attempt at all, so that the head must be kept.
    fn may_follow(&self) -> bool {
        self.admitted.routed().service.is_some() || self.made.get() == 0
    }

    fn met_stale(&self) -> bool {
        self.met_stale.get()
    }

    /// Whether a failed attempt is followed by another; pays for it, unless [`Retries::by_policy`] did.
    fn again(&self, failed: Failed) -> bool {
        // Without a service there is no other endpoint and no budget; one stale connection is worth a second try.
        let is_worth_it = self.admitted.routed().service.is_some() || (failed.is_stale() && self.made.get() == 0);
        let decide = || is_worth_it.then(|| self.decide(failed.outcome)).flatten();
        let Some(after) = self.decided.take().or_else(decide) else { return false };
        self.met_stale.set(failed.is_stale());
        self.made.set(self.made.get() + 1);
        self.pause.set(after);
        true
    }

    fn pause(&self) -> Duration {
        self.pause.get()
    }

    fn decide(&self, outcome: Outcome) -> Option<Duration> {
        let routed = self.admitted.routed();
        let whole = self.replayable.get();
        let attempt = retry::Attempt {
            outcome,
            method: &self.method,
            policy: routed.retry(),
            retries: self.made.get(),
            replay: if whole { Replay::Whole } else { Replay::Lost },
        };
        let after = match retry::may_retry(&attempt, fastrand::u64(..)) {
            Decision::Retry { after } => after,
            Decision::Stop(StopCause::Body) => {
                self.recorder.count(Event::RetryTooLarge);
                return None;
            }
            Decision::Stop(StopCause::Attempts | StopCause::Method | StopCause::Outcome) => return None,
        };
        let Some(service) = &routed.service else { return Some(after) };
        let paid = service.budget.withdraw(&routed.retry_budget, Instant::now().into_std());
        if !paid {
            self.recorder.count(Event::RetryBudgetEmpty);
        }
        paid.then_some(after)
    }
}
