use serde_json::json;
use weft_model::AppProtocol;
use weft_model::policy::{ConnectTimeout, Ejection};
use weft_model::resources::Destination;

use super::fixtures::{
    destination, endpoints, fields, index, key, mk_pod, mk_policy, mk_service, mk_service_with, mk_slice, mk_workload,
    mk_workload_with, service, status,
};
use crate::{Affected, Index, Kind, ObjectKey};

#[test]
fn a_service_is_found_at_its_address_and_only_at_its_ports() {
    let index = index(&[mk_service("web", "10.96.0.1")]);
    assert_eq!(destination(&index, "10.96.0.1:80"), Destination::Service(key("web", 80)));
    assert_eq!(destination(&index, "[::ffff:10.96.0.1]:80"), Destination::Service(key("web", 80)));
    assert_eq!(destination(&index, "10.96.0.1:81"), Destination::PortNotFound);
    assert_eq!(destination(&index, "10.96.0.2:80"), Destination::NotFound);
}

#[test]
fn workloads_become_endpoints_of_the_services_that_select_them() {
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_workload("web-1", "web", "10.0.0.1"),
        mk_workload("web-2", "web", "10.0.0.2"),
        mk_workload("db-1", "db", "10.0.0.3"),
    ]);
    let found = endpoints(&index, "web", 80);
    assert_eq!(found, [("10.0.0.1:8080", "web"), ("10.0.0.2:8080", "web")].map(|(a, i)| (a.into(), i.into())).into());
}

#[test]
fn a_target_port_by_name_is_the_workloads_own() {
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    let mut index = index(&[
        mk_service_with("web", "10.96.0.1", ports, json!({})),
        mk_workload_with("a", "web", "10.0.0.1", json!({"ports": [{"name": "http", "port": 8081}]})),
        mk_workload_with("b", "web", "10.0.0.2", json!({"ports": [{"name": "http", "port": 8082}]})),
        mk_workload("c", "web", "10.0.0.3"),
    ]);
    let found: Vec<_> = endpoints(&index, "web", 80).into_keys().collect();
    assert_eq!(found, ["10.0.0.1:8081", "10.0.0.2:8082"]);
    assert_eq!(fields(&status(&index, Kind::Workload, "c")), ["spec.ports"]);
    index.delete(&ObjectKey::new(Kind::Workload, "shop", "a"));
    assert_eq!(endpoints(&index, "web", 80).into_keys().collect::<Vec<_>>(), ["10.0.0.2:8082"]);
}

#[test]
fn only_a_running_proxy_makes_an_identity() {
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_workload_with("a", "web", "10.0.0.1", json!({"meshed": false})),
        mk_workload_with("b", "web", "10.0.0.2", json!({"skipInboundPorts": [8080]})),
        mk_slice("hand-made", "web", "http", 8080, json!([{"addresses": ["10.0.0.3"]}])),
    ]);
    assert_eq!(endpoints(&index, "web", 80).into_values().collect::<Vec<_>>(), ["-", "-", "-"]);
}

#[test]
fn whoever_is_known_at_a_slices_address_is_expected_there() {
    let slice = mk_slice("hand-made", "web", "http", 8080, json!([{"addresses": ["10.0.0.3"]}]));
    let pod = mk_pod("p", "other", "10.0.0.3", json!({}));
    let mut index = index(&[mk_service("web", "10.96.0.1"), slice]);
    let identity = |index: &Index| endpoints(index, "web", 80)["10.0.0.3:8080"].clone();
    assert_eq!(identity(&index), "-");
    let changes = index.apply(&pod);
    assert_eq!(identity(&index), "other");
    assert!(changes.affected.contains(&Affected::Endpoints(key("web", 80))), "{changes:?}");
    index.delete(&pod.key());
    assert_eq!(identity(&index), "-");
}

#[test]
fn slices_say_what_is_ready() {
    let slice = json!([
        {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]);
    let objects = |more| {
        let ports = json!([{"name": "http", "port": 80}]);
        [mk_service_with("web", "10.96.0.1", ports, more), mk_slice("s", "web", "http", 8080, slice.clone())]
    };
    let found: Vec<_> = endpoints(&index(&objects(json!({}))), "web", 80).into_keys().collect();
    assert_eq!(found, ["10.0.0.1:8080", "10.0.0.3:8080"]);
    let published = index(&objects(json!({"publishNotReadyAddresses": true})));
    assert_eq!(endpoints(&published, "web", 80).len(), 3);
}

#[test]
fn a_workload_that_is_not_ready_takes_part_only_where_published() {
    let workload = mk_workload_with("a", "web", "10.0.0.1", json!({"ready": false}));
    let ports = json!([{"port": 80}]);
    let published = mk_service_with("web", "10.96.0.1", ports, json!({"publishNotReadyAddresses": true}));
    assert_eq!(endpoints(&index(&[mk_service("web", "10.96.0.1"), workload.clone()]), "web", 80).len(), 0);
    assert_eq!(endpoints(&index(&[published, workload]), "web", 80).len(), 1);
}

#[test]
fn a_headless_service_leads_to_workloads() {
    let headless = mk_service("web", "None");
    let index = index(&[headless, mk_workload("web-1", "web", "10.0.0.1")]);
    let Destination::Workload(found) = destination(&index, "10.0.0.1:8080") else { panic!("a workload") };
    assert_eq!(found.service, Some(key("web", 80)));
    assert_eq!(found.protocol, AppProtocol::Http);
    assert_eq!(found.endpoint.identity.unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert!(matches!(destination(&index, "10.0.0.1:9999"), Destination::Workload(w) if w.service.is_none()));
}

#[test]
fn a_port_that_two_services_target_names_neither() {
    let ports = json!([{"port": 81, "targetPort": 8080, "appProtocol": "grpc"}]);
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_service_with("web2", "10.96.0.2", ports, json!({"selector": {"app": "web"}})),
        mk_workload("web-1", "web", "10.0.0.1"),
    ]);
    let Destination::Workload(found) = destination(&index, "10.0.0.1:8080") else { panic!("a workload") };
    assert_eq!((found.service, found.protocol), (None, AppProtocol::Undeclared), "they do not agree either");
}

