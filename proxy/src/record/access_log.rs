//! The access log: one JSON object per request or opaque connection, on stdout, off unless policy turns it on.
//!
//! Lines are made and written by a thread of their own, behind a bounded queue: a slow reader of stdout costs lines,
//! which are counted, never traffic. Of a client's headers only host and user agent are told; values of a query never
//! are, nor is any other header.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use http::uri::PathAndQuery;
use serde_json::{Map, Value};
use tokio::time::Instant;
use weft_model::{PolicyId, SpiffeId};

use super::facts::{Direction, HttpFacts, RequestFacts, TcpFacts, Traffic, Verdict};
use super::metrics::{Event, Registry};
use crate::error::Reason;

/// Lines that wait to be written: a second of 2,000 requests.
const LINES_QUEUED_MAX: usize = 2_048;
/// Bytes of any text that a client chose.
const TEXT_BYTES_MAX: usize = 1_024;

/// The way to the log's thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct AccessLog {
    lines: SyncSender<Line>,
}

/// What a line is made of.
#[derive(Debug)]
pub(super) enum Line {
    /// One opaque connection.
    Connection {
        /// All of it.
        facts: Arc<TcpFacts>,
        /// When it was over.
        at: SystemTime,
    },
    /// One request.
    Request {
        /// All of it.
        facts: Arc<HttpFacts>,
        /// When it was over.
        at: SystemTime,
    },
}

impl AccessLog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(super) fn start(out: impl Write + Send + 'static, metrics: Arc<Registry>) -> io::Result<Self> {
        let (lines, queue) = sync_channel(LINES_QUEUED_MAX);
        let write = move || write(&queue, out, &metrics);
        drop(std::thread::Builder::new().name("weft-access-log".to_owned()).spawn(write)?);
        Ok(Self { lines })
    }

    /// Queues a line. False: the queue is full or the thread gone.
    pub(super) fn tell(&self, line: Line) -> bool {
        self.lines.try_send(line).is_ok()
    }
}

fn write(queue: &Receiver<Line>, out: impl Write, metrics: &Registry) {
    let mut out = io::BufWriter::new(out);
    while let Ok(line) = queue.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            // A closed stdout is no reason to stop serving; what cannot be written is counted.
            if writeln!(out, "{}", line.json()).is_err() {
                metrics.count(Event::AccessLogDropped);
            }
            next = queue.try_recv().ok();
        }
        if out.flush().is_err() {
            metrics.count(Event::AccessLogDropped);
        }
    }
}

impl Line {
    fn json(&self) -> Value {
        let mut keys = Keys::default();
        match self {
            Self::Connection { facts, at } => connection(facts, *at, &mut keys),
            Self::Request { facts, at } => request(facts, *at, &mut keys),
        }
        Value::Object(keys.0)
    }
}

/// A JSON object without nulls.
#[derive(Default)]
struct Keys(Map<String, Value>);

impl Keys {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }
}

fn request(facts: &HttpFacts, at: SystemTime, keys: &mut Keys) {
    common(&facts.traffic, keys);
    decided(facts.policy.as_ref(), facts.verdict, facts.reason, keys);
    times(facts.started, facts.finished, at, keys);
    keys.put("client.addr", facts.client.to_string());
    keys.put("destination.addr", facts.dst.to_string());
    keys.put_some("endpoint.addr", facts.endpoint.map(|endpoint| endpoint.to_string()));
    keys.put_some("first_byte_ns", facts.first_byte.map(|first| nanoseconds(facts.started, first)));
    keys.put("request_bytes", facts.request_bytes);
    keys.put("response_bytes", facts.response_bytes);
    keys.put_some("status", facts.status);
    keys.put_some("grpc_status", facts.grpc_status);
    keys.put("retries", facts.retries);
    if let Some((trace_id, span_id)) = facts.trace.ids() {
        keys.put("trace_id", format!("{trace_id:032x}"));
        keys.put("span_id", format!("{span_id:016x}"));
    }
    if let Some(request) = &facts.request {
        keys.put("method", request.method.as_str());
        keys.put_some("uri", request.path.as_ref().map(without_values));
        keys.put_some("host", host(request));
        keys.put_some("user_agent", request.user_agent.as_ref().map(header));
    }
}

fn connection(facts: &TcpFacts, at: SystemTime, keys: &mut Keys) {
    common(&facts.traffic, keys);
    decided(facts.policy.as_ref(), facts.verdict, facts.reason, keys);
    times(facts.started, facts.finished, at, keys);
    keys.put("client.addr", facts.client.to_string());
    keys.put("destination.addr", facts.dst.to_string());
    keys.put_some("endpoint.addr", facts.endpoint.map(|endpoint| endpoint.to_string()));
    keys.put("sent_bytes", facts.sent_bytes);
    keys.put("received_bytes", facts.received_bytes);
}

fn common(traffic: &Traffic, keys: &mut Keys) {
    let Traffic { direction, protocol, mtls, peer, source, service, destination, route } = traffic;
    keys.put("direction", direction.as_str());
    keys.put("protocol", protocol.as_str());
    keys.put("mtls", mtls.as_str());
    let peer_key = match direction {
        Direction::Inbound => "client.id",
        Direction::Outbound => "server.id",
    };
    keys.put_some(peer_key, peer.as_ref().map(SpiffeId::as_str));
    keys.put_some("source", source.as_ref().map(ToString::to_string));
    keys.put_some("service", service.as_ref().map(ToString::to_string));
    keys.put_some("destination", destination.as_ref().map(ToString::to_string));
    keys.put_some("route", route.as_ref().map(PolicyId::as_str));
}

fn decided(policy: Option<&PolicyId>, verdict: Option<Verdict>, reason: Option<Reason>, keys: &mut Keys) {
    keys.put_some("policy", policy.map(PolicyId::as_str));
    keys.put_some("verdict", verdict.map(Verdict::as_str));
    keys.put_some("reason", reason.map(Reason::as_str));
}

fn times(started: Instant, finished: Option<Instant>, at: SystemTime, keys: &mut Keys) {
    let total = finished.map_or(Duration::ZERO, |finished| finished.saturating_duration_since(started));
    keys.put("timestamp", rfc3339(at.checked_sub(total).unwrap_or(at)));
    keys.put("total_ns", u64::try_from(total.as_nanos()).unwrap_or(u64::MAX));
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// The path, and of the query the names: `/a?token=secret&page` is told as `/a?token&page`.
pub(super) fn without_values(path: &PathAndQuery) -> String {
    let mut told = path.path().to_owned();
    if let Some(query) = path.query() {
        told.push('?');
        let names: Vec<_> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
        told.push_str(&names.join("&"));
    }
    bounded(told)
}

/// The path alone.
pub(super) fn path(path: &PathAndQuery) -> String {
    bounded(path.path().to_owned())
}

/// What the client called the server.
pub(super) fn host(request: &RequestFacts) -> Option<String> {
    let authority = request.authority.as_ref().map(|authority| {
        // A user name and password before the host are nobody's business.
        bounded(authority.as_str().rsplit('@').next().unwrap_or_default().to_owned())
    });
    authority.or_else(|| request.host.as_ref().map(header))
}

/// A header's value as text.
pub(super) fn header(value: &HeaderValue) -> String {
    bounded(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// A date as RFC 3339 writes it, in UTC, to the millisecond.
fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Days since 1970 as year, month and day: counts in eras of 400 years that begin in March, so that the leap day comes
/// last (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
