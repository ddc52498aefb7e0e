//! When to renew and when to try again: arithmetic, with the die thrown by the caller.

use std::time::Duration;

/// When a certificate is renewed, as a share of its life (semantics 36).
const RENEW_AT: f64 = 0.7;

/// So far around it, either way: proxies that were started together do not renew together.
const RENEW_JITTER: f64 = 0.05;

/// The pause after the first failure; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(500);

/// The longest pause: a control plane that was away is asked again within this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The shortest, however little is left.
const RETRY_FLOOR: Duration = Duration::from_millis(200);

/// How long after it came a certificate that is valid for `life` is renewed. `roll` is in 0.0..1.0.
pub(super) fn renewal(life: Duration, roll: f64) -> Duration {
    let share = RENEW_AT + RENEW_JITTER * (2.0 * roll.clamp(0.0, 1.0) - 1.0);
    // Never sooner: whatever came, asking in a loop makes it worse.
    let soonest = Duration::from_secs(10).min(life.mul_f64(0.3)).max(RETRY_FLOOR);
    life.mul_f64(share).max(soonest)
}

/// How long after a failure the next attempt is made, with `left` of the certificate in force (zero where there is none).
/// It doubles with each failure, but while something is left at most a quarter of it is given away at once, so that the
/// attempts become more frequent towards the end. Between a half and the whole of that, by `roll` in 0.0..1.0.
pub(super) fn retry(failures: u32, left: Duration, roll: f64) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(RETRY_MAX);
    let bounded = if left.is_zero() { doubled } else { doubled.min(left / 4) };
    bounded.mul_f64(0.5 + 0.5 * roll.clamp(0.0, 1.0)).max(RETRY_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::{renewal, retry};
    use std::time::Duration;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn renewal_is_at_seventy_percent_give_or_take_five() {
        for (life_ms, roll, wanted_ms) in [
            (86_400_000, 0.5, 60_480_000),
            (86_400_000, 0.0, 56_160_000),
            (86_400_000, 1.0, 64_800_000),
            (10_000, 0.5, 7_000),
            (10_000, 0.0, 6_500),
            (1_000, 0.0, 650),
            // Something that expires at once is not asked for in a loop.
            (0, 0.0, 200),
            (100, 1.0, 200),
        ] {
            let delay = renewal(ms(life_ms), roll);
            let off = delay.abs_diff(ms(wanted_ms));
            assert!(off < ms(2), "{life_ms} {roll}: {delay:?}");
        }
    }

    #[test]
    fn renewal_is_never_sooner_than_the_floor_nor_after_the_end() {
        for life_s in [1_u64, 5, 10, 30, 60, 3_600, 86_400] {
            for roll in [0.0, 0.3, 1.0, 7.0, -7.0] {
                let (life, delay) = (Duration::from_secs(life_s), renewal(Duration::from_secs(life_s), roll));
                assert!(delay >= Duration::from_secs(10).min(life.mul_f64(0.3)) && delay < life, "{life_s} {roll}");
            }
        }
    }

    #[test]
    fn retries_slow_down_but_hurry_towards_the_end() {
        for (failures, left_ms, roll, wanted_ms) in [
            (0, 0, 1.0, 500),
            (0, 0, 0.0, 250),
            (1, 0, 1.0, 1_000),
            (3, 0, 1.0, 4_000),
            (6, 0, 1.0, 30_000),
            (40, 0, 1.0, 30_000),
            (u32::MAX, 0, 0.0, 15_000),
            (6, 3_600_000, 1.0, 30_000),
            (6, 40_000, 1.0, 10_000),
            (6, 3_000, 1.0, 750),
            (6, 100, 1.0, 200),
            (6, 1, 0.0, 200),
        ] {
            let delay = retry(failures, ms(left_ms), roll);
            assert_eq!(delay, ms(wanted_ms), "{failures} {left_ms} {roll}");
        }
    }
}
