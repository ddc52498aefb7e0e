//! The numbers of one series. Each has one writer, its worker: adding is a load and a store, not a locked instruction.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_proxy_core::classify::Class;

use super::super::facts::{HttpFacts, class_of};
use super::{Exemplar, OUTCOMES_MAX};
use crate::error::Reason;

/// A count with one writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted of requests with the same labels.
#[derive(Debug, Default)]
pub(super) struct HttpSeries {
    pub(super) duration: Histogram,
    pub(super) request_bytes: Counter,
    pub(super) response_bytes: Counter,
    pub(super) retries: Counter,
    pub(super) outcomes: Outcomes,
}

/// What is counted of opaque connections with the same labels.
#[derive(Debug, Default)]
pub(super) struct TcpSeries {
    pub(super) opened: Counter,
    pub(super) closed: Outcomes,
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

/// Upper bounds of the buckets, in microseconds: half a millisecond (what two proxies cost) to ten seconds.
pub(super) const BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Bounds and the one without.
pub(super) const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Durations in classic buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; summed up when written.
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
    /// The latest example of each bucket. Locked only for sampled requests, and never waited for.
    examples: Mutex<Option<Box<Examples>>>,
}

/// The latest example of each bucket.
pub(super) type Examples = [Option<Example>; BUCKETS];

/// One observed duration and the trace it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Example {
    pub(super) trace_id: u128,
    pub(super) elapsed: Duration,
    /// Since 1970.
    pub(super) at: Duration,
}

impl Histogram {
    pub(super) fn observe(&self, elapsed: Duration, exemplar: Option<Exemplar>) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // Rounded down for the sum; a bound counts what is not above it.
        let bucket = BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < elapsed);
        if let Some(count) = self.buckets.get(bucket) {
            count.add(1);
        }
        self.sum_us.add(us);
        let Some((trace_id, at)) = exemplar else { return };
        if let Ok(mut examples) = self.examples.try_lock()
            && let Some(example) = examples.get_or_insert_default().get_mut(bucket)
        {
            *example = Some(Example { trace_id, elapsed, at });
        }
    }

    pub(super) fn bucket(&self, index: usize) -> u64 {
        self.buckets.get(index).map_or(0, Counter::value)
    }

    pub(super) fn sum_us(&self) -> u64 {
        self.sum_us.value()
    }

    pub(super) fn example(&self, bucket: usize) -> Option<Example> {
        self.examples.try_lock().ok()?.as_ref()?.get(bucket).copied().flatten()
    }
}

/// How a request or connection ended: its own labels beyond those of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) struct Outcome {
    pub(super) class: Class,
    pub(super) status: Code,
    pub(super) grpc_status: Code,
    /// Place in [`Reason::ALL`].
    pub(super) reason: Option<u8>,
}

/// A status as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// There was none.
    None,
    /// One that is defined, or may be.
    Known(u16),
    /// Any other number: the label is not chosen by whoever answers.
    Other,
}

impl Code {
    fn new(code: Option<u16>, known: impl Fn(u16) -> bool) -> Self {
        match code {
            None => Self::None,
            Some(code) if known(code) => Self::Known(code),
            Some(_) => Self::Other,
        }
    }

    const fn pack(self) -> u64 {
        match self {
            Self::None => 0x1_0000,
            Self::Known(code) => code as u64,
            Self::Other => 0x1_0001,
        }
    }

    const fn unpack(bits: u64) -> Self {
        match bits & 0x1_ffff {
            0x1_0000 => Self::None,
            #[expect(clippy::cast_possible_truncation, reason = "masked to less than 2^16 by the other arms")]
            code if code < 0x1_0000 => Self::Known(code as u16),
            _ => Self::Other,
        }
    }
}

impl Outcome {
    /// How a request ended.
    pub(in crate::record) fn of_request(facts: &HttpFacts) -> Self {
        Self::new(facts.status, facts.grpc_status, facts.reason)
    }

    /// How a connection ended.
    pub(in crate::record) fn of_connection(reason: Option<Reason>) -> Self {
        Self::new(None, None, reason)
    }

    fn new(status: Option<u16>, grpc_status: Option<u16>, reason: Option<Reason>) -> Self {
        Self {
            class: class_of(status, grpc_status, reason),
            status: Code::new(status, |status| (100..=599).contains(&status)),
            grpc_status: Code::new(grpc_status, |code| code <= 16),
            reason: reason.map(|reason| reason as u8),
        }
    }

    /// What stands in where no place is left.
    fn overflow(self) -> Self {
        Self { status: Code::Other, grpc_status: Code::None, reason: None, ..self }
    }

