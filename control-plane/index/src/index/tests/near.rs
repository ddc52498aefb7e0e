//! Which of the endpoints a client gets: of which family, of which node, of which zone.

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_model::WorkloadName;
use weft_model::resources::Destination;

use super::fixtures::{
    destination, endpoints, fields, index, key, mk_dual_pod, mk_node, mk_pod, mk_service, mk_service_with, mk_slice,
    mk_workload, status,
};
use crate::{Affected, Index, Kind, Object, ObjectKey};

fn mk_pod_on(node: &str, name: &str, app: &str, ip: &str) -> Object {
    mk_pod(name, app, ip, json!({"nodeName": node}))
}

/// The Service `web` at port 80, which says more than others.
fn mk_web(more: Value) -> Object {
    mk_service_with("web", "10.96.0.1", json!([{"name": "http", "port": 80, "targetPort": 8080}]), more)
}

/// Hosts of the endpoints that a client of namespace `shop` gets.
fn seen_by(index: &Index, client: &str) -> Vec<String> {
    let delta = index.endpoints_of(&WorkloadName::new("shop", client), &key("web", 80), None);
    delta.upserted.iter().map(|e| e.addr.ip().to_string()).collect()
}

#[test]
fn a_pod_is_at_every_one_of_its_addresses() {
    let index = index(&[mk_service("db", "None"), mk_dual_pod("a", "web", ("10.0.0.1", "fd00::1"), json!({}))]);
    for ip in ["10.0.0.1", "fd00::1"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), 8080);
        assert_eq!(index.owner(addr.ip()), Some(WorkloadName::new("shop", "a")));
        let Destination::Workload(found) = destination(&index, &addr.to_string()) else {
            panic!("{ip} is a workload's")
        };
        assert_eq!((found.endpoint.addr.0, found.endpoint.identity.is_some()), (addr, true));
    }
    let facts = index.workload(&WorkloadName::new("shop", "a")).unwrap();
    assert_eq!(facts.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
}

#[test]
fn an_address_that_a_pod_loses_is_nobodys() {
    let mut index = index(&[mk_dual_pod("a", "web", ("10.0.0.1", "fd00::1"), json!({}))]);
    let changes = index.apply(&mk_pod("a", "web", "10.0.0.1", json!({})));
    let gone = "fd00::1".parse().unwrap();
    assert_eq!(index.owner(gone), None);
    assert!(changes.affected.contains(&Affected::Destination(gone)), "{changes:?}");
}

