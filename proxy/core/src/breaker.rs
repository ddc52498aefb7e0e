//! Outlier ejection by failures in a row: closed, ejected until an instant, then one trial request that decides.
//!
//! One atomic word an endpoint, one a set: workers agree, and the share of a set that may be out at once is exact.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weft_model::policy::Ejection;

use crate::ticks::{fraction, millis};

/// How many of a set's endpoints are out.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    ejected: AtomicU32,
    /// How many take traffic at all.
    total: AtomicU32,
}

impl Outliers {
    pub(crate) fn set_total(&self, total: usize) {
        self.total.store(u32::try_from(total).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether so many are out that ejections are worse than what they guard against.
    pub(crate) fn panics(&self, panic_percent: u8) -> bool {
        let total = u64::from(self.total.load(Ordering::Relaxed));
        let ejected = u64::from(self.ejected.load(Ordering::Relaxed));
        total.saturating_sub(ejected) * 100 < u64::from(panic_percent) * total
    }

    pub(crate) fn ejected(&self) -> u32 {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Takes a place among the ejected, if the set can spare one more.
    fn try_eject(&self, max_percent: u8) -> bool {
        let most = u64::from(max_percent) * u64::from(self.total.load(Ordering::Relaxed));
        let eject = |ejected: u32| ((u64::from(ejected) + 1) * 100 <= most).then(|| ejected + 1);
        self.ejected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, eject).is_ok()
    }

    fn restore(&self) {
        self.ejected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may.
    Closed,
    /// One may try: [`Breaker::claim_trial`].
    Due,
    /// It may not.
    Ejected,
}

/// The state of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Breaker(AtomicU64);

impl Breaker {
    pub(crate) fn admission(&self, now_ms: u64) -> Admission {
        let state = State::unpack(self.0.load(Ordering::Relaxed));
        match state.phase {
            Phase::Closed => Admission::Closed,
            Phase::Ejected if now_ms >= state.until_ms => Admission::Due,
            Phase::Ejected | Phase::Retired | Phase::Trial => Admission::Ejected,
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        matches!(State::unpack(self.0.load(Ordering::Relaxed)).phase, Phase::Ejected | Phase::Trial)
    }

    /// Claims the one trial; of many that ask, one gets it.
    pub(crate) fn claim_trial(&self, now_ms: u64) -> bool {
        let due = |state: &State| state.phase == Phase::Ejected && now_ms >= state.until_ms;
        self.update(|state| due(&state).then_some(State { phase: Phase::Trial, ..state })).is_some()
    }

    /// Gives the trial back without a result; the next request may claim it.
    pub(crate) fn abandon_trial(&self) {
        self.update(|state| (state.phase == Phase::Trial).then_some(State { phase: Phase::Ejected, ..state }));
    }

    pub(crate) fn on_success(&self, trial: bool, outliers: &Outliers) {
        let before = self.update(|state| match state.phase {
            Phase::Closed if state.failures > 0 => Some(State::default()),
            Phase::Trial if trial => Some(State::default()),
            // The answer to a request from before the ejection, or in panic: only the trial decides.
            Phase::Closed | Phase::Ejected | Phase::Retired | Phase::Trial => None,
        });
        if before.is_some_and(|state| state.phase == Phase::Trial) {
            outliers.restore();
        }
    }

    /// `true`: this failure ejected it, for the first time or again.
    pub(crate) fn on_failure(
        &self,
        trial: bool,
        ejection: &Ejection,
        outliers: &Outliers,
        now_ms: u64,
        roll: u64,
    ) -> bool {
        let until_ms = |again: u8| now_ms.saturating_add(millis(length(ejection, again, roll)));
        let counted = self.update(|state| match state.phase {
            Phase::Closed => Some(State { failures: state.failures.saturating_add(1), ..state }),
            Phase::Trial if trial => {
                let again = state.again.saturating_add(1);
                Some(State { phase: Phase::Ejected, again, until_ms: until_ms(again), ..state })
            }
            Phase::Ejected | Phase::Retired | Phase::Trial => None,
        });
        let reached = |state: State| {
            state.phase == Phase::Closed && u32::from(state.failures.saturating_add(1)) >= ejection.consecutive_failures
        };
        if counted.is_some_and(|state| state.phase == Phase::Trial) {
            return true;
        }
        if !counted.is_some_and(reached) || !outliers.try_eject(ejection.max_ejected_percent) {
            return false;
        }
        // The place is taken; give it back if somebody else closed, ejected or retired the endpoint meanwhile.
        let still_failing =
            |state: State| state.phase == Phase::Closed && u32::from(state.failures) >= ejection.consecutive_failures;
        let ejected = State { phase: Phase::Ejected, failures: 0, again: 0, until_ms: until_ms(0) };
        let done = self.update(|state| still_failing(state).then_some(ejected)).is_some();
        if !done {
            outliers.restore();
        }
        done
    }

    /// The endpoint is withdrawn: it leaves the count, and nothing changes any more.
    pub(crate) fn retire(&self, outliers: &Outliers) {
        let retired = State { phase: Phase::Retired, ..State::default() };
        let before = State::unpack(self.0.swap(retired.pack(), Ordering::Relaxed));
        if matches!(before.phase, Phase::Ejected | Phase::Trial) {
            outliers.restore();
        }
    }

    /// Changes the state in one step; the state before, or `None` where `change` declined.
    fn update(&self, change: impl Fn(State) -> Option<State>) -> Option<State> {
        let pack = |word| change(State::unpack(word)).map(State::pack);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pack).ok().map(State::unpack)
    }
}

/// How long the ejection lasts that follows `again` others in a row: the base doubled each time, up to half of it
/// added, so that proxies do not all try at the same moment. Never more than the maximum: there it is spread downwards.
fn length(ejection: &Ejection, again: u8, roll: u64) -> Duration {
    let doubled = ejection.base.saturating_mul(1 << again.min(20));
    let spread = doubled.saturating_add(fraction(doubled / 2, roll));
    if spread <= ejection.max { spread } else { ejection.max - fraction(ejection.max / 3, roll) }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Ejected,
    /// Withdrawn by discovery.
    Retired,
    /// Ejected, with its one request under way.
    Trial,
}

/// What the word holds: 2 bits of phase, 6 of `again`, 16 of failures, 40 of milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    phase: Phase,
    /// How many ejections in a row came before this one.
    again: u8,
    /// Failures in a row while closed.
    failures: u16,
    until_ms: u64,
}

const AGAIN_MAX: u8 = (1 << 6) - 1;
const UNTIL_MAX: u64 = (1 << 40) - 1;

impl State {
    fn pack(self) -> u64 {
        let phase: u64 = match self.phase {
            Phase::Closed => 0,
            Phase::Ejected => 1,
            Phase::Retired => 2,
            Phase::Trial => 3,
        };
        phase
            | u64::from(self.again.min(AGAIN_MAX)) << 2
            | u64::from(self.failures) << 8
            | self.until_ms.min(UNTIL_MAX) << 24
    }

    fn unpack(word: u64) -> Self {
        let [low, failures_low, failures_high, ..] = word.to_le_bytes();
        Self {
            phase: match low & 3 {
                0 => Phase::Closed,
                1 => Phase::Ejected,
                2 => Phase::Retired,
                _ => Phase::Trial,
            },
            again: low >> 2,
            failures: u16::from_le_bytes([failures_low, failures_high]),
            until_ms: word >> 24,
        }
    }
}

#[cfg(test)]
mod tests;
