//! What an answer has no room for is refused here, with the limit named, and costs nobody else anything.

use serde_json::{Value, json};
use weft_model::bounds;
use weft_model::policy::AuthzAction;

use super::fixtures::{
    inbound, index, key, mk_policy, mk_policy_in, mk_route, mk_service, mk_service_with, mk_slice, mk_workload,
    mk_workload_with, service, status,
};
use crate::{Index, Kind, Object, ObjectKey};

fn many(count: usize, item: impl Fn(usize) -> Value) -> Value {
    Value::Array((0..count).map(item).collect())
}

fn backend() -> Value {
    json!({"name": "v1", "port": 80})
}

fn long(bytes: usize) -> String {
    format!("/{}", "a".repeat(bytes))
}

/// The resource is not in force, and its status names field and limit.
fn check(object: &Object, field: &str, limit: &str) {
    let index = index(&[mk_service("web", "10.96.0.1"), mk_service("v1", "10.96.0.2"), object.clone()]);
    let told = index.status(&object.key()).unwrap();
    assert!(!told.accepted, "{field}: {told:?}");
    let found = told.problems.iter().find(|problem| problem.field == field);
    assert!(found.is_some_and(|problem| problem.message.contains(limit)), "{field} {limit}: {:?}", told.problems);
}

#[test]
fn a_rule_that_is_too_large_refuses_its_route() {
    let rule = |more: Value| {
        let mut rule = json!({"backendRefs": [backend()]});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mk_route("r", "web", json!([rule]))
    };
    let matched = |more: Value| rule(json!({"matches": [more]}));
    let header = |i: usize| json!({"name": format!("x-{i}"), "value": "v"});
    let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}});
    let set = |count| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": many(count, header)}});
    let value = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier":
        {"add": [{"name": "x", "value": "v".repeat(4_097)}]}});
    let path = |path: &str| json!({"path": {"type": "PathPrefix", "value": path}});
    let at = |field: &str| format!("spec.rules[0].{field}");
    check(&mk_route("r", "web", many(65, |_| json!({"backendRefs": [backend()]}))), "spec.rules", "64");
    check(&rule(json!({"name": "n".repeat(254)})), &at("name"), "253");
    check(&rule(json!({"matches": many(129, |i| path(&format!("/{i}")))})), &at("matches"), "128");
    check(&matched(json!({"headers": many(17, header)})), &at("matches"), "16");
    check(&matched(json!({"queryParams": many(17, header)})), &at("matches"), "16");
    check(&matched(json!({"queryParams": [{"name": "", "value": "v"}]})), &at("matches"), "empty");
    check(&matched(json!({"headers": [{"name": "x".repeat(257), "value": "v"}]})), &at("matches"), "256");
    check(&matched(json!({"headers": [{"name": "x", "value": "v".repeat(4_097)}]})), &at("matches"), "4096");
    check(&matched(json!({"headers": [{"name": "x", "value": "a\nb"}]})), &at("matches"), "control");
    check(&matched(path(&long(1_024))), &at("matches"), "1024");
    check(&matched(path("/a\u{7}")), &at("matches"), "control");
    check(&rule(json!({"filters": many(17, |_| filter.clone())})), &at("filters"), "16");
    check(&rule(json!({"filters": [set(65)]})), &at("filters"), "64");
    check(&rule(json!({"filters": [value]})), &at("filters"), "4096");
    check(&rule(json!({"backendRefs": many(65, |_| backend())})), &at("backendRefs"), "64");
    let backend = json!({"name": "v1", "port": 80, "filters": many(17, |_| filter.clone())});
    check(&rule(json!({"backendRefs": [backend]})), &at("backendRefs"), "16");
    let heavy = json!({"name": "v1", "port": 80, "weight": 1_000_001});
    check(&rule(json!({"backendRefs": [heavy]})), &at("backendRefs[0].weight"), "1000000");
    check(&rule(json!({"timeouts": {"request": "99999h1h"}})), &at("timeouts.request"), "99999 h");
}

#[test]
fn a_route_that_grew_too_large_stays_as_it_was() {
    let rules = |count| many(count, |_| json!({"backendRefs": [backend()]}));
    let mut index = index(&[mk_service("web", "10.96.0.1"), mk_route("r", "web", rules(2))]);
    assert!(index.apply(&mk_route("r", "web", rules(65))).affected.is_empty());
    assert_eq!(service(&index, "web").http_routes[0].rules.len(), 2);
}

