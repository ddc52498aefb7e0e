use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use weft_model::addr::EndpointAddr;
use weft_model::endpoint::{EndpointSpec, Health, WorkloadName};
use weft_model::identity::{SpiffeId, TrustDomain};
use weft_model::policy::{BackendPolicy, Ejection};
use weft_model::resources::EndpointsDelta;

use super::{EndpointSet, View};
use crate::balance::pick;
use crate::classify::Class;
use crate::ticks::tests::start;

pub(crate) fn addr(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 8080)
}

pub(crate) fn spec(n: u32) -> EndpointSpec {
    EndpointSpec {
        addr: EndpointAddr(addr(n)),
        identity: None,
        workload: None,
        zone: None,
        weight: 1,
        health: Health::Ready,
    }
}

pub(crate) fn delta(upserted: Vec<EndpointSpec>) -> EndpointsDelta {
    EndpointsDelta { reset: false, upserted, removed: Vec::new(), policy: BackendPolicy::default() }
}

fn id_of(set: &EndpointSet, n: u32) -> Option<u64> {
    set.get(addr(n)).map(|endpoint| endpoint.id())
}

#[test]
fn what_stays_keeps_its_counters_through_every_change() {
    let now = start();
    let first = EndpointSet::build(None, &delta(vec![spec(1), spec(2)]), now);
    let request = first.get(addr(1)).unwrap().begin(now);
    let heavier = EndpointSpec { weight: 9, health: Health::ServingTerminating, ..spec(1) };
    let mut change = delta(vec![heavier.clone(), spec(3)]);
    change.policy.ejection = Some(Ejection::default());
    let second = EndpointSet::build(Some(&first), &change, now);

    let endpoint = second.get(addr(1)).unwrap();
    assert_eq!((endpoint.spec(), endpoint.policy()), (&heavier, &change.policy));
    assert_eq!((endpoint.in_flight(), Some(endpoint.id())), (1, id_of(&first, 1)));
    assert_eq!(id_of(&second, 2), id_of(&first, 2));
    assert_eq!(second.get(addr(2)).unwrap().policy(), &change.policy);
    drop(request);
    assert_eq!(endpoint.in_flight(), 0, "a request from before counts down in the new set");
    assert!(!endpoint.is_gone());
}

#[test]
fn an_unchanged_endpoint_is_the_same_allocation() {
    let first = EndpointSet::build(None, &delta(vec![spec(1)]), start());
    let second = EndpointSet::build(Some(&first), &delta(vec![spec(1), spec(2)]), start());
    assert!(Arc::ptr_eq(&first.endpoints()[0], &second.endpoints()[0]));
}

#[test]
fn another_identity_or_workload_is_another_endpoint() {
    let first = EndpointSet::build(None, &delta(vec![spec(1), spec(2)]), start());
    let identity = SpiffeId::new(&TrustDomain::default(), "shop", "order").unwrap();
    let other = EndpointSpec { identity: Some(identity), ..spec(1) };
    let replaced = EndpointSpec { workload: Some(WorkloadName::new("shop", "order-2")), ..spec(2) };
    let second = EndpointSet::build(Some(&first), &delta(vec![other, replaced]), start());
    for n in [1, 2] {
        assert_ne!(id_of(&first, n), id_of(&second, n));
        assert!(first.get(addr(n)).unwrap().is_gone());
        assert!(!second.get(addr(n)).unwrap().is_gone());
    }
}

#[test]
fn what_is_removed_is_gone() {
    let first = EndpointSet::build(None, &delta(vec![spec(1), spec(2), spec(3)]), start());
    let removal = EndpointsDelta { removed: vec![addr(1), addr(99)], ..delta(Vec::new()) };
    let second = EndpointSet::build(Some(&first), &removal, start());
    assert_eq!(second.len(), 2);
    assert!(first.get(addr(1)).unwrap().is_gone());

    let reset = EndpointsDelta { reset: true, ..delta(vec![spec(3)]) };
    let third = EndpointSet::build(Some(&second), &reset, start());
    assert_eq!(third.len(), 1);
    assert!(first.get(addr(2)).unwrap().is_gone());
    assert_eq!(id_of(&third, 3), id_of(&first, 3));
}

#[test]
fn terminating_endpoints_serve_only_where_none_is_ready() {
    let ending = |n| EndpointSpec { health: Health::ServingTerminating, ..spec(n) };
    let mixed = EndpointSet::build(None, &delta(vec![spec(1), ending(2)]), start());
    assert_eq!((mixed.len(), mixed.active_len()), (2, 1));
    assert_eq!(View::from(&mixed).active(0).unwrap().spec().addr.0, addr(1));
    let removal = EndpointsDelta { removed: vec![addr(1)], ..delta(Vec::new()) };
    let last = EndpointSet::build(Some(&mixed), &removal, start());
    assert_eq!(View::from(&last).active(0).unwrap().spec().addr.0, addr(2));
}

