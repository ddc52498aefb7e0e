//! Time and chance as numbers. Shared state is kept in single atomic words, so an instant becomes the milliseconds
//! since a fixed one, and one random number is spread over several draws.

use std::time::{Duration, Instant};

/// The instant that a shared value counts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    pub(crate) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Milliseconds since the epoch; 0 for an instant before it.
    pub(crate) fn ms(self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.0))
    }

    /// Nanoseconds since the epoch; 0 for an instant before it.
    pub(crate) fn ns(self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.0))
    }
}

/// A duration in milliseconds; what does not fit is as long as can be.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds; what does not fit is as long as can be.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The next number after `roll`, as good as independent of it (splitmix64, Steele et al. 2014).
pub(crate) fn mix(roll: u64) -> u64 {
    let mut z = roll.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The upper half of `roll` as a number below `bound` (Lemire's multiply-shift); 0 where `bound` is 0.
pub(crate) fn below(roll: u64, bound: u64) -> u64 {
    let scaled = u128::from(roll >> 32) * u128::from(bound);
    u64::try_from(scaled >> 32).unwrap_or(0)
}

/// `duration` times `roll`, `roll` taken as a fraction between 0 and 1.
pub(crate) fn fraction(duration: Duration, roll: u64) -> Duration {
    Duration::from_nanos(below(roll, nanos(duration)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{below, fraction, mix};
    use std::time::{Duration, Instant};

    /// An instant to count from; what it is does not matter to any test.
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; tests only add to it")]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn draws_stay_below_their_bound_and_reach_both_ends() {
        for bound in [1, 2, 3, 10_000, u64::from(u32::MAX)] {
            assert_eq!(below(0, bound), 0);
            assert_eq!(below(u64::MAX, bound), bound - 1);
        }
        assert_eq!(below(u64::MAX, 0), 0);
        assert!(fraction(Duration::from_secs(1), u64::MAX) < Duration::from_secs(1));
    }

    #[test]
    fn mixing_spreads_small_numbers() {
        let upper_halves: std::collections::BTreeSet<u64> = (0..1000).map(|n| mix(n) >> 32).collect();
        assert_eq!(upper_halves.len(), 1000);
    }
}
