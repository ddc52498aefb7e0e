use std::sync::Arc;
use std::time::Duration;

use weft_model::policy::{BackendPolicy, Ejection};

use super::Endpoint;
use crate::classify::Class;
use crate::snapshot::EndpointSet;
use crate::snapshot::tests::spec;
use crate::ticks::tests::start;

const MS: Duration = Duration::from_millis(1);

fn endpoint(policy: BackendPolicy) -> Arc<Endpoint> {
    Arc::clone(&EndpointSet::single(spec(1), policy, start()).endpoints()[0])
}

fn near(a: Duration, b: Duration) -> bool {
    a.abs_diff(b) < b / 100
}

#[test]
fn a_request_counts_until_it_is_dropped() {
    let endpoint = endpoint(BackendPolicy::default());
    let one = endpoint.begin(start());
    let other = endpoint.begin(start());
    assert_eq!(endpoint.in_flight(), 2);
    drop(one);
    assert_eq!(endpoint.in_flight(), 1);
    drop(other);
    assert_eq!(endpoint.in_flight(), 0);
}

#[test]
fn latency_is_measured_once_to_the_first_byte() {
    let now = start();
    let endpoint = endpoint(BackendPolicy::default());
    let mut request = endpoint.begin(now);
    request.sent(now + 400 * MS);
    request.first_byte(Class::Success, now + 500 * MS);
    request.first_byte(Class::Success, now + 900 * MS);
    request.report(Class::Failure, now + 900 * MS, 0);
    assert!(near(endpoint.latency(now + 500 * MS), 100 * MS), "{:?}", endpoint.latency(now + 500 * MS));
}

#[test]
fn a_cancelled_request_leaves_the_latency_alone() {
    let now = start();
    let endpoint = endpoint(BackendPolicy::default());
    let request = endpoint.begin(now);
    let before = endpoint.latency(now);
    drop(request);
    assert_eq!(endpoint.latency(now), before);
}

#[test]
fn an_endpoint_that_owes_answers_is_as_slow_as_it_is_silent() {
    let now = start();
    let endpoint = endpoint(BackendPolicy::default());
    let [mut one, mut other] = [endpoint.begin(now), endpoint.begin(now)];
    one.sent(now);
    other.sent(now + 1000 * MS);
    assert!(near(endpoint.latency(now + 5000 * MS), 5000 * MS));
    // One answer shows that it is alive.
    one.first_byte(Class::Success, now + 5000 * MS);
    let peak = endpoint.latency(now + 5000 * MS);
    assert!(near(peak, 5000 * MS), "{peak:?}");
    assert!(endpoint.latency(now + 6000 * MS) < peak);
    assert!(near(endpoint.latency(now + 15_000 * MS), 10_000 * MS));
    other.first_byte(Class::Success, now + 15_000 * MS);
    drop((one, other));
    assert!(endpoint.latency(now + 30_000 * MS) < 5000 * MS, "nothing is owed any more");
}

#[test]
fn a_client_that_gives_up_tells_how_long_it_waited_and_no_more() {
    let now = start();
    let endpoint = endpoint(BackendPolicy::default());
    let mut request = endpoint.begin(now);
    request.sent(now);
    request.give_up(now + 5000 * MS);
    drop(request);
    assert!(near(endpoint.latency(now + 5000 * MS), 5000 * MS));
    // It is forgotten, so that the endpoint is tried again.
    assert!(endpoint.latency(now + 100_000 * MS) < MS);
    let mut quick = endpoint.begin(now);
    quick.sent(now);
    let before = endpoint.latency(now + 100_000 * MS);
    quick.first_byte(Class::Success, now);
    quick.give_up(now + 100_000 * MS);
    assert!(endpoint.latency(now + 100_000 * MS) <= before);
}

#[test]
fn a_failure_never_makes_an_endpoint_look_faster() {
    let now = start();
    let endpoint = endpoint(BackendPolicy::default());
    let before = endpoint.latency(now);
    let mut at_once = endpoint.begin(now);
    at_once.first_byte(Class::Failure, now);
    at_once.report(Class::Failure, now, 0);
    assert_eq!(endpoint.latency(now), before);
    let mut slow = endpoint.begin(now);
    slow.report(Class::Failure, now + 700 * MS, 0);
    assert!(near(endpoint.latency(now + 700 * MS), 700 * MS));
}

#[test]
fn a_report_counts_once() {
    let ejection = Ejection { consecutive_failures: 2, max_ejected_percent: 100, ..Ejection::default() };
    let endpoint = endpoint(BackendPolicy { ejection: Some(ejection), ..BackendPolicy::default() });
    let mut request = endpoint.begin(start());
    for _ in 0..3 {
        request.report(Class::Failure, start(), 0);
    }
    assert!(!endpoint.is_ejected());
    endpoint.begin(start()).report(Class::Failure, start(), 0);
    assert!(endpoint.is_ejected());
}

#[test]
fn threads_agree_on_what_is_in_flight() {
    let endpoint = endpoint(BackendPolicy::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| endpoint.begin(start()).report(Class::Success, start(), 0)));
        }
    });
    assert_eq!(endpoint.in_flight(), 0);
}
