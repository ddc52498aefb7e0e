//! Whatever a resource gives an address to lies in the mesh's networks: outside of them proxies speak plaintext without
//! asking.

use std::net::IpAddr;

use serde_json::json;
use weft_model::bounds::NETWORKS_MAX;

use super::fixtures::{index, mk_policy_in, mk_service, mk_slice, mk_workload, mk_workload_with, status};
use crate::{Affected, Changes, Condition, Index, Kind, Object, ObjectKey};

fn networks(index: &Index) -> Vec<String> {
    index.mesh(vec![vec![0]]).networks.iter().map(ToString::to_string).collect()
}

fn covers(index: &Index, ip: &str) -> bool {
    let ip: IpAddr = ip.parse().unwrap();
    index.mesh(vec![vec![0]]).networks.iter().any(|network| network.contains(&ip))
}

fn tells_the_mesh(changes: &Changes) -> bool {
    changes.affected.contains(&Affected::Mesh)
}

fn cluster(cidrs: &[&str]) -> Object {
    mk_policy_in("MeshPolicy", "weft-system", "mesh", json!({"networks": cidrs}))
}

#[test]
fn an_address_outside_is_added_with_its_neighbours_and_goes_with_its_resource() {
    let mut index = index(&[]);
    for (object, network) in [
        (mk_workload("vm", "web", "192.0.2.7"), "192.0.2.0/24"),
        (mk_workload("vm6", "web", "2001:db8::7"), "2001:db8::/120"),
        (mk_service("web", "198.51.100.9"), "198.51.100.0/24"),
        (mk_slice("db", "db", "", 5432, json!([{"addresses": ["203.0.113.1"]}])), "203.0.113.0/24"),
    ] {
        assert!(tells_the_mesh(&index.apply(&object)), "{network}");
        let expected: std::collections::BTreeSet<_> = ["10.0.0.0/8".to_owned(), network.to_owned()].into();
        assert_eq!(networks(&index).into_iter().collect::<std::collections::BTreeSet<_>>(), expected);
        assert!(!tells_the_mesh(&index.apply(&object)), "nothing new");
        assert!(tells_the_mesh(&index.delete(&object.key())));
        assert_eq!(networks(&index), ["10.0.0.0/8"]);
    }
}

#[test]
fn what_changes_no_address_tells_no_proxy_of_the_mesh() {
    let mut index = index(&[mk_workload("vm", "web", "192.0.2.7")]);
    assert!(!tells_the_mesh(&index.apply(&mk_workload("a", "web", "10.0.0.1"))), "inside");
    assert!(!tells_the_mesh(&index.apply(&mk_workload_with("vm", "web", "192.0.2.7", json!({"ready": false})))));
    assert!(!tells_the_mesh(&index.apply(&mk_workload("vm", "web", "192.0.2.8"))), "a neighbour");
    assert_eq!(networks(&index), ["10.0.0.0/8", "192.0.2.0/24"]);
    assert!(tells_the_mesh(&index.apply(&mk_workload("vm", "web", "198.51.100.8"))));
    assert_eq!(networks(&index), ["10.0.0.0/8", "198.51.100.0/24"]);
    let vm = ObjectKey::new(Kind::Workload, "shop", "vm");
    assert!(index.concerns(&vm).contains(&Affected::Mesh), "its status counts the proxies that know it");
}

#[test]
fn an_address_stays_for_as_long_as_anybody_names_it() {
    let slice = mk_slice("s", "web", "", 80, json!([{"addresses": ["192.0.2.7"]}]));
    let mut index = index(&[mk_workload("vm", "web", "192.0.2.7"), slice.clone()]);
    assert!(!tells_the_mesh(&index.delete(&ObjectKey::new(Kind::Workload, "shop", "vm"))));
    assert!(covers(&index, "192.0.2.7"));
    index.delete(&slice.key());
    assert!(!covers(&index, "192.0.2.7"));
}

#[test]
fn networks_that_are_configured_later_take_addresses_in() {
    let mut index = index(&[mk_workload("vm", "web", "192.0.2.7"), mk_workload("vm2", "web", "198.51.100.200")]);
    index.apply(&cluster(&["192.0.0.0/16"]));
    assert_eq!(networks(&index), ["10.0.0.0/8", "192.0.0.0/16", "198.51.100.0/24"]);
    assert!(!tells_the_mesh(&index.apply(&mk_workload("vm3", "web", "192.0.9.8"))));
    assert!(tells_the_mesh(&index.delete(&cluster(&[]).key())));
    assert_eq!(networks(&index), ["10.0.0.0/8", "192.0.2.0/24", "192.0.9.0/24", "198.51.100.0/24"]);
}

#[test]
fn a_network_that_no_proxy_would_take_is_meant_as_ipv4() {
    let mut index = index(&[]);
    index.apply(&cluster(&["::ffff:192.0.2.1/120"]));
    assert_eq!(networks(&index), ["10.0.0.0/8", "192.0.2.0/24"]);
}

#[test]
fn too_many_to_be_told_are_covered_by_wider_networks_and_that_is_told() {
    // In blocks that cannot be joined without what lies between them.
    let address = |i: usize| format!("192.{}.{}.1", i / 100, i % 100 * 2);
    let count = 2 * NETWORKS_MAX;
    let mut index = index(&[]);
    for i in 0..count {
        index.apply(&mk_workload(&format!("vm-{i}"), "web", &address(i)));
    }
    assert_eq!(index.widened_networks(), Some(count));
    assert!(networks(&index).len() <= NETWORKS_MAX);
    assert!((0..count).all(|i| covers(&index, &address(i))));
    assert!(!covers(&index, "203.0.113.1"), "no wider than it must be");
    let told = status(&index, Kind::Workload, "vm-0");
    assert!(told.accepted);
    let notice = told.problems.iter().find(|problem| problem.condition == Condition::Notice).unwrap();
    assert!(notice.message.contains("1024 networks") && notice.message.contains("2048 addresses"), "{notice}");

    index.apply(&cluster(&["192.0.0.0/8"]));
    assert_eq!(index.widened_networks(), None);
    assert!(status(&index, Kind::Workload, "vm-0").problems.is_empty());
}
