//! What happens inside the proxy that is neither a request nor a connection's end: shared counters, touched rarely.

use std::array;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Kind, Text};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $count:literal: $($variant:ident, $metric:literal, $help:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name {
            $(#[doc = $help] $variant,)*
        }

        impl $name {
            const ALL: [Self; $count] = [$(Self::$variant,)*];

            /// The metric's name (without `_total`) and its help.
            const fn facts(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$variant => ($metric, $help),)*
                }
            }
        }
    };
}

named! {
    /// Something that is counted.
    Event, 19:
    AccessLogDropped, "weft_access_log_dropped", "Access log lines dropped because writing them was too slow.";
    AcceptFailed, "weft_accept_failures", "Connections that the kernel could not hand over.";
    ConnectionAccepted, "weft_connections_accepted", "Connections taken from the kernel.";
    ConnectionHandedOver, "weft_connections_handed_over", "Connections served by another worker than the one that accepted them.";
    DetectTimeout, "weft_detect_timeouts", "Connections whose client said nothing in time for detection.";
    Ejected, "weft_ejections", "Endpoints left out for a while after failures.";
    HttpAfterTrial, "weft_opaque_trials_abandoned", "Upstream connections closed unused because the client spoke HTTP or mesh TLS after all.";
    IdentityMismatch, "weft_identity_mismatches", "Peers that proved another identity than expected.";
    LoopRefused, "weft_loops_refused", "Connections refused because they came back to us or were never captured.";
    PlaintextRefused, "weft_plaintext_refused", "Plaintext connections and requests refused by strict ports.";
    RetryBudgetEmpty, "weft_retry_budget_exhausted", "Retries not made because the budget was used up.";
    RetryTooLarge, "weft_retry_too_large", "Retries not made because the request was too large to keep.";
    SeriesOverflow, "weft_metrics_overflow", "Counts put under overflow or other because no series was left.";
    ServerFirstLearned, "weft_server_first_learned", "Service ports learned to be ones where the server speaks first.";
    SpanDropped, "weft_spans_dropped", "Spans dropped because exporting them was too slow or failed.";
    SpanExported, "weft_spans_exported", "Spans handed to the collector.";
    TlsHandshakeFailed, "weft_tls_handshake_failures", "TLS handshakes that failed, in either direction.";
    UpstreamConnected, "weft_upstream_connects", "Connections made to endpoints.";
    UpstreamConnectFailed, "weft_upstream_connect_failures", "Connections to endpoints that could not be made.";
}

named! {
    /// Something that has a value.
    Gauge, 3:
    Draining, "weft_draining", "Whether the proxy drains (1) or serves (0).";
    UpstreamIdle, "weft_upstream_idle_connections", "Connections to endpoints kept for the next request.";
    Workers, "weft_workers", "Worker threads.";
}

/// Every event's count. Process-wide: these are rare enough for workers to share.
#[derive(Debug)]
pub(super) struct Events([AtomicU64; Event::ALL.len()]);

/// Every gauge's value.
#[derive(Debug)]
pub(super) struct Gauges([AtomicI64; Gauge::ALL.len()]);

impl Default for Events {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Events {
    pub(super) fn add(&self, event: Event, n: u64) {
        self.0[event as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn value(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }

    pub(super) fn write(&self, text: &mut Text<'_>) {
        for event in Event::ALL {
            let (name, help) = event.facts();
            text.family(name, Kind::Counter, help);
            text.sample(&[], self.value(event));
        }
    }
}

impl Default for Gauges {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicI64::new(0)))
    }
}

impl Gauges {
    pub(super) fn set(&self, gauge: Gauge, value: i64) {
        self.0[gauge as usize].store(value, Ordering::Relaxed);
    }

    pub(super) fn add(&self, gauge: Gauge, by: i64) {
        self.0[gauge as usize].fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn write(&self, text: &mut Text<'_>) {
        for gauge in Gauge::ALL {
            let (name, help) = gauge.facts();
            text.family(name, Kind::Gauge, help);
            text.sample(&[], self.0[gauge as usize].load(Ordering::Relaxed));
        }
    }
}
