//! Latency as balancing sees it: a peak counts at once and is forgotten slowly ("peak EWMA", as Finagle's).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ticks::millis;

/// The lowest latency that is reckoned with: cost must never become zero, or requests in flight would not count.
const FLOOR_S: f32 = 1e-6;

/// One word: the value in seconds (upper half, `f32`), and when it was set, in milliseconds modulo 2^32. An endpoint
/// that rests for 49 days looks fresh once.
#[derive(Debug)]
pub(crate) struct Ewma(AtomicU64);

impl Ewma {
    pub(crate) fn new(latency: Duration) -> Self {
        Self(AtomicU64::new(pack(latency.as_secs_f32(), 0)))
    }

    /// The value at `now_ms`, in seconds: without news it decays, so that a slow endpoint is tried again.
    pub(crate) fn read(&self, decay: Duration, now_ms: u64) -> f32 {
        decayed(self.0.load(Ordering::Relaxed), decay, now_ms).0
    }

    /// A response came after `latency`.
    pub(crate) fn observe(&self, latency: Duration, decay: Duration, now_ms: u64) {
        let latency = latency.as_secs_f32();
        self.update(now_ms, |word| {
            let (value, kept) = decayed(word, decay, now_ms);
            if latency > value { latency } else { value + latency * (1.0 - kept) }
        });
    }

    /// Something took at least `latency`.
    pub(crate) fn raise(&self, latency: Duration, decay: Duration, now_ms: u64) {
        let latency = latency.as_secs_f32();
        self.update(now_ms, |word| latency.max(decayed(word, decay, now_ms).0));
    }

    fn update(&self, now_ms: u64, next: impl Fn(u64) -> f32) {
        self.0.update(Ordering::Relaxed, Ordering::Relaxed, |word| pack(next(word), now_ms));
    }
}

/// The value of a word now, and which share of it was kept.
fn decayed(word: u64, decay: Duration, now_ms: u64) -> (f32, f32) {
    let value = f32::from_bits(upper(word));
    let age_ms = stamp(now_ms).wrapping_sub(stamp(word));
    // Another worker's clock reading may be a little ahead of ours; its age would wrap to nearly 2^32.
    let age_ms = if age_ms > u32::MAX / 2 { 0 } else { age_ms };
    let kept = (-(age_ms as f32) / millis(decay).max(1) as f32).exp();
    ((value * kept).max(FLOOR_S), kept)
}

fn pack(value: f32, now_ms: u64) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(stamp(now_ms))
}

fn stamp(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn upper(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::Ewma;
    use std::time::Duration;

    const DECAY: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() <= b * 1e-3
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let ewma = Ewma::new(30 * MS);
        assert!(near(ewma.read(DECAY, 0), 0.030));
        ewma.observe(500 * MS, DECAY, 0);
        assert!(near(ewma.read(DECAY, 0), 0.500));
        ewma.observe(MS, DECAY, 0);
        assert!(near(ewma.read(DECAY, 0), 0.500), "an instant has no weight");
        ewma.observe(MS, DECAY, 1_000);
        let kept = (-0.1f32).exp();
        assert!(near(ewma.read(DECAY, 1_000), 0.5 * kept + 0.001 * (1.0 - kept)));
        for second in 2..200 {
            ewma.observe(MS, DECAY, second * 1000);
        }
        assert!(near(ewma.read(DECAY, 199_000), 0.001));
    }

    #[test]
    fn without_news_it_decays_to_a_floor() {
        let ewma = Ewma::new(30 * MS);
        assert!(near(ewma.read(DECAY, 10_000), 0.030 * (-1f32).exp()));
        assert!(ewma.read(DECAY, 100_000_000) > 0.0);
        assert!(ewma.read(Duration::ZERO, 5) > 0.0);
    }

    #[test]
    fn a_clock_that_is_behind_does_no_harm() {
        let ewma = Ewma::new(30 * MS);
        ewma.observe(50 * MS, DECAY, 1000);
        assert!(near(ewma.read(DECAY, 990), 0.050));
    }

    #[test]
    fn raising_never_lowers() {
        let ewma = Ewma::new(30 * MS);
        ewma.raise(MS, DECAY, 0);
        assert!(near(ewma.read(DECAY, 0), 0.030));
        ewma.raise(90 * MS, DECAY, 0);
        assert!(near(ewma.read(DECAY, 0), 0.090));
    }
}
