//! The wall clock: what certificates and log lines are dated by. It may jump; durations are measured with
//! `tokio::time::Instant` instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the date. Cheap to clone; clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct WallClock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    Manual(ManualClock),
    #[default]
    System,
}

/// Moves a [`WallClock`] by hand.
#[derive(Clone, Debug)]
pub struct ManualClock {
    /// Nanoseconds since 1970; enough until 2554.
    unix_ns: Arc<AtomicU64>,
}

impl WallClock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until it is moved; for tests.
    pub fn manual(at: SystemTime) -> (Self, ManualClock) {
        let clock = ManualClock { unix_ns: Arc::default() };
        clock.set(at);
        (Self(Source::Manual(clock.clone())), clock)
    }

    /// The date.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::Manual(clock) => UNIX_EPOCH + Duration::from_nanos(clock.unix_ns.load(Ordering::Acquire)),
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
            Source::System => SystemTime::now(),
        }
    }

    /// Time since 1970; zero where the clock is set before that.
    pub fn unix(&self) -> Duration {
        self.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Whole seconds since 1970.
    pub fn unix_seconds(&self) -> u64 {
        self.unix().as_secs()
    }
}

impl ManualClock {
    /// Sets the date.
    pub fn set(&self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.unix_ns.store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Moves the date forward.
    pub fn advance(&self, by: Duration) {
        self.unix_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::WallClock;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let (clock, hand) = WallClock::manual(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        assert_eq!(clock.unix_seconds(), 1_800_000_000);
        hand.advance(Duration::from_millis(1_500));
        assert_eq!(clock.clone().unix(), Duration::from_millis(1_800_000_001_500));
        hand.set(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(clock.unix_seconds(), 0);
    }

    #[test]
    fn the_system_clock_is_past_the_writing_of_this() {
        assert!(WallClock::system().unix_seconds() > 1_700_000_000);
    }
}
