//! Limits that all workers of the process share: how much at once, how much per second.
//!
//! Both are exact however many threads ask: one atomic word decides each question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ticks::Epoch;

/// How many may be inside at once.
#[derive(Debug)]
pub struct Concurrency {
    inside: AtomicU32,
    max: AtomicU32,
}

impl Concurrency {
    /// A limit with nobody inside.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { inside: AtomicU32::new(0), max: AtomicU32::new(max) })
    }

    /// Enters, if there is room. **Cancel:** dropping the permit leaves. **Cost:** one atomic update, no allocation.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Ordering::Relaxed);
        let enter = |inside: u32| (inside < max).then(|| inside + 1);
        self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        Some(Permit { limit: Arc::clone(self) })
    }

    /// How many are inside.
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// How many may be.
    pub fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes how many may be; those who are inside stay.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }
}

/// The right to be inside, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place away"]
pub struct Permit {
    limit: Arc<Concurrency>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token bucket: so many per second, and so many at once after a pause.
///
/// Kept as the one instant at which the bucket will be full again (the "generic cell rate algorithm" of ITU-T I.371),
/// so that taking is one compare-and-swap.
#[derive(Debug)]
pub struct TokenBucket {
    epoch: Epoch,
    /// What one token costs, in nanoseconds.
    interval_ns: u64,
    /// How far ahead of now the bucket may be drawn, in nanoseconds.
    depth_ns: u64,
    /// When it will be full again, in nanoseconds since the epoch.
    full_at_ns: AtomicU64,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 never gives a token; a burst of 0 is taken as 1, without which no token could ever
    /// be had. Rates are exact up to a nanosecond per token.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval_ns = NANOS_PER_SECOND.checked_div(u64::from(per_second)).map_or(NEVER, |interval| interval.max(1));
        let depth_ns = interval_ns.saturating_mul(u64::from(burst.max(1)));
        Self { epoch: Epoch::new(now), interval_ns, depth_ns, full_at_ns: AtomicU64::new(0) }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none: how long until there is one. The caller refuses and may tell the client.
    pub fn try_take(&self, now: Instant) -> Result<(), Duration> {
        if self.interval_ns == NEVER {
            return Err(Duration::MAX);
        }
        let now_ns = self.epoch.ns(now);
        let after = |full_at: u64| full_at.max(now_ns).saturating_add(self.interval_ns);
        let take = |full_at: u64| (after(full_at) - now_ns <= self.depth_ns).then(|| after(full_at));
        match self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_nanos((after(full_at) - now_ns).saturating_sub(self.depth_ns))),
        }
    }

    /// The share of the bucket that is there, for display.
    pub fn fill(&self, now: Instant) -> f64 {
        if self.interval_ns == NEVER {
            return 0.0;
        }
        let drawn = self.full_at_ns.load(Ordering::Relaxed).saturating_sub(self.epoch.ns(now));
        (1.0 - drawn as f64 / self.depth_ns as f64).max(0.0)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The cost of a token that is never had.
const NEVER: u64 = 0;

#[cfg(test)]
mod tests {
    use super::{Concurrency, TokenBucket};
    use crate::ticks::tests::start;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// How many of `threads` times `each` calls say yes.
    fn count(threads: u32, each: u32, ask: impl Fn() -> bool + Sync) -> u32 {
        let yes = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let answers = u32::try_from((0..each).filter(|_| ask()).count()).unwrap();
                    yes.fetch_add(answers, Ordering::Relaxed);
                });
            }
        });
        yes.into_inner()
    }

    #[test]
    fn a_place_is_given_back() {
        let limit = Concurrency::new(2);
        let first = limit.try_acquire().unwrap();
        let second = limit.try_acquire();
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert_eq!(limit.inside(), 1);
        assert!(limit.try_acquire().is_some());
        drop(second);
        assert_eq!(limit.inside(), 0);
    }

    #[test]
    fn a_lowered_limit_lets_nobody_else_in() {
        let limit = Concurrency::new(2);
        let held = [limit.try_acquire(), limit.try_acquire()];
        limit.set_max(1);
        assert!(limit.try_acquire().is_none());
        drop(held);
        assert!(limit.try_acquire().is_some());
        limit.set_max(0);
        assert!(limit.try_acquire().is_none());
    }

    #[test]
    fn one_thread_and_four_get_the_same_number_of_places() {
        for threads in [1, 4] {
            let limit = Concurrency::new(100);
            let kept = std::sync::Mutex::new(Vec::new());
            let entered = count(threads, 400 / threads, || {
                let permit = limit.try_acquire();
                let entered = permit.is_some();
                kept.lock().unwrap().extend(permit);
                entered
            });
            assert_eq!((entered, limit.inside()), (100, 100));
            drop(kept);
            assert_eq!(limit.inside(), 0);
        }
    }

    #[test]
    fn tokens_come_back_at_their_rate() {
        let now = start();
        let bucket = TokenBucket::new(10, 3, now);
        assert_eq!((0..5).filter(|_| bucket.try_take(now).is_ok()).count(), 3);
        assert_eq!(bucket.try_take(now), Err(Duration::from_millis(100)));
        assert!(bucket.fill(now) < 0.01);
        assert!(bucket.try_take(now + Duration::from_millis(99)).is_err());
        assert!(bucket.try_take(now + Duration::from_millis(100)).is_ok());
        let later = now + Duration::from_secs(60);
        assert_eq!(
            (0..5).filter(|_| bucket.try_take(later).is_ok()).count(),
            3,
            "a pause saves no more than the burst"
        );
    }

    #[test]
    fn nothing_comes_from_an_empty_rate() {
        let now = start();
        assert_eq!(TokenBucket::new(0, 5, now).try_take(now), Err(Duration::MAX));
        assert!(TokenBucket::new(1, 0, now).try_take(now).is_ok());
        assert!(TokenBucket::new(u32::MAX, u32::MAX, now).try_take(now).is_ok());
    }

    #[test]
    fn one_thread_and_four_get_the_same_number_of_tokens() {
        let now = start();
        for threads in [1, 4] {
            let bucket = TokenBucket::new(1000, 250, now);
            assert_eq!(count(threads, 2000 / threads, || bucket.try_take(now).is_ok()), 250);
            let later = now + Duration::from_millis(100);
            assert_eq!(count(threads, 2000 / threads, || bucket.try_take(later).is_ok()), 100);
        }
    }
}
