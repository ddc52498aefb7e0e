//! Chapter 7: what is told about a connection or request, written exactly once.
//!
//! A record begins with the story, travels with it, and is filled by the chapters: each sets its own fields. Writing
//! it is [`HttpRecord::finish`] or, where the story is dropped on the way, its `Drop`, which means that the client is
//! gone. Metrics, span and access log all come from the same facts.
//!
//! [`Telemetry`] lives on the control thread and is read by the admin server; each worker has one [`Recorder`]. The
//! per-request path takes no lock, formats nothing and allocates only for a request that is logged or sampled.
//! Labels come from configuration and closed sets: nothing that a client sends becomes a label.

mod access_log;
pub(crate) mod benching;
mod facts;
mod metrics;
mod span;
mod telemetry;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, header};
use tokio::time::Instant;
use weft_model::{ClientAddr, OriginalDst, PolicyId};

pub(crate) use self::facts::{Direction, HttpFacts, Mtls, Protocol, RequestFacts, TcpFacts, Traffic, Verdict};
use self::metrics::{Authorization, Outcome, Shard, TcpHandle};
pub(crate) use self::metrics::{Event, Gauge, Kind, Text};
use self::span::Ids;
pub(crate) use self::span::Trace;
use self::telemetry::Shared;
pub(crate) use self::telemetry::Telemetry;
use crate::error::Reason;

/// Makes a worker's records. Cheap to clone; clones are the same worker's.
#[derive(Clone)]
pub(crate) struct Recorder(Rc<Worker>);

/// What one worker has to itself.
struct Worker {
    shared: Arc<Shared>,
    shard: Shard,
    ids: Ids,
}

impl Recorder {
    fn new(shared: Arc<Shared>) -> Self {
        let shard = shared.metrics.shard();
        Self(Rc::new(Worker { shared, shard, ids: Ids::new() }))
    }

    /// Begins the record of one HTTP request, now.
    pub(crate) fn http(
        &self,
        direction: Direction,
        protocol: Protocol,
        client: ClientAddr,
        dst: OriginalDst,
    ) -> HttpRecord {
        let traffic = self.traffic(direction, protocol);
        HttpRecord {
            recorder: self.clone(),
            written: false,
            facts: HttpFacts::new(traffic, client, dst, Instant::now()),
        }
    }

    /// Begins the record of one opaque connection, now.
    pub(crate) fn tcp(&self, direction: Direction, client: ClientAddr, dst: OriginalDst) -> TcpRecord {
        let traffic = self.traffic(direction, Protocol::Tcp);
        let facts = TcpFacts::new(traffic, client, dst, Instant::now());
        TcpRecord { recorder: self.clone(), written: false, opened: None, facts }
    }

    /// Counts something that is neither a request nor a connection's end.
    pub(crate) fn count(&self, event: Event) {
        self.0.shared.metrics.count(event);
    }

    /// Counts refusals that operators watch for by name.
    fn refused(&self, reason: Option<Reason>) {
        if reason == Some(Reason::PlaintextRefused) {
            self.count(Event::PlaintextRefused);
        }
    }

    /// Our own workload is one end of everything.
    fn traffic(&self, direction: Direction, protocol: Protocol) -> Traffic {
        let mut traffic = Traffic::new(direction, protocol);
        let ours = Some(self.0.shared.workload.clone());
        match direction {
            Direction::Inbound => traffic.destination = ours,
            Direction::Outbound => traffic.source = ours,
        }
        traffic
    }