#[test]
fn what_a_service_says_reaches_its_clients() {
    let index = index(&[mk_service_with(
        "web",
        "10.96.0.1",
        json!([{"port": 80, "appProtocol": "kubernetes.io/h2c"}]),
        json!({"sessionAffinity": "ClientIP"}),
    )]);
    let spec = service(&index, "web");
    assert_eq!((spec.protocol, spec.client_ip_affinity), (AppProtocol::Http2, true));
}

#[test]
fn two_services_with_one_address_are_told() {
    let index = index(&[mk_service("b", "10.96.0.1"), mk_service("a", "10.96.0.1")]);
    assert_eq!(destination(&index, "10.96.0.1:80"), Destination::Service(key("a", 80)));
    let refused = status(&index, Kind::Service, "b");
    assert!(!refused.accepted && refused.problems[0].message.contains("shop/a"), "{refused:?}");
    assert!(status(&index, Kind::Service, "a").accepted);
}

#[test]
fn udp_ports_are_not_ours_and_bad_ports_are_told() {
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 70000}, {"port": 80}]);
    let index = index(&[mk_service_with("web", "10.96.0.1", ports, json!({}))]);
    assert_eq!(fields(&status(&index, Kind::Service, "web")), ["spec.ports[0].protocol", "spec.ports[1].port"]);
    assert_eq!(destination(&index, "10.96.0.1:53"), Destination::PortNotFound);
}

#[test]
fn traffic_policies_apply_to_service_and_port_by_precedence() {
    let target = |section: Option<&str>| json!([{"kind": "Service", "name": "web", "sectionName": section}]);
    let mut index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_policy("TrafficPolicy", "b", json!({"targetRefs": target(None), "connectTimeout": "2s"})),
        mk_policy("TrafficPolicy", "a", json!({"targetRefs": target(None), "connectTimeout": "3s"})),
    ]);
    let timeout = |index: &Index| index.endpoints(&key("web", 80), None).policy.connect_timeout;
    assert_eq!(timeout(&index), ConnectTimeout(std::time::Duration::from_secs(3)));
    assert_eq!(service(&index, "web").policy.unwrap().name(), "a");
    assert!(!status(&index, Kind::TrafficPolicy, "b").accepted);

    let specific = json!({"targetRefs": target(Some("http")), "connectTimeout": "4s", "ejection": {"enabled": false}});
    index.apply(&mk_policy("TrafficPolicy", "z", specific));
    assert_eq!(timeout(&index), ConnectTimeout(std::time::Duration::from_secs(4)));
    assert_eq!(index.endpoints(&key("web", 80), None).policy.ejection, None);

    for name in ["a", "b", "z"] {
        index.delete(&ObjectKey::new(Kind::TrafficPolicy, "shop", name));
    }
    assert_eq!(index.endpoints(&key("web", 80), None).policy.ejection, Some(Ejection::default()), "on by default");
}

#[test]
fn grpc_codes_are_for_posts() {
    let retry = |retry: serde_json::Value| {
        let spec = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "retry": retry});
        let index = index(&[mk_service("web", "10.96.0.1"), mk_policy("TrafficPolicy", "p", spec)]);
        let told = status(&index, Kind::TrafficPolicy, "p");
        let fields = fields(&told).join(" ");
        service(&index, "web").retry.map(|retry| (retry.non_idempotent, retry.on_reset)).ok_or(fields)
    };
    assert_eq!(retry(json!({"codes": [503]})), Ok((false, true)));
    assert_eq!(retry(json!({"grpcCodes": [8]})), Ok((true, false)), "a broken connection is not among them");
    assert_eq!(retry(json!({"grpcCodes": [8, 14]})), Ok((true, true)), "a broken connection is UNAVAILABLE");
    assert_eq!(retry(json!({"grpcCodes": [14], "onReset": false})), Ok((true, false)));
    let mixed = json!({"codes": [503], "grpcCodes": [14]});
    assert_eq!(retry(mixed), Err("spec.retry.grpcCodes".to_owned()), "POSTs that are not gRPC would be meant too");
    assert_eq!(retry(json!({"codes": [503], "grpcCodes": [8], "nonIdempotent": true})), Ok((true, true)));
}

#[test]
fn a_traffic_policy_that_makes_no_sense_leaves_the_last_good_one() {
    let policy = |failures: u32| {
        let spec =
            json!({"targetRefs": [{"kind": "Service", "name": "web"}], "ejection": {"consecutiveFailures": failures}});
        mk_policy("TrafficPolicy", "p", spec)
    };
    let mut index = index(&[mk_service("web", "10.96.0.1"), policy(3)]);
    assert!(index.apply(&policy(0)).affected.is_empty());
    assert_eq!(index.endpoints(&key("web", 80), None).policy.ejection.unwrap().consecutive_failures, 3);
    let told = status(&index, Kind::TrafficPolicy, "p");
    assert!(!told.accepted);
    assert_eq!(told.problems[0].field, "spec.ejection.consecutiveFailures");
}