#[test]
fn a_removed_endpoint_leaves_the_count_of_the_ejected() {
    let now = start();
    let ejection = Ejection { consecutive_failures: 1, ..Ejection::default() };
    let policy = BackendPolicy { ejection: Some(ejection), ..BackendPolicy::default() };
    let first = EndpointSet::build(None, &EndpointsDelta { policy, ..delta((0..4).map(spec).collect()) }, now);
    first.get(addr(0)).unwrap().begin(now).report(Class::Failure, now, 0);
    let kept = EndpointSet::build(Some(&first), &EndpointsDelta { policy, ..delta(vec![spec(9)]) }, now);
    assert_eq!(kept.ejected_len(), 1);
    let removal = EndpointsDelta { policy, removed: vec![addr(0)], ..delta(Vec::new()) };
    let second = EndpointSet::build(Some(&kept), &removal, now);
    assert_eq!(second.ejected_len(), 0);
    first.get(addr(0)).unwrap().begin(now).report(Class::Failure, now, 0);
    assert_eq!(second.ejected_len(), 0, "what is gone is not ejected again");
}

#[test]
fn an_address_that_stands_twice_counts_once_and_the_last_holds() {
    let twice = delta(vec![spec(1), EndpointSpec { weight: 5, ..spec(1) }]);
    let set = EndpointSet::build(None, &twice, start());
    assert_eq!((set.len(), set.endpoints()[0].spec().weight), (1, 5));
}

proptest! {
    #[test]
    fn deltas_add_up_to_the_naive_set(
        steps in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec((0u32..8, 1u32..3), 0..6), proptest::collection::vec(0u32..8, 0..4)),
            1..8,
        ),
    ) {
        let mut naive = std::collections::BTreeMap::new();
        let mut set: Option<EndpointSet> = None;
        for (reset, upserted, removed) in steps {
            if reset {
                naive.clear();
            }
            removed.iter().for_each(|n| drop(naive.remove(&addr(*n))));
            let upserted: Vec<_> = upserted.into_iter().map(|(n, weight)| EndpointSpec { weight, ..spec(n) }).collect();
            naive.extend(upserted.iter().map(|spec| (spec.addr.0, spec.clone())));
            let removed = removed.into_iter().map(addr).collect();
            let step = EndpointsDelta { reset, upserted, removed, policy: BackendPolicy::default() };
            let next = EndpointSet::build(set.as_ref(), &step, start());
            if let Some(old) = &set {
                for endpoint in old.endpoints() {
                    let stays = next.get(endpoint.spec().addr.0).is_some_and(|new| new.id() == endpoint.id());
                    prop_assert_eq!(endpoint.is_gone(), !stays);
                    prop_assert_eq!(stays, naive.contains_key(&endpoint.spec().addr.0));
                }
            }
            let specs: Vec<_> = next.endpoints().iter().map(|endpoint| endpoint.spec().clone()).collect();
            prop_assert_eq!(specs, naive.values().cloned().collect::<Vec<_>>());
            set = Some(next);
        }
    }
}

#[test]
fn clients_get_endpoints_of_their_family() {
    let v6 = |n: u16, health| EndpointSpec {
        addr: EndpointAddr(SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 80))),
        health,
        ..spec(0)
    };
    let (four, mapped): (IpAddr, IpAddr) = ("10.0.0.9".parse().unwrap(), "::ffff:10.0.0.9".parse().unwrap());
    let six: IpAddr = "fd00::9".parse().unwrap();
    let picks = |set: &EndpointSet, client: IpAddr| {
        let among = set.for_client(client);
        let mut found: Vec<String> =
            (0..among.active_len()).map(|at| among.active(at).unwrap().spec().addr.to_string()).collect();
        found.sort();
        let picked = pick(among, start(), 7, &[]).unwrap();
        assert!(found.contains(&picked.endpoint().spec().addr.to_string()));
        found
    };
    let both = EndpointSet::build(None, &delta(vec![spec(1), spec(2), v6(1, Health::Ready)]), start());
    assert_eq!(both.active_len(), 3);
    let fours = [spec(1), spec(2)].map(|spec| spec.addr.to_string());
    assert_eq!(picks(&both, four), fours);
    assert_eq!(picks(&both, mapped), fours);
    assert_eq!(picks(&both, six), ["[fd00::1]:80"]);
    // Each family falls back for itself.
    let ending = EndpointSet::build(None, &delta(vec![spec(1), v6(1, Health::ServingTerminating)]), start());
    assert_eq!(picks(&ending, six), ["[fd00::1]:80"]);
    // Where there is one family, as for the backend of a route, it is everybody's.
    let one = EndpointSet::build(None, &delta(vec![spec(1), spec(2)]), start());
    assert_eq!(picks(&one, six), fours);
}