    fn judged(&self, direction: Direction, policy: Option<PolicyId>, verdict: Verdict, now: Instant) {
        self.0.shard.authorization(&Authorization { direction, policy, verdict }, now);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// One request's record; its fields are those of [`HttpFacts`].
#[derive(Debug)]
pub(crate) struct HttpRecord {
    recorder: Recorder,
    written: bool,
    facts: HttpFacts,
}

impl HttpRecord {
    /// Takes from a request's head what is told about it, and its place in a trace.
    ///
    /// **Cost:** counts references; method, path, host and user agent are kept only where somebody will read them.
    pub(crate) fn request(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) {
        let is_grpc =
            headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc && self.traffic.protocol == Protocol::Http2 {
            self.traffic.protocol = Protocol::Grpc;
        }
        let worker = &self.recorder.0;
        self.facts.trace = Trace::begin(headers, worker.shared.sampling(), &worker.ids);
        if worker.shared.logs_access() || self.facts.trace.is_recorded() {
            self.facts.request = Some(RequestFacts {
                method: method.clone(),
                path: uri.path_and_query().cloned(),
                host: headers.get(header::HOST).cloned(),
                authority: uri.authority().cloned(),
                user_agent: headers.get(header::USER_AGENT).cloned(),
            });
        }
    }

    /// Writes the trace context that the next hop is to see.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        self.facts.trace.inject(headers);
    }

    /// The first byte of the response is on its way to the client. Later calls change nothing.
    pub(crate) fn first_byte(&mut self) {
        self.facts.first_byte.get_or_insert_with(Instant::now);
    }

    /// The policy that decided, counted at once. `None`: the default did.
    pub(crate) fn judged(&mut self, policy: Option<&PolicyId>, verdict: Verdict) {
        self.recorder.judged(self.traffic.direction, policy.cloned(), verdict, Instant::now());
        if verdict != Verdict::Audit {
            self.facts.policy = policy.cloned();
            self.facts.verdict = Some(verdict);
        }
    }

    /// Ends the record. An error's reason stands, unless a chapter named one before.
    pub(crate) fn finish(mut self, result: Result<(), Reason>) {
        if let Err(reason) = result {
            self.facts.reason.get_or_insert(reason);
        }
        self.write();
    }

    fn write(&mut self) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        let now = Instant::now();
        self.facts.finished = Some(now);
        self.recorder.refused(self.facts.reason);
        let worker = &self.recorder.0;
        let exemplar = self.facts.trace.recorded_id().map(|id| (id, worker.shared.clock.unix()));
        worker.shard.request(&self.facts, now, exemplar);
        worker.shared.tell_request(&self.facts);
    }
}

impl Deref for HttpRecord {
    type Target = HttpFacts;

    fn deref(&self) -> &HttpFacts {
        &self.facts
    }
}

impl DerefMut for HttpRecord {
    fn deref_mut(&mut self) -> &mut HttpFacts {
        &mut self.facts
    }
}

impl Drop for HttpRecord {
    fn drop(&mut self) {
        if !self.written {
            self.facts.reason.get_or_insert(Reason::ClientGone);
            self.write();
        }
    }
}

/// One opaque connection's record; its fields are those of [`TcpFacts`].
#[derive(Debug)]
pub(crate) struct TcpRecord {
    recorder: Recorder,
    written: bool,
    /// The series, from the moment when both ends are known: labels changed later do not count.
    opened: Option<TcpHandle>,
    facts: TcpFacts,
}

impl TcpRecord {
    /// Both ends are known and bytes may flow: counts the connection as opened. One that ends before counts as opened
    /// when it ends.
    pub(crate) fn opened(&mut self) {
        if self.opened.is_none() {
            self.opened = Some(self.recorder.0.shard.tcp_opened(&self.facts.traffic, Instant::now()));
        }
    }

    /// Counts application bytes as they pass, so that a long connection shows before its end.
    pub(crate) fn passed(&mut self, sent: u64, received: u64) {
        self.opened();
        self.facts.sent_bytes += sent;
        self.facts.received_bytes += received;
        if let Some(handle) = &self.opened {
            handle.bytes(sent, received);
        }
    }

    /// As [`HttpRecord::judged`].
    pub(crate) fn judged(&mut self, policy: Option<&PolicyId>, verdict: Verdict) {
        self.recorder.judged(self.traffic.direction, policy.cloned(), verdict, Instant::now());
        if verdict != Verdict::Audit {
            self.facts.policy = policy.cloned();
            self.facts.verdict = Some(verdict);
        }
    }

    /// As [`HttpRecord::finish`].
    pub(crate) fn finish(mut self, result: Result<(), Reason>) {
        if let Err(reason) = result {
            self.facts.reason.get_or_insert(reason);
        }
        self.write();
    }

    /// Ends the record without a trace of it: the bytes turned out to be HTTP after all, and its story tells the rest
    /// (semantics 13).
    pub(crate) fn discard(mut self) {
        debug_assert!(self.opened.is_none(), "an opened connection is counted");
        self.written = true;
    }

    fn write(&mut self) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.opened();
        let now = Instant::now();
        self.facts.finished = Some(now);
        self.recorder.refused(self.facts.reason);
        let worker = &self.recorder.0;
        if let Some(handle) = self.opened.take() {
            worker.shard.tcp_closed(&handle, Outcome::of_connection(self.facts.reason), now);
        }
        worker.shared.tell_connection(&self.facts);
    }
}

impl Deref for TcpRecord {
    type Target = TcpFacts;

    fn deref(&self) -> &TcpFacts {
        &self.facts
    }
}

impl DerefMut for TcpRecord {
    fn deref_mut(&mut self) -> &mut TcpFacts {
        &mut self.facts
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        if !self.written {
            self.facts.reason.get_or_insert(Reason::ClientGone);
            self.write();
        }
    }
}

#[cfg(test)]
mod tests;
