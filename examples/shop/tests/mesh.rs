//! The resources in `mesh` hold: the control plane's index takes every one of them without a complaint.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test harness")]

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use weft_index::{Index, IndexConfig, Object};
use weft_model::policy::PeerMatch;
use weft_model::resources::Destination;
use weft_model::route::BackendTarget;
use weft_model::{AppProtocol, ServiceKey, WorkloadName};

const SERVICES: [&str; 7] = ["storefront", "user", "product", "product-v1", "product-v2", "order", "payment"];

#[test]
fn every_resource_is_taken_as_it_is_written() {
    let objects = objects();
    let index = index(&objects);
    assert_eq!(objects.len(), 13);
    for object in &objects {
        let status = index.status(&object.key()).unwrap();
        let is_good = status.accepted && status.resolved_refs && status.problems.is_empty();
        assert!(is_good, "{}: {status:?}", object.key());
    }
}

#[test]
fn services_have_an_address_of_each_family() {
    let index = index(&objects());
    for (n, name) in SERVICES.into_iter().enumerate() {
        let port = if name == "payment" { 9000 } else { 80 };
        for addr in [format!("10.96.0.1{n}:{port}"), format!("[fd96::1{n}]:{port}")] {
            let found = index.destination(addr.parse::<SocketAddr>().unwrap());
            assert_eq!(found, Destination::Service(ServiceKey::new("shop", name, port)), "{addr}");
        }
    }
    let payment = index.service("shop", &ServiceKey::new("shop", "payment", 9000));
    assert_eq!(payment.protocol, AppProtocol::Grpc);
}

#[test]
fn the_canary_begins_with_everything_at_the_first_version() {
    let product = index(&objects()).service("shop", &ServiceKey::new("shop", "product", 80));
    assert_eq!(product.retry.unwrap().status_codes, [502, 503, 504]);
    let [route] = product.http_routes.as_slice() else { panic!("one route") };
    let weights = route.rules[0].backends.iter().map(|backend| match &backend.target {
        BackendTarget::Service(key) => (&*key.name, backend.weight),
        BackendTarget::Invalid => panic!("{backend:?}"),
    });
    assert_eq!(weights.collect::<Vec<_>>(), [("product-v1", 100), ("product-v2", 0)]);
}

#[test]
fn only_those_who_are_named_may_call() {
    let mut objects = objects();
    let apps = [
        ("user", 8080, &["storefront"][..]),
        ("product", 8080, &["storefront", "order"]),
        ("order", 8080, &["storefront"]),
        ("payment", 9000, &["order"]),
        ("storefront", 8080, &[]),
    ];
    for (n, (app, _, _)) in apps.into_iter().enumerate() {
        objects.push(workload(app, n));
    }
    let index = index(&objects);
    for (app, port, want) in apps {
        let inbound = index.inbound(&WorkloadName::new("shop", app)).unwrap();
        let mut callers = Vec::new();
        for policy in &inbound.authz {
            assert_eq!(policy.ports, [port], "{app}");
            for peer in policy.rules.iter().flat_map(|rule| &rule.from) {
                let PeerMatch::Identity(id) = peer else { panic!("{app}: {peer:?}") };
                callers.push(id.to_string());
            }
        }
        let want: Vec<_> = want.iter().map(|sa| format!("spiffe://cluster.local/ns/shop/sa/{sa}")).collect();
        assert_eq!(callers, want, "{app}");
    }
}

fn index(objects: &[Object]) -> Index {
    let mut index = Index::new(IndexConfig::default());
    for object in objects {
        index.apply(object);
    }
    index
}

/// All documents of all files.
fn objects() -> Vec<Object> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    texts.iter().flat_map(|text| text.split("\n---\n")).map(object).collect()
}

fn object(document: &str) -> Object {
    #[derive(Deserialize)]
    struct Head {
        kind: String,
    }
    match yaml::<Head>(document).kind.as_str() {
        "AuthorizationPolicy" => Object::AuthorizationPolicy(yaml(document)),
        "HTTPRoute" => Object::HttpRoute(yaml(document)),
        "Service" => Object::Service(yaml(document)),
        "TrafficPolicy" => Object::TrafficPolicy(yaml(document)),
        "Workload" => Object::Workload(yaml(document)),
        other => panic!("unexpected kind {other}"),
    }
}

fn yaml<T: DeserializeOwned>(document: &str) -> T {
    serde_saphyr::from_str(document).unwrap()
}

fn workload(app: &str, n: usize) -> Object {
    object(&format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {app}, namespace: shop, labels: {{ app: {app} }} }}\n\
         spec: {{ address: 10.1.0.{}, serviceAccount: {app} }}\n",
        n + 1
    ))
}
