//! Writes OpenMetrics 1.0 text by hand: `prometheus-client` wants one value per series behind its own locks, and ours
//! are summed over shards.
//!
//! **Source:** the OpenMetrics specification, v1.0.0: families are contiguous, a counter's sample ends in `_total`,
//! label values escape `\`, `"` and line feed, exemplars follow `#`, the text ends with `# EOF`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Duration;

use weft_model::PolicyId;

use super::super::facts::Traffic;
use super::Authorization;
use super::family::Entry;
use super::series::{BOUNDS_US, BUCKETS, Code, Counter, HttpSeries, Outcome, Outcomes, TcpSeries};

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows; samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// Facts in labels; samples end in `_info`.
    Info,
}

/// Writes families and samples.
pub(crate) struct Text<'a> {
    out: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

impl<'a> Text<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self { out, name: "", suffix: "" }
    }

    /// Begins a family. A counter's name is given without `_total`.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
            Kind::Info => ("info", "_info"),
        };
        (self.name, self.suffix) = (name, suffix);
        self.put(format_args!("# HELP {name} "));
        escape(help, self.out);
        self.put(format_args!("\n# TYPE {name} {kind}\n"));
    }

    /// Writes one sample of the family. Label names are ours; values are escaped.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels = label_text(labels);
        self.line(self.suffix, &labels, value, "");
    }

    /// Writes a sample whose labels are text already, with a suffix of its own and an exemplar or nothing.
    fn line(&mut self, suffix: &str, labels: &str, value: impl Display, exemplar: &str) {
        let name = self.name;
        if labels.is_empty() {
            self.put(format_args!("{name}{suffix} {value}{exemplar}\n"));
        } else {
            self.put(format_args!("{name}{suffix}{{{labels}}} {value}{exemplar}\n"));
        }
    }

    pub(super) fn end(self) {
        self.out.push_str("# EOF\n");
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        self.out.write_fmt(arguments).unwrap_or_default();
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn label_text(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(value, &mut out);
        out.push('"');
    }
    out
}

pub(super) fn traffic_labels(traffic: &Traffic) -> String {
    label_text(&traffic.labels())
}

pub(super) fn authorization_labels(labels: &Authorization) -> String {
    label_text(&[
        ("direction", labels.direction.as_str()),
        ("policy", labels.policy.as_ref().map_or("default", PolicyId::as_str)),
        ("verdict", labels.verdict.as_str()),
    ])
}

type Merged<S> = BTreeMap<String, Vec<Arc<Entry<S>>>>;

pub(super) fn http(merged: &Merged<HttpSeries>, text: &mut Text<'_>) {
    text.family("weft_requests", Kind::Counter, "HTTP requests, by how they ended.");
    for (labels, shards) in merged {
        outcomes(labels, shards.iter().map(|entry| &entry.series().outcomes), text, true);
    }
    text.family(
        "weft_request_duration_seconds",
        Kind::Histogram,
        "Time from a request's head to the first byte of its response.",
    );
    for (labels, shards) in merged {
        histogram(labels, shards, text);
    }
    text.family("weft_request_bytes", Kind::Counter, "Bytes of request bodies.");
    counters(merged, text, |series| &series.request_bytes);
    text.family("weft_response_bytes", Kind::Counter, "Bytes of response bodies.");
    counters(merged, text, |series| &series.response_bytes);
    text.family("weft_retries", Kind::Counter, "Attempts after the first.");
    counters(merged, text, |series| &series.retries);
}

pub(super) fn tcp(merged: &Merged<TcpSeries>, text: &mut Text<'_>) {
    text.family("weft_tcp_connections_opened", Kind::Counter, "Opaque connections opened.");
    counters(merged, text, |series| &series.opened);
    text.family("weft_tcp_connections_closed", Kind::Counter, "Opaque connections closed, by how they ended.");
    for (labels, shards) in merged {
        outcomes(labels, shards.iter().map(|entry| &entry.series().closed), text, false);
    }
    text.family("weft_tcp_sent_bytes", Kind::Counter, "Bytes from clients to servers on opaque connections.");
    counters(merged, text, |series| &series.sent);
    text.family("weft_tcp_received_bytes", Kind::Counter, "Bytes from servers to clients on opaque connections.");
    counters(merged, text, |series| &series.received);
}

pub(super) fn authorization(merged: &Merged<Counter>, text: &mut Text<'_>) {
    text.family("weft_authorization", Kind::Counter, "What policies said about requests and opaque connections.");
    counters(merged, text, |count| count);
}

fn counters<S>(merged: &Merged<S>, text: &mut Text<'_>, counter: impl Fn(&S) -> &Counter) {
    for (labels, shards) in merged {
        let sum: u64 = shards.iter().map(|entry| counter(entry.series()).value()).sum();
        text.line("_total", labels, sum, "");
    }
}

fn outcomes<'a>(labels: &str, shards: impl Iterator<Item = &'a Outcomes>, text: &mut Text<'_>, has_status: bool) {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for (packed, count) in shards.flat_map(Outcomes::values) {
        *sums.entry(packed).or_default() += count;
    }
    for (packed, sum) in sums {
        let outcome = Outcome::unpack(packed);
        let class = outcome.class.as_str();
        let reason = outcome.reason().map_or("", |reason| reason.as_str());
        let (status, grpc_status) = (code(outcome.status), code(outcome.grpc_status));
        let own = if has_status {
            label_text(&[("status_code", &status), ("grpc_status", &grpc_status), ("class", class), ("reason", reason)])
        } else {
            label_text(&[("class", class), ("reason", reason)])
        };
        text.line("_total", &format!("{labels},{own}"), sum, "");
    }
}

fn code(code: Code) -> String {
    match code {
        Code::None => String::new(),
        Code::Known(code) => code.to_string(),
        Code::Other => "other".to_owned(),
    }
}

fn histogram(labels: &str, shards: &[Arc<Entry<HttpSeries>>], text: &mut Text<'_>) {
    let mut count = 0;
    for bucket in 0..BUCKETS {
        count += shards.iter().map(|entry| entry.series().duration.bucket(bucket)).sum::<u64>();
        let bound = BOUNDS_US
            .get(bucket)
            .map_or_else(|| "+Inf".to_owned(), |bound| format!("{:?}", Duration::from_micros(*bound).as_secs_f64()));
        let latest = shards.iter().filter_map(|entry| entry.series().duration.example(bucket)).max_by_key(|it| it.at);
        let exemplar = latest.map(|example| {
            let (elapsed, at) = (example.elapsed.as_secs_f64(), example.at.as_secs_f64());
            format!(" # {{trace_id=\"{:032x}\"}} {elapsed} {at:.3}", example.trace_id)
        });
        text.line("_bucket", &format!("{labels},le=\"{bound}\""), count, exemplar.as_deref().unwrap_or_default());
    }
    text.line("_count", labels, count, "");
    let sum_us = shards.iter().map(|entry| entry.series().duration.sum_us()).sum();
    text.line("_sum", labels, Duration::from_micros(sum_us).as_secs_f64(), "");
}