#[test]
fn routes_beyond_the_limit_of_a_port_are_left_out_and_told() {
    let mut index = index(&[mk_service("web", "10.96.0.1")]);
    for i in 0..=bounds::ROUTES_MAX {
        index.apply(&mk_route(&format!("r{i:03}"), "web", json!([{"backendRefs": [backend()]}])));
    }
    assert_eq!(service(&index, "web").http_routes.len(), bounds::ROUTES_MAX);
    let told = status(&index, Kind::HttpRoute, "r256");
    assert!(!told.accepted && told.problems[0].message.contains("256"), "{told:?}");
    assert!(status(&index, Kind::HttpRoute, "r255").accepted);
}

#[test]
fn policies_that_are_too_large_are_refused() {
    let authz = |rule: Value| mk_policy("AuthorizationPolicy", "p", json!({"action": "Deny", "rules": [rule]}));
    let to = |operation: Value| authz(json!({"to": [operation]}));
    let namespaces = |count| json!([{"namespaces": many(count, |i| json!(format!("n{i}")))}]);
    let rules = many(513, |_| json!({"from": [{"authenticated": true}]}));
    check(&mk_policy("AuthorizationPolicy", "p", json!({"action": "Deny", "rules": rules})), "spec.rules", "512");
    check(&authz(json!({"from": namespaces(513)})), "spec.rules[0].from", "512");
    check(&to(json!({"ports": many(513, |i| json!(i + 1))})), "spec.rules[0].to[0].ports", "512");
    check(&to(json!({"methods": many(513, |_| json!("GET"))})), "spec.rules[0].to[0].methods", "512");
    check(&to(json!({"methods": ["G".repeat(65)]})), "spec.rules[0].to[0].methods", "method");
    check(&to(json!({"paths": [{"exact": long(1_024)}]})), "spec.rules[0].to[0].paths", "1024");
    check(&to(json!({"paths": [{"exact": "/a\u{7}"}]})), "spec.rules[0].to[0].paths", "control");
    let traffic = |more: Value| {
        let mut spec = json!({"targetRefs": [{"kind": "Service", "name": "web"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mk_policy("TrafficPolicy", "p", spec)
    };
    check(&traffic(json!({"timeouts": {"request": "99999h1h"}})), "spec.timeouts.request", "99999 h");
    check(&traffic(json!({"retryBudget": {"minPerSecond": 1_000_001}})), "spec.retryBudget.minPerSecond", "1000000");
    let field = "spec.telemetry.tracing.otlpEndpoint";
    let path = "x".repeat(2_048);
    for url in [&format!("http://{path}:4317"), "http://a@b:4317", "http://b:4317/?q", "http://b:0", "https://b:4317"] {
        let spec = json!({"telemetry": {"tracing": {"otlpEndpoint": url}}});
        check(&mk_policy_in("MeshPolicy", "weft-system", "p", spec), field, "2048");
    }
}

#[test]
fn what_would_cost_the_other_endpoints_is_refused_alone() {
    let workload = |more| mk_workload_with("a", "web", "10.0.0.1", more);
    check(&workload(json!({"zone": "z".repeat(254)})), "spec.zone", "253");
    check(&workload(json!({"zone": "a\nb"})), "spec.zone", "control");
    check(&workload(json!({"uid": "u".repeat(254)})), "spec.uid", "253");
    check(&workload(json!({"ports": many(4_097, |i| json!({"port": i + 1}))})), "spec.ports", "4096");
    check(&workload(json!({"probes": [{"port": 1, "path": long(1_024)}]})), "spec.probes[0].path", "1024");
    let probes = many(65, |i| json!({"port": 1, "path": format!("/{i}")}));
    check(&workload(json!({"probes": probes})), "spec.probes[64]", "64");
    check(&workload(json!({"weight": 1_000_001})), "spec.weight", "1000000");
    let zone = json!([{"addresses": ["10.0.0.1"], "zone": "z".repeat(254)}]);
    check(&mk_slice("s", "web", "http", 80, zone), "endpoints[0].zone", "253");
    let addresses = many(10_001, |_| json!("10.0.0.1"));
    check(&mk_slice("s", "web", "http", 80, json!([{"addresses": addresses}])), "endpoints", "10000");
    check(&mk_service("not.a.label", "10.96.0.9"), "metadata.name", "63");
}

#[test]
fn endpoints_beyond_the_limit_are_told() {
    let slice = |name: &str, net: u8| {
        let addresses = many(6_000, |i| json!(format!("10.{net}.{}.{}", i / 250, i % 250 + 1)));
        mk_slice(name, "web", "http", 80, json!([{"addresses": addresses}]))
    };
    let index = index(&[mk_service("web", "10.96.0.1"), slice("a", 1), slice("b", 2)]);
    assert_eq!(index.endpoints(&key("web", 80), None).upserted.len(), bounds::ENDPOINTS_MAX);
    let told = status(&index, Kind::Service, "web");
    assert!(!told.accepted && told.problems[0].message.contains("12000"), "{told:?}");
}

#[test]
fn more_policies_than_fit_let_nobody_in() {
    let mut index = index(&[mk_workload("a", "web", "10.0.0.1")]);
    let policy = |name: &str, action: &str| mk_policy("AuthorizationPolicy", name, json!({"action": action}));
    for i in 0..bounds::AUTHZ_POLICIES_MAX {
        index.apply(&policy(&format!("allow-{i:04}"), "Allow"));
    }
    index.apply(&policy("audit", "Audit"));
    let all_allow = |index: &Index| inbound(index, "a").authz.iter().all(|p| p.action == AuthzAction::Allow);
    assert!(all_allow(&index), "what only audits goes first");
    assert_eq!(inbound(&index, "a").authz.len(), bounds::AUTHZ_POLICIES_MAX);
    index.apply(&policy("deny", "Deny"));
    let authz = inbound(&index, "a").authz;
    assert_eq!(authz.len(), bounds::AUTHZ_POLICIES_MAX);
    let last = authz.last().unwrap();
    assert_eq!((last.action, last.ports.len(), last.rules.len()), (AuthzAction::Deny, 0, 1));
    assert!(status(&index, Kind::Workload, "a").problems.iter().any(|p| p.message.contains("1024")));
    index.delete(&ObjectKey::new(Kind::AuthorizationPolicy, "shop", "deny"));
    assert!(all_allow(&index));
}

#[test]
fn a_strict_port_is_strict_though_it_does_not_fit() {
    let ports = many(3_000, |i| json!({"name": format!("p{i}"), "port": i + 1}));
    let strict = |from: usize, count| many(count, |i| json!({"port": from + i, "mode": "Strict"}));
    let inbound_with = |from, count| {
        inbound(
            &index(&[
                mk_service_with("web", "10.96.0.1", ports.clone(), json!({})),
                mk_workload_with("a", "web", "10.0.0.1", json!({})),
                mk_policy("MeshPolicy", "m", json!({"mtls": {"ports": strict(from, count)}})),
            ]),
            "a",
        )
    };
    let some = inbound_with(10_000, 2_000);
    assert_eq!(some.ports.len(), bounds::INBOUND_PORTS_MAX);
    let is_strict = |port: &&weft_model::resources::InboundPort| port.mtls == weft_model::policy::MtlsMode::Strict;
    assert_eq!(some.ports.iter().filter(is_strict).count(), 2_000, "the others were left out first");
    assert_eq!(some.mtls, weft_model::policy::MtlsMode::Permissive);
    assert_eq!(inbound_with(10_000, 5_000).mtls, weft_model::policy::MtlsMode::Strict);
}

#[test]
fn a_policy_for_more_ports_than_can_be_named_closes_more() {
    let ports = many(513, |i| json!({"name": format!("p{i}"), "port": i + 1}));
    let authz = |action: &str| {
        let spec = json!({"action": action, "targetRefs": [{"kind": "Service", "name": "web"}],
            "rules": [{"from": [{"namespaces": ["shop"]}]}]});
        let index = index(&[
            mk_service_with("web", "10.96.0.1", ports.clone(), json!({})),
            mk_workload("a", "web", "10.0.0.1"),
            mk_policy("AuthorizationPolicy", "p", spec),
        ]);
        assert!(!status(&index, Kind::AuthorizationPolicy, "p").accepted);
        inbound(&index, "a").authz.into_iter().map(|p| (p.ports.len(), p.rules.len())).collect::<Vec<_>>()
    };
    assert_eq!(authz("Allow"), [(0, 0)], "it selects every port and lets nobody in");
    assert_eq!(authz("Deny"), [(0, 1)], "it denies at every port");
    assert_eq!(authz("Audit"), []);
}
