use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use proptest::prelude::*;
use weft_model::policy::{RetryBudget, RetryPolicy};

use super::{Attempt, Budget, Decision, Outcome, Replay, StopCause, UNPROCESSED_RETRIES_MAX, backoff, may_retry};
use crate::ticks::tests::start;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> RetryPolicy {
    RetryPolicy {
        status_codes: vec![502, 503],
        grpc_codes: vec![14],
        on_reset: true,
        attempts: 2,
        backoff: Duration::from_millis(10),
        non_idempotent: false,
    }
}

#[test]
fn the_table() {
    use Outcome::{Grpc, Reset, ReusedClosed, TimedOut, Unprocessed};
    use StopCause::{Method as NotIdempotent, Outcome as NotAsked};
    let status = |code| Outcome::Status(StatusCode::from_u16(code).unwrap());
    let (none, asks) = (None, Some(policy()));
    let all = Some(RetryPolicy { non_idempotent: true, ..policy() });
    let quiet = Some(RetryPolicy { on_reset: false, ..policy() });
    let cases: &[(Outcome, Method, &Option<RetryPolicy>, Option<StopCause>)] = &[
        (Unprocessed, Method::POST, &none, None),
        (Unprocessed, Method::GET, &quiet, None),
        (ReusedClosed, Method::GET, &none, None),
        (ReusedClosed, Method::PUT, &quiet, None),
        (ReusedClosed, Method::POST, &none, Some(NotIdempotent)),
        (ReusedClosed, Method::POST, &all, None),
        (Reset, Method::GET, &none, Some(NotAsked)),
        (Reset, Method::GET, &asks, None),
        (Reset, Method::GET, &quiet, Some(NotAsked)),
        (Reset, Method::POST, &asks, Some(NotIdempotent)),
        (Reset, Method::PATCH, &all, None),
        (TimedOut, Method::DELETE, &asks, None),
        (TimedOut, Method::DELETE, &none, Some(NotAsked)),
        (status(503), Method::GET, &none, Some(NotAsked)),
        (status(503), Method::GET, &asks, None),
        (status(500), Method::GET, &asks, Some(NotAsked)),
        (status(503), Method::POST, &asks, Some(NotIdempotent)),
        (status(503), Method::POST, &all, None),
        (Grpc(14), Method::POST, &asks, Some(NotIdempotent)),
        (Grpc(14), Method::POST, &all, None),
        (Grpc(13), Method::POST, &all, Some(NotAsked)),
    ];
    for (outcome, method, policy, stop) in cases {
        let attempt = Attempt { outcome: *outcome, method, policy: policy.as_ref(), retries: 0, replay: Replay::Whole };
        match (may_retry(&attempt, 0), stop) {
            (Decision::Retry { .. }, None) => {}
            (Decision::Stop(cause), Some(want)) if cause == *want => {}
            (got, want) => panic!("{attempt:?}: {got:?}, not {want:?}"),
        }
        let lost = Attempt { replay: Replay::Lost, ..attempt };
        assert_eq!(may_retry(&lost, 0), Decision::Stop(stop.unwrap_or(StopCause::Body)), "{lost:?}");
        let often = Attempt { retries: 10, ..attempt };
        assert_eq!(may_retry(&often, 0), Decision::Stop(stop.unwrap_or(StopCause::Attempts)), "{often:?}");
    }
}

#[test]
fn attempts_and_pauses() {
    let asks = policy();
    let after = |outcome, policy: Option<&RetryPolicy>, retries| {
        may_retry(&Attempt { outcome, method: &Method::GET, policy, retries, replay: Replay::Whole }, 0)
    };
    let ms = |ms| Decision::Retry { after: Duration::from_millis(ms) };
    let status = Outcome::Status(StatusCode::BAD_GATEWAY);
    assert_eq!([0, 1, 2].map(|n| after(status, Some(&asks), n)), [ms(10), ms(20), Decision::Stop(StopCause::Attempts)]);
    let unprocessed: Vec<_> = (0..=UNPROCESSED_RETRIES_MAX).map(|n| after(Outcome::Unprocessed, None, n)).collect();
    assert_eq!(unprocessed, [ms(0), ms(50), ms(100), Decision::Stop(StopCause::Attempts)]);
    assert_eq!(after(Outcome::Unprocessed, Some(&RetryPolicy { attempts: 9, ..asks }), 8), ms(50));
}

#[test]
fn the_budget_is_a_share_of_requests_and_a_floor() {
    let now = start();
    let limits = RetryBudget { percent: 20, min_per_second: 1 };
    let budget = Budget::new(now);
    let spend = |at| (0..1000).filter(|_| budget.withdraw(&limits, at)).count();
    assert_eq!(spend(now), 10, "the floor");
    (0..500).for_each(|_| budget.deposit(now + SECOND));
    assert_eq!(spend(now + SECOND), 100, "20 % of 500 more");
    assert_eq!(spend(now + 9 * SECOND), 0);
    assert_eq!(spend(now + 10 * SECOND), 10, "what the first second spent is past");
    assert_eq!(spend(now + 100 * SECOND), 10, "requests are past, too");
    assert!(!Budget::new(now).withdraw(&RetryBudget { percent: 0, min_per_second: 0 }, now));
}

#[test]
fn one_thread_and_four_get_the_same_number_of_retries() {
    let now = start();
    for threads in [1, 4] {
        let budget = Budget::new(now);
        let given = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..4000 / threads).for_each(|_| budget.deposit(now)));
            }
        });
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let got = (0..2000).filter(|_| budget.withdraw(&RetryBudget::default(), now)).count();
                    given.fetch_add(u32::try_from(got).unwrap(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(given.into_inner(), 4000 / 5 + 100);
    }
}

proptest! {
    #[test]
    fn a_pause_stays_within_its_bounds(base_ms in 0u64..10_000, retries in 0u32..100, roll: u64) {
        let base = Duration::from_millis(base_ms);
        let pause = backoff(base, retries, roll);
        prop_assert!(pause >= base && pause <= base * 10);
    }

    #[test]
    fn retries_never_exceed_their_share(steps in proptest::collection::vec((0u64..3000, 0u32..50, 0u32..50), 0..60)) {
        let origin = start();
        let limits = RetryBudget { percent: 30, min_per_second: 1 };
        let budget = Budget::new(origin);
        let (mut now_ms, mut log) = (0, Vec::new());
        for (later, requests, retries) in steps {
            now_ms += later;
            let now = origin + Duration::from_millis(now_ms);
            (0..requests).for_each(|_| budget.deposit(now));
            let given = (0..retries).filter(|_| budget.withdraw(&limits, now)).count() as u64;
            log.push((now_ms / 1000, u64::from(requests), given));
            let window = |of: fn(&(u64, u64, u64)) -> u64| -> u64 {
                log.iter().filter(|entry| entry.0 + 10 > now_ms / 1000).map(of).sum()
            };
            prop_assert!(given == 0 || window(|entry| entry.2) <= window(|entry| entry.1) * 30 / 100 + 10);
        }
    }
}