#[test]
fn a_service_leads_to_the_addresses_of_its_families() {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let both = ["10.0.0.1:8080", "[fd00::1]:8080"];
    for (ip, more, want) in [
        ("10.96.0.1", json!({"ipFamilies": ["IPv4"]}), &both[..1]),
        ("10.96.0.1", json!({}), &both[..1]),
        ("fd96::1", json!({"ipFamilies": ["IPv6"]}), &both[1..]),
        ("10.96.0.1", json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd96::1"]}), &both[..]),
        ("None", json!({"ipFamilies": ["IPv6", "IPv4"]}), &both[..]),
        ("None", json!({}), &both[..]),
    ] {
        let service = mk_service_with("web", ip, ports.clone(), more.clone());
        let index = index(&[service, mk_dual_pod("a", "web", ("10.0.0.1", "fd00::1"), json!({}))]);
        assert_eq!(endpoints(&index, "web", 80).into_keys().collect::<Vec<_>>(), want, "{ip} {more}");
    }
    // Proxies translate: one outside Kubernetes that has only the other family is better than none.
    let index = index(&[mk_service("web", "10.96.0.1"), mk_workload("vm", "web", "fd00::7")]);
    assert_eq!(endpoints(&index, "web", 80).into_keys().collect::<Vec<_>>(), ["[fd00::7]:8080"]);
}

#[test]
fn slices_of_either_family_add_up() {
    let mut six = mk_slice("six", "web", "http", 8080, json!([{"addresses": ["fd00::1"]}]));
    if let Object::EndpointSlice(slice) = &mut six {
        slice.address_type = "IPv6".to_owned();
    }
    let four = mk_slice("four", "web", "http", 8080, json!([{"addresses": ["10.0.0.1"]}]));
    let index = index(&[mk_web(json!({})), six, four]);
    assert_eq!(endpoints(&index, "web", 80).into_keys().collect::<Vec<_>>(), ["10.0.0.1:8080", "[fd00::1]:8080"]);
}

/// Two zones with a client and an endpoint each; zone `a` has another node, with nothing but a client.
fn world(service: Object) -> Index {
    index(&[
        service,
        mk_node("n1", "a"),
        mk_node("n2", "a"),
        mk_node("n3", "b"),
        mk_pod_on("n1", "web-1", "web", "10.0.0.1"),
        mk_pod_on("n3", "web-3", "web", "10.0.0.3"),
        mk_pod_on("n1", "client-1", "client", "10.0.1.1"),
        mk_pod_on("n2", "client-2", "client", "10.0.1.2"),
        mk_pod_on("n3", "client-3", "client", "10.0.1.3"),
    ])
}

#[test]
fn a_service_says_how_far_its_traffic_goes() {
    const ALL: &[&str] = &["10.0.0.1", "10.0.0.3"];
    const ONE: &[&str] = &["10.0.0.1"];
    for (more, on_node, in_zone) in [
        (json!({}), ALL, ALL),
        (json!({"trafficDistribution": "PreferClose"}), ONE, ONE),
        (json!({"trafficDistribution": "PreferSameZone"}), ONE, ONE),
        (json!({"trafficDistribution": "PreferSameNode"}), ONE, ONE),
        (json!({"internalTrafficPolicy": "Local"}), ONE, &[][..]),
        (json!({"internalTrafficPolicy": "Cluster"}), ALL, ALL),
    ] {
        let index = world(mk_web(more.clone()));
        assert!(status(&index, Kind::Service, "web").accepted, "{more}");
        assert_eq!(seen_by(&index, "client-1"), on_node, "{more}");
        assert_eq!(seen_by(&index, "client-2"), in_zone, "{more}");
        assert_eq!(endpoints(&index, "web", 80).len(), 2, "{more}: nobody in particular sees all");
    }
    let Object::Service(mut auto) = mk_web(json!({})) else { panic!("a Service") };
    let annotations = [("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())];
    auto.metadata.annotations = Some(annotations.into());
    let mut index = world(Object::Service(auto));
    assert_eq!(seen_by(&index, "client-2"), ONE);
    index.apply(&mk_pod_on("n2", "web-2", "web", "10.0.0.2"));
    assert_eq!(seen_by(&index, "client-3").len(), 3, "one zone would be overloaded");
    let odd = world(mk_web(json!({"trafficDistribution": "PreferHome", "internalTrafficPolicy": "Here"})));
    assert_eq!(fields(&status(&odd, Kind::Service, "web")), ["spec.internalTrafficPolicy", "spec.trafficDistribution"]);
    assert_eq!(seen_by(&odd, "client-2"), ALL);
}

#[test]
fn the_zone_is_the_nodes_whenever_that_is_known() {
    let mut index = world(mk_web(json!({"trafficDistribution": "PreferSameZone"})));
    let zone = |index: &Index| index.endpoints(&key("web", 80), None).upserted[0].zone.clone();
    assert_eq!(zone(&index).as_deref(), Some("a"));
    let seen = index.version();
    let changes = index.apply(&mk_node("n2", "b"));
    assert!(changes.affected.contains(&Affected::Endpoints(key("web", 80))), "a client has moved: {changes:?}");
    let client = WorkloadName::new("shop", "client-2");
    assert!(index.endpoints_of(&client, &key("web", 80), Some(seen)).reset);
    assert_eq!(seen_by(&index, "client-2"), ["10.0.0.3"]);
    index.delete(&ObjectKey::new(Kind::Node, "default", "n1"));
    assert_eq!(zone(&index), None);
    assert_eq!(seen_by(&index, "client-2").len(), 2, "one of them says no longer where it is");
}

#[test]
fn who_follows_sees_what_is_near_go_and_come() {
    let mut index = world(mk_web(json!({"trafficDistribution": "PreferSameZone"})));
    let client = WorkloadName::new("shop", "client-2");
    let seen = index.version();
    index.delete(&ObjectKey::new(Kind::Pod, "shop", "web-1"));
    let delta = index.endpoints_of(&client, &key("web", 80), Some(seen));
    assert!(delta.reset, "the last one of the zone is gone, so that all others count");
    assert_eq!(seen_by(&index, "client-2"), ["10.0.0.3"]);
}

#[test]
fn hints_of_slices_count_where_every_endpoint_has_some() {
    let to = |ip: &str, zones: &[&str], node: &str| {
        let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
        json!({"addresses": [ip], "nodeName": node, "hints": {"forZones": zones}})
    };
    let hinted = json!([to("10.0.0.8", &["a"], "n3"), to("10.0.0.9", &["b", "a"], "n3"), to("10.0.0.7", &["b"], "n1")]);
    let slice = |endpoints: Value| mk_slice("s", "ext", "http", 8080, endpoints);
    let ext = |more: Value| {
        let Object::Service(mut service) = mk_web(more) else { panic!("a Service") };
        (service.metadata.name, service.spec.as_mut().unwrap().selector) = (Some("ext".to_owned()), None);
        Object::Service(service)
    };
    let seen = |index: &Index, client: &str| {
        let found = index.endpoints_of(&WorkloadName::new("shop", client), &key("ext", 80), None).upserted;
        found.iter().map(|e| e.addr.ip().to_string()).collect::<Vec<_>>()
    };
    let mut index = world(ext(json!({})));
    index.apply(&slice(hinted.clone()));
    assert_eq!(seen(&index, "client-2"), ["10.0.0.8", "10.0.0.9"]);
    assert_eq!(seen(&index, "client-3"), ["10.0.0.7", "10.0.0.9"]);
    let mut some = hinted.clone();
    some[2]["hints"] = Value::Null;
    index.apply(&slice(some));
    assert_eq!(seen(&index, "client-2").len(), 3);
    // Local is not a wish: where an endpoint is counts, not whom it was meant for.
    index.apply(&ext(json!({"internalTrafficPolicy": "Local"})));
    index.apply(&slice(hinted));
    assert_eq!(seen(&index, "client-3"), ["10.0.0.8", "10.0.0.9"]);
    assert_eq!(seen(&index, "client-1"), ["10.0.0.7"]);
}
