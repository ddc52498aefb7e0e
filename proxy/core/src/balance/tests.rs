use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use weft_model::endpoint::EndpointSpec;
use weft_model::policy::{BackendPolicy, Ejection};
use weft_model::resources::EndpointsDelta;

use super::{pick, pick_by_client};
use crate::classify::Class;
use crate::endpoint::InFlight;
use crate::snapshot::EndpointSet;
use crate::snapshot::tests::{addr, delta, spec};
use crate::ticks::mix;
use crate::ticks::tests::start;

const MS: Duration = Duration::from_millis(1);

fn set(len: u32, ejection: Option<Ejection>, now: Instant) -> EndpointSet {
    let policy = BackendPolicy { ejection, ..BackendPolicy::default() };
    EndpointSet::build(None, &EndpointsDelta { policy, ..delta((0..len).map(spec).collect()) }, now)
}

fn id(set: &EndpointSet, n: u32) -> u64 {
    set.get(addr(n)).unwrap().id()
}

fn eject(set: &EndpointSet, n: u32, now: Instant) {
    let endpoint = set.get(addr(n)).unwrap();
    (0..7).for_each(|_| endpoint.begin(now).report(Class::Failure, now, 0));
    assert!(endpoint.is_ejected());
}

/// How often each endpoint is picked when every request ends at once.
fn shares(set: &EndpointSet, now: Instant, picks: u64) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    for n in 0..picks {
        let picked = pick(set, now, mix(n), &[]).unwrap();
        *seen.entry(picked.endpoint().id()).or_default() += 1;
    }
    seen
}

#[test]
fn nothing_is_picked_from_nothing() {
    assert!(pick(&set(0, None, start()), start(), 7, &[]).is_none());
    assert!(pick_by_client(&set(0, None, start()), start(), IpAddr::V4(Ipv4Addr::LOCALHOST), &[]).is_none());
}

#[test]
fn equals_share_evenly() {
    let now = start();
    let seen = shares(&set(5, None, now), now, 50_000);
    assert!(seen.len() == 5 && seen.values().all(|&n| n.abs_diff(10_000) < 500), "{seen:?}");
}

#[test]
fn weights_share_at_rest_and_under_load() {
    let now = start();
    let weighted = vec![EndpointSpec { weight: 1, ..spec(0) }, EndpointSpec { weight: 3, ..spec(1) }];
    let set = EndpointSet::build(None, &delta(weighted), now);
    let at_rest = shares(&set, now, 10_000)[&id(&set, 1)];
    assert!(at_rest.abs_diff(7_500) < 300, "{at_rest}");

    let held: Vec<InFlight> = (0..4000).filter_map(|n| pick(&set, now, mix(n), &[])).collect();
    let loaded = held.iter().filter(|picked| picked.endpoint().id() == id(&set, 1)).count();
    assert!(loaded.abs_diff(3_000) < 100, "{loaded}");
}

#[test]
fn load_levels_out() {
    let now = start();
    let set = set(10, None, now);
    let _held: Vec<InFlight> = (0..10_000).filter_map(|n| pick(&set, now, mix(n), &[])).collect();
    for endpoint in set.endpoints() {
        assert!(endpoint.in_flight().abs_diff(1000) < 10, "{endpoint:?}");
    }
}

#[test]
fn the_slow_one_is_avoided_and_tried_again_when_it_has_recovered() {
    let now = start();
    let set = set(2, None, now);
    for (n, latency) in [(0, 10 * MS), (1, 1000 * MS)] {
        set.get(addr(n)).unwrap().begin(now).first_byte(Class::Success, now + latency);
    }
    let soon = now + 1000 * MS;
    assert_eq!(shares(&set, soon, 1000).get(&id(&set, 1)), None);
    for second in 1..100 {
        let at = now + second * 1000 * MS;
        set.get(addr(0)).unwrap().begin(at).first_byte(Class::Success, at + 10 * MS);
    }
    assert!(shares(&set, now + 100_000 * MS, 1000).contains_key(&id(&set, 1)));
}

#[test]
fn what_was_tried_is_left_out_while_there_is_another() {
    let now = start();
    let set = set(3, None, now);
    let (a, b, c) = (id(&set, 0), id(&set, 1), id(&set, 2));
    for roll in (0..500).map(mix) {
        assert_ne!(pick(&set, now, roll, &[a]).unwrap().endpoint().id(), a);
        assert_eq!(pick(&set, now, roll, &[a, c]).unwrap().endpoint().id(), b);
        assert!(pick(&set, now, roll, &[a, b, c]).is_some(), "nothing else is left");
    }
}