    /// All of it in one word that is never zero.
    fn pack(self) -> u64 {
        let reason = self.reason.map_or(0xff, u64::from);
        let class = u64::from(self.class == Class::Failure);
        1 << 63 | class << 42 | reason << 34 | self.grpc_status.pack() << 17 | self.status.pack()
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let reason = (bits >> 34 & 0xff) as u8;
        Self {
            class: if bits >> 42 & 1 == 1 { Class::Failure } else { Class::Success },
            status: Code::unpack(bits),
            grpc_status: Code::unpack(bits >> 17),
            reason: (reason != 0xff).then_some(reason),
        }
    }

    pub(super) fn reason(self) -> Option<Reason> {
        self.reason.and_then(|reason| Reason::ALL.get(usize::from(reason)).copied())
    }
}

/// Counts by outcome, filled from the front and never emptied. The last places are for what has none: one for each
/// class.
#[derive(Debug)]
pub(super) struct Outcomes([(AtomicU64, Counter); OUTCOMES_MAX + 2]);

impl Default for Outcomes {
    fn default() -> Self {
        Self(array::from_fn(|_| Default::default()))
    }
}

impl Outcomes {
    /// Counts one. False: under `other`, because all places are taken.
    pub(super) fn add(&self, outcome: Outcome) -> bool {
        self.place(outcome.pack(), OUTCOMES_MAX) || {
            self.place(outcome.overflow().pack(), OUTCOMES_MAX + 2);
            false
        }
    }

    fn place(&self, packed: u64, places: usize) -> bool {
        for (key, count) in self.0.iter().take(places) {
            match key.load(Ordering::Relaxed) {
                0 => {
                    count.add(1);
                    // With the count before it, so that a reader never sees the outcome with a count of zero.
                    key.store(packed, Ordering::Release);
                    return true;
                }
                taken if taken == packed => {
                    count.add(1);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// Packed outcomes and their counts.
    pub(super) fn values(&self) -> impl Iterator<Item = (u64, u64)> {
        let taken = self.0.iter().map(|(key, count)| (key.load(Ordering::Acquire), count));
        taken.take_while(|(key, _)| *key != 0).map(|(key, count)| (key, count.value()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_proxy_core::classify::Class;

    use super::{BOUNDS_US, Code, Histogram, Outcome, Outcomes};
    use crate::error::Reason;

    #[test]
    fn an_outcome_survives_packing() {
        for status in [None, Some(0), Some(99), Some(100), Some(599), Some(600), Some(u16::MAX)] {
            for grpc in [None, Some(0), Some(16), Some(17), Some(u16::MAX)] {
                for reason in Reason::ALL.into_iter().map(Some).chain([None]) {
                    let outcome = Outcome::new(status, grpc, reason);
                    assert_eq!(Outcome::unpack(outcome.pack()), outcome);
                    assert_eq!(outcome.reason(), reason);
                    assert_ne!(outcome.pack(), 0);
                }
            }
        }
    }

    #[test]
    fn a_status_that_is_none_is_bounded() {
        for (status, want) in [(99, Code::Other), (200, Code::Known(200)), (600, Code::Other)] {
            assert_eq!(Outcome::new(Some(status), None, None).status, want);
        }
        assert_eq!(Outcome::new(None, Some(17), None).grpc_status, Code::Other);
    }

    #[test]
    fn too_many_outcomes_are_counted_together_by_class() {
        let outcomes = Outcomes::default();
        let fitted = (100..=599).filter(|status| outcomes.add(Outcome::new(Some(*status), None, None))).count();
        assert_eq!(fitted, super::OUTCOMES_MAX);
        let values: Vec<_> = outcomes.values().map(|(packed, count)| (Outcome::unpack(packed), count)).collect();
        assert_eq!(values.iter().map(|(_, count)| count).sum::<u64>(), 500);
        let other = |class| {
            values.iter().filter(|(outcome, _)| outcome.status == Code::Other && outcome.class == class).count()
        };
        assert_eq!((other(Class::Failure), other(Class::Success)), (1, 1));
    }

    #[test]
    fn a_duration_counts_below_the_bound_it_equals() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(500), None);
        histogram.observe(Duration::from_nanos(500_001), None);
        histogram.observe(Duration::from_secs(11), None);
        assert_eq!((histogram.bucket(0), histogram.bucket(1), histogram.bucket(BOUNDS_US.len())), (1, 1, 1));
        assert_eq!(histogram.sum_us(), 500 + 500 + 11_000_000);
    }
}
