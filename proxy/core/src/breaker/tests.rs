use std::time::Duration;

use proptest::prelude::*;
use weft_model::policy::Ejection;

use super::{AGAIN_MAX, Admission, Breaker, Outliers, Phase, State, UNTIL_MAX, length};

const SECOND_MS: u64 = 1000;

fn set(total: usize) -> Outliers {
    let outliers = Outliers::default();
    outliers.set_total(total);
    outliers
}

fn fail(breaker: &Breaker, outliers: &Outliers, times: u32, now_ms: u64) {
    for _ in 0..times {
        breaker.on_failure(false, &Ejection::default(), outliers, now_ms, 0);
    }
}

#[test]
fn seven_failures_in_a_row_eject() {
    let (breaker, outliers) = (Breaker::default(), set(2));
    fail(&breaker, &outliers, 6, 0);
    breaker.on_success(false, &outliers);
    fail(&breaker, &outliers, 6, 0);
    assert_eq!(breaker.admission(0), Admission::Closed);
    fail(&breaker, &outliers, 1, 0);
    assert_eq!((breaker.admission(0), outliers.ejected()), (Admission::Ejected, 1));
    assert_eq!(breaker.admission(SECOND_MS - 1), Admission::Ejected);
    assert_eq!(breaker.admission(SECOND_MS), Admission::Due);
}

#[test]
fn one_trial_decides() {
    let (breaker, outliers) = (Breaker::default(), set(2));
    fail(&breaker, &outliers, 7, 0);
    assert!(!breaker.claim_trial(SECOND_MS - 1));
    assert!(breaker.claim_trial(SECOND_MS));
    assert!(!breaker.claim_trial(SECOND_MS), "only one");
    assert_eq!(breaker.admission(SECOND_MS), Admission::Ejected);
    breaker.on_success(false, &outliers);
    assert!(breaker.is_ejected(), "an answer from before the ejection decides nothing");

    breaker.on_failure(true, &Ejection::default(), &outliers, SECOND_MS, 0);
    assert_eq!(breaker.admission(3 * SECOND_MS - 1), Admission::Ejected, "twice as long");
    assert!(breaker.claim_trial(3 * SECOND_MS));
    breaker.on_success(true, &outliers);
    assert_eq!((breaker.admission(3 * SECOND_MS), outliers.ejected()), (Admission::Closed, 0));

    fail(&breaker, &outliers, 7, 10 * SECOND_MS);
    assert_eq!(breaker.admission(11 * SECOND_MS), Admission::Due, "after a success it begins anew");
}

#[test]
fn an_abandoned_trial_can_be_claimed_again() {
    let (breaker, outliers) = (Breaker::default(), set(2));
    fail(&breaker, &outliers, 7, 0);
    assert!(breaker.claim_trial(SECOND_MS));
    breaker.abandon_trial();
    assert!(breaker.claim_trial(SECOND_MS));
    assert_eq!(outliers.ejected(), 1);
}

#[test]
fn at_most_half_of_a_set_is_out() {
    for (total, out) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
        let outliers = set(total);
        let breakers: Vec<Breaker> = (0..total).map(|_| Breaker::default()).collect();
        breakers.iter().for_each(|breaker| fail(breaker, &outliers, 20, 0));
        assert_eq!(usize::try_from(outliers.ejected()).unwrap(), out, "of {total}");
        assert_eq!(breakers.iter().filter(|breaker| breaker.is_ejected()).count(), out);
    }
}

#[test]
fn fewer_than_half_healthy_is_panic() {
    let outliers = set(4);
    for _ in 0..2 {
        assert!(outliers.try_eject(50));
    }
    assert!(!outliers.panics(50), "exactly half is not below half");
    outliers.set_total(3);
    assert!(outliers.panics(50));
    assert!(!outliers.panics(0));
    outliers.set_total(0);
    assert!(!outliers.panics(50));
}

