use serde_json::json;
use weft_model::WorkloadName;
use weft_model::resources::Lifecycle;

use super::fixtures::{
    endpoints, fields, inbound, index, key, mk_pod, mk_service, mk_workload, mk_workload_with, status,
};
use crate::{Affected, Index, Kind, Object, ObjectKey};

#[test]
fn a_terminating_workload_leaves_then_is_released() {
    let mut index = index(&[mk_service("web", "10.96.0.1"), mk_workload("a", "web", "10.0.0.1")]);
    let name = WorkloadName::new("shop", "a");
    assert_eq!(inbound(&index, "a").lifecycle, Lifecycle::Serving);
    assert!(index.release(&name).affected.is_empty(), "only what terminates is released");

    let seen = index.version();
    let changes = index.apply(&mk_workload_with("a", "web", "10.0.0.1", json!({"terminating": true})));
    assert!(changes.affected.contains(&Affected::Endpoints(key("web", 80))));
    assert!(endpoints(&index, "web", 80).is_empty());
    let delta = index.endpoints(&key("web", 80), Some(seen));
    assert_eq!((delta.reset, delta.removed.len()), (false, 1));
    assert_eq!(inbound(&index, "a").lifecycle, Lifecycle::Terminating);

    assert_eq!(index.release(&name).affected, [Affected::Inbound(name.clone())].into());
    assert_eq!(inbound(&index, "a").lifecycle, Lifecycle::Released);
    index.apply(&mk_workload("a", "web", "10.0.0.1"));
    assert_eq!(inbound(&index, "a").lifecycle, Lifecycle::Serving, "it came back");
}

#[test]
fn a_pod_comes_before_a_workload_of_the_same_name() {
    let workload = mk_workload("a", "web", "10.0.0.1");
    let pod = mk_pod("a", "web", "10.0.0.2", json!({}));
    let mut index = index(&[mk_service("web", "10.96.0.1"), workload.clone(), pod.clone()]);
    let found = |index: &Index| endpoints(index, "web", 80).into_keys().collect::<Vec<_>>();
    assert_eq!(found(&index), ["10.0.0.2:8080"]);
    assert_eq!(fields(&status(&index, Kind::Workload, "a")), ["metadata.name"]);
    index.delete(&pod.key());
    assert_eq!(found(&index), ["10.0.0.1:8080"], "nothing was lost");
    assert!(status(&index, Kind::Workload, "a").accepted);
}

#[test]
fn the_nodes_address_leads_to_no_pod() {
    let host = mk_pod("a", "web", "10.0.0.1", json!({"hostNetwork": true}));
    let index = index(&[mk_service("web", "10.96.0.1"), host]);
    assert_eq!(endpoints(&index, "web", 80)["10.0.0.1:8080"], "-", "an endpoint, and nobody vouches for it");
    assert_eq!(index.owner("10.0.0.1".parse().unwrap()), None);
}

#[test]
fn addresses_that_cannot_be_a_workloads_are_refused() {
    for address in ["", "10.0.0", "localhost", "0.0.0.0", "::", "224.0.0.1", "169.254.1.1", "fe80::1", "10.96.3.4"] {
        let index = index(&[mk_workload("a", "web", address)]);
        let told = status(&index, Kind::Workload, "a");
        assert_eq!((told.accepted, fields(&told)), (false, vec!["spec.address"]), "{address}");
        assert!(index.inbound(&WorkloadName::new("shop", "a")).is_none());
    }
    let bad = mk_workload_with("a", "web", "10.0.0.1", json!({"serviceAccount": "Web!"}));
    assert_eq!(fields(&status(&index(&[bad]), Kind::Workload, "a")), ["spec.serviceAccount"]);
}

#[test]
fn the_address_of_a_service_is_not_a_workloads() {
    let index = index(&[mk_service("web", "10.1.0.1"), mk_workload("a", "web", "10.1.0.1")]);
    assert!(!status(&index, Kind::Workload, "a").accepted);
}

#[test]
fn probes_stay_open_at_their_exact_path() {
    let probes = json!({"probes": [{"port": 8080, "path": "/healthz"}, {"port": 8081, "path": "bad"}]});
    let index = index(&[mk_service("web", "10.96.0.1"), mk_workload_with("a", "web", "10.0.0.1", probes)]);
    let spec = inbound(&index, "a");
    assert_eq!(spec.ports.len(), 1);
    assert_eq!(spec.ports[0].probe_paths, ["/healthz".into()]);
    assert_eq!(spec.ports[0].service, Some(key("web", 80)));
    assert_eq!(fields(&status(&index, Kind::Workload, "a")), ["spec.probes[1]"]);
}

#[test]
fn a_pods_annotations_keep_its_scrapes_open_and_follow_changes() {
    let Object::Pod(plain) = mk_pod("p", "web", "10.0.0.3", json!({})) else { panic!("a pod") };
    let mut scraped = plain.clone();
    let annotations = [("prometheus.io/scrape", "true"), ("prometheus.io/port", "9090")];
    let annotations = annotations.map(|(name, text)| (name.to_owned(), text.to_owned()));
    scraped.metadata.annotations = Some(annotations.into());
    let mut index = index(&[Object::Pod(scraped)]);
    let open = |index: &Index| {
        let ports = inbound(index, "p").ports;
        ports.iter().map(|port| (port.port, port.scrape_paths.clone())).collect::<Vec<_>>()
    };
    assert_eq!(open(&index), [(8082, vec![]), (9090, vec!["/metrics".into()])]);
    assert!(!index.apply(&Object::Pod(plain)).affected.is_empty());
    assert_eq!(open(&index), [(8082, vec![])]);
}

#[test]
fn what_says_the_same_again_changes_nothing() {
    let workload = mk_workload("a", "web", "10.0.0.1");
    let mut index = index(&[mk_service("web", "10.96.0.1"), workload.clone()]);
    let before = status(&index, Kind::Workload, "a").version;
    assert!(index.apply(&workload).affected.is_empty());
    assert_eq!(status(&index, Kind::Workload, "a").version, before);
    assert!(index.delete(&ObjectKey::new(Kind::Workload, "shop", "nobody")).affected.is_empty());
}
