//! Learns that the server of a service port speaks first, so that its clients need not wait for a client's byte that
//! never comes (semantics 13, 14).
//!
//! The caller decides what may be observed: never against a declared protocol, never where an L7 policy or route
//! applies, and only what [`crate::detect::server_first_evidence`] calls evidence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ticks::{Epoch, millis};

/// So many observations make it known.
pub const OBSERVATIONS: u64 = 3;

/// So long what was observed counts; each new observation renews it.
pub const KEPT: Duration = Duration::from_secs(600);

/// What was observed of one service port. Shared by all workers; outlives snapshots.
#[derive(Debug)]
pub struct ServerFirst {
    epoch: Epoch,
    /// The number of observations (lowest two bits), and when the last was made, in milliseconds since the epoch.
    word: AtomicU64,
}

impl ServerFirst {
    /// Nothing was observed yet.
    pub fn new(now: Instant) -> Self {
        Self { epoch: Epoch::new(now), word: AtomicU64::new(0) }
    }

    /// A server spoke first.
    pub fn observe(&self, now: Instant) {
        let now_ms = self.epoch.ms(now);
        let observed = |word| now_ms << 2 | (live(word, now_ms) + 1).min(OBSERVATIONS);
        self.word.update(Ordering::Relaxed, Ordering::Relaxed, observed);
    }

    /// A client spoke first after all: what was learned is forgotten.
    pub fn forget(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// Whether it is known that the server speaks first.
    pub fn is_known(&self, now: Instant) -> bool {
        live(self.word.load(Ordering::Relaxed), self.epoch.ms(now)) >= OBSERVATIONS
    }
}

/// How many observations still count.
fn live(word: u64, now_ms: u64) -> u64 {
    let fresh = now_ms.saturating_sub(word >> 2) < millis(KEPT);
    if fresh { word & 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, ServerFirst};
    use crate::ticks::tests::start;
    use std::time::Duration;

    #[test]
    fn three_observations_make_it_known_for_ten_minutes() {
        let now = start();
        let learned = ServerFirst::new(now);
        for _ in 0..2 {
            learned.observe(now);
            assert!(!learned.is_known(now));
        }
        learned.observe(now);
        assert!(learned.is_known(now));
        assert!(learned.is_known(now + KEPT - Duration::from_millis(1)));
        assert!(!learned.is_known(now + KEPT));
    }

    #[test]
    fn old_observations_do_not_add_up() {
        let now = start();
        let learned = ServerFirst::new(now);
        learned.observe(now);
        learned.observe(now);
        learned.observe(now + KEPT);
        assert!(!learned.is_known(now + KEPT));
    }

    #[test]
    fn an_observation_renews_and_a_contradiction_forgets() {
        let now = start();
        let learned = ServerFirst::new(now);
        (0..3).for_each(|_| learned.observe(now));
        learned.observe(now + KEPT / 2);
        assert!(learned.is_known(now + KEPT));
        learned.forget();
        assert!(!learned.is_known(now));
    }

    #[test]
    fn threads_lose_no_observation() {
        let now = start();
        for _ in 0..100 {
            let learned = ServerFirst::new(now);
            std::thread::scope(|scope| {
                (0..3).for_each(|_| drop(scope.spawn(|| learned.observe(now))));
            });
            assert!(learned.is_known(now));
        }
    }
}
