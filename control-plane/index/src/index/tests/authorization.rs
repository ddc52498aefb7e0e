use serde_json::{Value, json};
use weft_model::policy::{AuthzAction, DefaultAuthorization, MtlsMode, PeerMatch};

use super::fixtures::{
    fields, inbound, index, mk_policy, mk_policy_in, mk_service, mk_service_with, mk_workload, status,
};
use crate::{Kind, Object};

fn authz(name: &str, spec: Value) -> Object {
    mk_policy("AuthorizationPolicy", name, spec)
}

fn world(policies: &[Object]) -> Vec<Object> {
    let mut objects = vec![
        mk_service("web", "10.96.0.1"),
        mk_workload("web-1", "web", "10.0.0.1"),
        mk_workload("db-1", "db", "10.0.0.2"),
    ];
    objects.extend_from_slice(policies);
    objects
}

#[test]
fn policies_of_namespace_selector_and_service_are_united() {
    let index = index(&world(&[
        authz("all", json!({"action": "Deny", "rules": [{"from": [{"namespaces": ["evil"]}]}]})),
        authz("sel", json!({"action": "Audit", "selector": {"matchLabels": {"app": "web"}}})),
        authz("svc", json!({"action": "Allow", "targetRefs": [{"kind": "Service", "name": "web"}], "rules": [{}]})),
        mk_policy_in("AuthorizationPolicy", "other", "not-here", json!({"action": "Deny", "rules": [{}]})),
    ]));
    let names = |workload| inbound(&index, workload).authz.iter().map(|p| p.id.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names("web-1"), ["all", "sel", "svc"]);
    assert_eq!(names("db-1"), ["all"]);
    let authz = inbound(&index, "web-1").authz;
    assert_eq!(authz[2].ports, [8080], "what is attached to a Service is the workload's target port");
    assert_eq!((authz[0].action, authz[0].ports.len()), (AuthzAction::Deny, 0));
    assert_eq!(authz[0].rules[0].from, [PeerMatch::Namespace("evil".into())]);
}

#[test]
fn a_policy_on_a_service_follows_its_target_ports() {
    let policy = authz(
        "svc",
        json!({"action": "Allow", "targetRefs": [{"kind": "Service", "name": "web", "sectionName": "admin"}]}),
    );
    let ports =
        json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 90, "targetPort": 9090}]);
    let mut index = index(&world(&[policy]));
    assert!(inbound(&index, "web-1").authz.is_empty());
    assert!(!status(&index, Kind::AuthorizationPolicy, "svc").resolved_refs);
    index.apply(&mk_service_with("web", "10.96.0.1", ports, json!({})));
    assert_eq!(inbound(&index, "web-1").authz[0].ports, [9090]);
    assert!(status(&index, Kind::AuthorizationPolicy, "svc").resolved_refs);
}

#[test]
fn what_is_not_understood_keeps_the_last_good_and_else_denies() {
    let good = authz("p", json!({"action": "Allow", "rules": [{"from": [{"authenticated": true}]}]}));
    let bad = authz("p", json!({"action": "Allow", "rules": [{"from": [{"identities": ["spiffe://x"]}]}]}));
    let mut first = index(&world(&[good]));
    first.apply(&bad);
    assert_eq!(inbound(&first, "web-1").authz[0].rules[0].from, [PeerMatch::Authenticated]);
    assert_eq!(fields(&status(&first, Kind::AuthorizationPolicy, "p"))[0], "spec.rules[0].from[0]");

    let fresh = index(&world(&[bad]));
    let policy = &inbound(&fresh, "web-1").authz[0];
    assert_eq!((policy.action, policy.rules.len()), (AuthzAction::Allow, 0), "it selects, and lets nobody in");

    let deny = authz("p", json!({"action": "Deny", "rules": [{"to": [{"methods": ["get"]}]}]}));
    let policy = &inbound(&index(&world(&[deny])), "web-1").authz[0];
    assert_eq!((policy.action, policy.rules[0].to.len()), (AuthzAction::Deny, 0), "it denies everything");
}

