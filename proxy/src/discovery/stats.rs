//! Counters of discovery. Names and labels are fixed; nothing a peer sends becomes one.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Cause;

/// What discovery counts.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Destinations that were not known when they were needed.
    pub(crate) lookups: Counter,
    /// Lookups without an answer in time.
    pub(crate) lookups_timed_out: Counter,
    /// Lookups refused by a bound.
    pub(crate) lookups_refused: Counter,
    /// Versions that are in force.
    pub(crate) accepted: Counter,
    /// Versions that were refused.
    pub(crate) refused: Counter,
    /// Subscriptions given up because nobody used them, or for want of room.
    pub(crate) evicted: Counter,
    /// Streams that were opened.
    pub(crate) streams: Counter,
    /// Streams that ended or could not be opened.
    pub(crate) stream_failures: Counter,
    /// Whether there is a stream.
    pub(crate) connected: Gauge,
    /// Keys that are subscribed to.
    pub(crate) subscriptions: Gauge,
}

impl Stats {
    pub(super) fn lookup_failed(&self, cause: Cause) {
        match cause {
            Cause::Deadline => self.lookups_timed_out.inc(),
            Cause::Full | Cause::Stopped => self.lookups_refused.inc(),
        };
    }
}