#[test]
fn the_length_doubles_is_spread_and_has_a_limit() {
    let ejection = Ejection::default();
    let seconds = Duration::from_secs;
    assert_eq!(length(&ejection, 0, 0), seconds(1));
    assert_eq!(length(&ejection, 3, 0), seconds(8));
    assert!(length(&ejection, 0, u64::MAX) > Duration::from_millis(1499));
    assert_eq!(length(&ejection, 6, 0), seconds(60));
    assert_eq!(length(&ejection, u8::MAX, 0), seconds(60));
    assert!(length(&ejection, 6, u64::MAX) < seconds(41));
}

#[test]
fn what_is_withdrawn_is_never_ejected() {
    let (breaker, outliers) = (Breaker::default(), set(2));
    fail(&breaker, &outliers, 7, 0);
    breaker.retire(&outliers);
    breaker.retire(&outliers);
    fail(&breaker, &outliers, 20, 0);
    breaker.on_success(false, &outliers);
    assert_eq!((outliers.ejected(), breaker.is_ejected()), (0, false));
}

#[test]
fn threads_claim_one_trial_and_eject_no_more_than_may_be() {
    for _ in 0..50 {
        let outliers = set(8);
        let breakers: Vec<Breaker> = (0..8).map(|_| Breaker::default()).collect();
        let trials = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    breakers.iter().for_each(|breaker| fail(breaker, &outliers, 20, 0));
                    let claimed = breakers.iter().filter(|breaker| breaker.claim_trial(2 * SECOND_MS)).count();
                    trials.fetch_add(u32::try_from(claimed).unwrap(), std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
        assert_eq!((outliers.ejected(), trials.into_inner()), (4, 4));
        assert_eq!(breakers.iter().filter(|breaker| breaker.is_ejected()).count(), 4);
        std::thread::scope(|scope| {
            for trial in [true, true, false, false] {
                let (breakers, outliers) = (&breakers, &outliers);
                scope.spawn(move || breakers.iter().for_each(|breaker| breaker.on_success(trial, outliers)));
            }
        });
        assert_eq!(outliers.ejected(), 0);
    }
}

proptest! {
    #[test]
    fn the_word_holds_the_state(phase in 0u8..4, again: u8, failures: u16, until_ms: u64) {
        let phase = [Phase::Closed, Phase::Ejected, Phase::Retired, Phase::Trial][usize::from(phase)];
        let read = State::unpack(State { phase, again, failures, until_ms }.pack());
        prop_assert_eq!(read, State { phase, again: again.min(AGAIN_MAX), failures, until_ms: until_ms.min(UNTIL_MAX) });
    }

    /// Whatever happens, the set's count is the number of endpoints that are out.
    #[test]
    fn the_count_is_exact(events in proptest::collection::vec((0usize..4, 0u8..6, 0u64..5000), 0..200)) {
        let outliers = set(4);
        let ejection = Ejection { consecutive_failures: 2, ..Ejection::default() };
        let breakers: Vec<Breaker> = (0..4).map(|_| Breaker::default()).collect();
        let mut now_ms = 0;
        for (at, event, later) in events {
            now_ms += later;
            let breaker = &breakers[at];
            match event {
                0 | 1 => {
                    breaker.on_failure(false, &ejection, &outliers, now_ms, 0);
                }
                2 => breaker.on_success(false, &outliers),
                3 => drop(breaker.claim_trial(now_ms).then(|| breaker.on_success(true, &outliers))),
                4 => {
                    breaker.claim_trial(now_ms).then(|| breaker.on_failure(true, &ejection, &outliers, now_ms, 0));
                }
                _ => drop(breaker.claim_trial(now_ms).then(|| breaker.abandon_trial())),
            }
            let out = breakers.iter().filter(|breaker| breaker.is_ejected()).count();
            prop_assert_eq!(usize::try_from(outliers.ejected()).unwrap(), out);
            prop_assert!(out <= 2);
        }
    }
}