#[test]
fn every_malformed_part_is_named() {
    for (rule, field) in [
        (json!({"from": [{}]}), "spec.rules[0].from[0]"),
        (json!({"from": [{"authenticated": false}]}), "spec.rules[0].from[0]"),
        (json!({"from": [{"namespaces": ["a"], "authenticated": true}]}), "spec.rules[0].from[0]"),
        (json!({"from": [{"namespaces": ["A"]}]}), "spec.rules[0].from[0]"),
        (json!({"to": [{}]}), "spec.rules[0].to[0]."),
        (json!({"to": [{"ports": [0]}]}), "spec.rules[0].to[0].ports"),
        (json!({"to": [{"methods": ["G T"]}]}), "spec.rules[0].to[0].methods"),
        (json!({"to": [{"paths": [{"exact": "/a", "prefix": "/b"}]}]}), "spec.rules[0].to[0].paths"),
        (json!({"to": [{"paths": [{"exact": "/a/../b"}]}]}), "spec.rules[0].to[0].paths"),
        (json!({"to": [{"paths": [{"prefix": "/%61"}]}]}), "spec.rules[0].to[0].paths"),
    ] {
        let index = index(&[authz("p", json!({"action": "Allow", "rules": [rule.clone()]}))]);
        let told = status(&index, Kind::AuthorizationPolicy, "p");
        assert_eq!((told.accepted, fields(&told)[0]), (false, field), "{rule}");
    }
}

#[test]
fn mesh_policies_reach_the_workloads_of_their_scope() {
    let cluster = json!({"mtls": {"mode": "Strict"}, "defaultAuthorization": "Authenticated", "overridable": false});
    let selected = json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"ports": [{"port": 9000, "mode": "Permissive"}]}, "protocols": [{"port": 7000, "protocol": "Opaque"}]});
    let mut index = index(&world(&[
        mk_policy_in("MeshPolicy", "weft-system", "mesh", cluster.clone()),
        mk_policy("MeshPolicy", "web", selected),
    ]));
    let spec = inbound(&index, "web-1");
    assert_eq!((spec.mtls, spec.default_authorization), (MtlsMode::Strict, DefaultAuthorization::Authenticated));
    assert_eq!(spec.default_policy.unwrap().as_str(), "MeshPolicy/weft-system/mesh");
    assert!(spec.ports.iter().all(|p| p.mtls == MtlsMode::Strict));
    let told = status(&index, Kind::MeshPolicy, "web");
    assert!(!told.accepted && told.problems[0].message.contains("weft-system/mesh"), "{told:?}");

    let mut overridable = cluster;
    overridable["overridable"] = json!(true);
    index.apply(&mk_policy_in("MeshPolicy", "weft-system", "mesh", overridable));
    let spec = inbound(&index, "web-1");
    let open: Vec<_> = spec.ports.iter().filter(|p| p.mtls == MtlsMode::Permissive).map(|p| p.port).collect();
    assert_eq!(open, [9000]);
    assert!(spec.ports.iter().any(|p| p.port == 7000 && p.protocol == weft_model::AppProtocol::Opaque));
    assert!(inbound(&index, "db-1").ports.is_empty());
}

#[test]
fn only_the_mesh_has_egress_telemetry_and_networks() {
    let wide = json!({"egress": "MeshOnly", "networks": ["192.168.1.7/24"],
        "telemetry": {"accessLog": true, "tracing": {"otlpEndpoint": "http://127.0.0.1:4317", "samplePerMillion": 10}}});
    let index =
        index(&[mk_policy_in("MeshPolicy", "weft-system", "mesh", wide.clone()), mk_policy("MeshPolicy", "ns", wide)]);
    let spec = index.mesh(vec![vec![1]]);
    assert_eq!(spec.networks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "192.168.1.0/24"]);
    assert_eq!(spec.telemetry.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    assert!(spec.telemetry.access_log);
    let told = status(&index, Kind::MeshPolicy, "ns");
    assert_eq!(fields(&told), ["spec.egress", "spec.telemetry", "spec.networks"]);
}