#[test]
fn ejected_endpoints_get_no_traffic_but_their_trial() {
    let now = start();
    let set = set(4, Some(Ejection::default()), now);
    eject(&set, 2, now);
    assert_eq!(shares(&set, now, 1000).get(&id(&set, 2)), None);

    let later = now + 1100 * MS;
    let picks: Vec<InFlight> = (0..200).filter_map(|n| pick(&set, later, mix(n), &[])).collect();
    let trials: Vec<&InFlight> = picks.iter().filter(|picked| picked.endpoint().id() == id(&set, 2)).collect();
    assert!(trials.len() == 1 && trials[0].is_trial());
    drop(picks);

    let mut trial = (0..200).filter_map(|n| pick(&set, later, mix(n), &[])).find(InFlight::is_trial).unwrap();
    trial.report(Class::Success, later, 0);
    drop(trial);
    assert!(shares(&set, later, 1000).contains_key(&id(&set, 2)));
    assert_eq!(set.ejected_len(), 0);
}

#[test]
fn a_retry_prefers_a_healthy_endpoint_it_tried_to_an_ejected_one() {
    let now = start();
    let set = set(2, Some(Ejection::default()), now);
    eject(&set, 0, now);
    for roll in (0..100).map(mix) {
        assert_eq!(pick(&set, now, roll, &[id(&set, 1)]).unwrap().endpoint().id(), id(&set, 1));
    }
}

#[test]
fn in_panic_ejections_do_not_count() {
    let now = start();
    let all = Ejection { max_ejected_percent: 100, ..Ejection::default() };
    let panicking = set(4, Some(all), now);
    (0..3).for_each(|n| eject(&panicking, n, now));
    assert!(panicking.panics());
    assert_eq!(shares(&panicking, now, 1000).len(), 4);

    let calm = set(4, Some(Ejection { panic_percent: 0, ..all }), now);
    (0..4).for_each(|n| eject(&calm, n, now));
    assert!(pick(&calm, now, 3, &[]).is_none(), "without panic nothing is left");
}

#[test]
fn a_policy_without_ejection_lets_everybody_back() {
    let now = start();
    let before = set(2, Some(Ejection::default()), now);
    eject(&before, 0, now);
    let after = EndpointSet::build(Some(&before), &delta(Vec::new()), now);
    assert_eq!(shares(&after, now, 1000).len(), 2);
}

#[test]
fn a_client_keeps_its_endpoint() {
    let now = start();
    let before = set(10, Some(Ejection::default()), now);
    let clients: Vec<IpAddr> = (0..2000).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + n))).collect();
    let endpoint = |set: &EndpointSet, client| pick_by_client(set, now, client, &[]).unwrap().endpoint().id();
    let chosen: Vec<u64> = clients.iter().map(|&client| endpoint(&before, client)).collect();
    assert!(clients.iter().zip(&chosen).all(|(&client, &chosen)| endpoint(&before, client) == chosen));
    let mut shares = BTreeMap::<u64, u64>::new();
    chosen.iter().for_each(|id| *shares.entry(*id).or_default() += 1);
    assert!(shares.len() == 10 && shares.values().all(|&n| (100..=300).contains(&n)), "{shares:?}");

    let after =
        EndpointSet::build(Some(&before), &EndpointsDelta { policy: *before.policy(), ..delta(vec![spec(77)]) }, now);
    let moved: Vec<u64> = clients.iter().zip(&chosen).map(|(&client, _)| endpoint(&after, client)).collect();
    let changed = chosen.iter().zip(&moved).filter(|(was, is)| was != is).count();
    assert!(changed < 400, "{changed} of 2000 moved");
    assert!(chosen.iter().zip(&moved).all(|(was, is)| was == is || *is == id(&after, 77)));
}

#[test]
fn a_client_whose_endpoint_is_out_moves_and_comes_back() {
    let now = start();
    let set = set(5, Some(Ejection::default()), now);
    let client = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    let home = pick_by_client(&set, now, client, &[]).unwrap();
    let home_addr = home.endpoint().spec().addr.0;
    let retry = pick_by_client(&set, now, client, &[home.endpoint().id()]).unwrap();
    assert_ne!(retry.endpoint().id(), home.endpoint().id());
    let n = (0..5).find(|&n| addr(n) == home_addr).unwrap();
    eject(&set, n, now);
    let away = pick_by_client(&set, now, client, &[]).unwrap();
    assert_eq!(away.endpoint().id(), retry.endpoint().id());
    let later = now + 1100 * MS;
    assert!(pick_by_client(&set, later, client, &[]).unwrap().is_trial());
}

#[test]
fn one_worker_and_four_share_evenly() {
    let now = start();
    for workers in [1u64, 4] {
        let set = set(4, None, now);
        let held = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let (set, held) = (&set, &held);
                scope.spawn(move || {
                    for n in 0..4000 / workers {
                        let picked = pick(set, now, mix(worker << 32 | n), &[]);
                        held.lock().unwrap().extend(picked);
                    }
                });
            }
        });
        assert_eq!(held.lock().unwrap().len(), 4000);
        for endpoint in set.endpoints() {
            assert!(endpoint.in_flight().abs_diff(1000) < 20, "{workers}: {endpoint:?}");
        }
    }
}
