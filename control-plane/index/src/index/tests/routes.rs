use std::time::Duration;

use serde_json::json;
use weft_model::route::{BackendTarget, HttpFilter, HttpMatch, PathMatch, PathModifier, Redirect, Rewrite, UrlScheme};

use super::fixtures::{
    fields, index, key, mk_grpc_route, mk_policy, mk_route, mk_route_in, mk_service, service, status,
};
use crate::{Condition, Kind, Object, ObjectKey};

fn backend(name: &str) -> serde_json::Value {
    json!({"name": name, "port": 80})
}

fn world(rules: serde_json::Value) -> Vec<Object> {
    vec![
        mk_service("web", "10.96.0.1"),
        mk_service("v1", "10.96.0.2"),
        mk_service("v2", "10.96.0.3"),
        mk_route("r", "web", rules),
    ]
}

#[test]
fn a_rule_says_what_was_written() {
    let rule = json!({
        "name": "canary",
        "matches": [{"path": {"type": "Exact", "value": "/a"}, "method": "GET",
                     "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}],
                     "queryParams": [{"name": "q", "value": "v"}]}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-b", "value": "b"}]}}],
        "backendRefs": [{"name": "v1", "port": 80, "weight": 9}, {"name": "v2", "port": 80, "weight": 1}],
        "timeouts": {"request": "10s", "backendRequest": "2s"},
        "retry": {"codes": [503, 500], "attempts": 3, "backoff": "10ms"},
    });
    let index = index(&world(json!([rule])));
    assert!(status(&index, Kind::HttpRoute, "r").problems.is_empty());
    let routes = service(&index, "web").http_routes;
    let rule = &routes[0].rules[0];
    assert_eq!(rule.name.as_deref(), Some("canary"));
    assert_eq!(rule.matches[0].path, Some(PathMatch::Exact("/a".into())));
    assert_eq!(rule.matches[0].headers.len(), 1, "a name counts once");
    assert!(matches!(&rule.filters[..], [HttpFilter::RequestHeaders(m)] if m.set.len() == 1));
    let weights: Vec<_> = rule.backends.iter().map(|b| (b.target.clone(), b.weight)).collect();
    assert_eq!(weights, [(BackendTarget::Service(key("v1", 80)), 9), (BackendTarget::Service(key("v2", 80)), 1)]);
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_secs(2)));
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.status_codes.as_slice(), retry.attempts), ([500, 503].as_slice(), 3));
    assert!(!retry.non_idempotent);
}

#[test]
fn what_cannot_be_honoured_answers_500_or_never_matches_and_is_told() {
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend("v2")}});
    let weft = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "weft-error", "value": "x"}]}});
    let regex = json!({"path": {"type": "RegularExpression", "value": "/a.*"}});
    let prefix = json!({"path": {"type": "PathPrefix", "value": "/b"}});
    let index = index(&world(json!([
        {"filters": [mirror], "backendRefs": [backend("v1")]},
        {"filters": [weft], "backendRefs": [backend("v1")]},
        {"matches": [regex], "backendRefs": [backend("v1")]},
        {"matches": [regex, prefix], "backendRefs": [backend("v1")]},
    ])));
    let told = status(&index, Kind::HttpRoute, "r");
    assert!(!told.accepted);
    assert_eq!(
        fields(&told),
        [
            "spec.rules[0].filters[0]",
            "spec.rules[1].filters[0]",
            "spec.rules[2].matches[0].path",
            "spec.rules[2]",
            "spec.rules[3].matches[0].path",
        ]
    );
    let rules = &service(&index, "web").http_routes[0].rules;
    let shape: Vec<_> = rules.iter().map(|r| (r.matches.len(), r.backends.len())).collect();
    assert_eq!(shape, [(0, 0), (0, 0), (1, 1)], "no backend is 500; what matches nothing is gone, not everything");
}

#[test]
fn headers_that_are_not_a_routes_to_change_are_named() {
    let filter = |kind: &str, name: &str, modifier: serde_json::Value| json!({"type": kind, name: modifier});
    let pair = |name: &str| json!({"name": name, "value": "x"});
    let request = json!({"set": [pair("Keep-Alive"), pair("x-fine")], "add": [pair("Proxy-Connection")],
        "remove": ["weft-client-id", "Host"]});
    let response = json!({"remove": ["te"]});
    let index = index(&world(json!([
        {"filters": [filter("RequestHeaderModifier", "requestHeaderModifier", request)], "backendRefs": [backend("v1")]},
        {"backendRefs": [{"name": "v1", "port": 80,
            "filters": [filter("ResponseHeaderModifier", "responseHeaderModifier", response)]}]},
        {"backendRefs": [backend("v1")]},
    ])));
    let told = status(&index, Kind::HttpRoute, "r");
    assert_eq!(fields(&told), ["spec.rules[0].filters[0]", "spec.rules[1].backendRefs[0].filters[0]"]);
    let message = &told.problems[0].message;
    assert!(message.contains("host, keep-alive, proxy-connection, weft-client-id;"), "{message}");
    let rules = &service(&index, "web").http_routes[0].rules;
    assert_eq!(rules.iter().map(|rule| rule.backends.len()).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(rules[1].backends[0].target, BackendTarget::Invalid);
}

#[test]
fn a_route_without_a_rule_that_matches_stays_a_route() {
    let regex = json!({"path": {"type": "RegularExpression", "value": "/a.*"}});
    let index = index(&world(json!([{"matches": [regex], "backendRefs": [backend("v1")]}])));
    let routes = service(&index, "web").http_routes;
    assert_eq!((routes.len(), routes[0].rules.len()), (1, 0), "its traffic must not go around it");
}

#[test]
fn references_that_do_not_resolve_are_invalid_until_they_do() {
    let cases = json!([{"backendRefs": [
        backend("gone"),
        {"name": "v1", "port": 81},
        {"name": "v1"},
        {"name": "v1", "port": 80, "kind": "Other"},
        {"name": "v1", "port": 80, "namespace": "elsewhere"},
        {"name": "v1", "port": 80, "filters": [{"type": "CORS", "cors": {}}]},
    ]}]);
    let mut index = index(&world(cases));
    let targets = |index: &crate::Index| {
        let rule = service(index, "web").http_routes[0].rules[0].clone();
        rule.backends.into_iter().map(|b| b.target).collect::<Vec<_>>()
    };
    assert_eq!(targets(&index), vec![BackendTarget::Invalid; 6]);
    let told = status(&index, Kind::HttpRoute, "r");
    assert!(!told.resolved_refs);
    assert_eq!(told.problems.iter().filter(|p| p.condition == Condition::ResolvedRefs).count(), 5);

    let changes = index.apply(&mk_service("gone", "10.96.0.9"));
    assert!(changes.affected.contains(&crate::Affected::Service(key("web", 80))), "{changes:?}");
    assert_eq!(targets(&index)[0], BackendTarget::Service(key("gone", 80)));
}

#[test]
fn routes_stand_in_order_of_age_then_name() {
    let aged = |name: &str, time: &str| {
        let mut route = mk_route(name, "web", json!([{"backendRefs": [backend("v1")]}]));
        if let Object::HttpRoute(route) = &mut route {
            route.metadata.creation_timestamp = Some(serde_json::from_value(json!(time)).unwrap());
        }
        route
    };
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_service("v1", "10.96.0.2"),
        aged("b", "2026-01-02T00:00:00Z"),
        aged("c", "2026-01-01T00:00:00Z"),
        aged("a", "2026-01-02T00:00:00Z"),
    ]);
    let names: Vec<_> = service(&index, "web").http_routes.iter().map(|r| r.id.name().to_owned()).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn a_consumer_route_is_its_own_namespaces_alone() {
    let parents = json!([{"group": "", "kind": "Service", "namespace": "shop", "name": "web"}]);
    let mut objects = world(json!([{"backendRefs": [backend("v1")]}]));
    objects.push(mk_route_in("client", "theirs", parents, json!([{"backendRefs": []}])));
    let index = index(&objects);
    let seen = |namespace| {
        index.service(namespace, &key("web", 80)).http_routes.iter().map(|r| r.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(seen("client"), ["HTTPRoute/client/theirs"]);
    assert_eq!(seen("shop"), ["HTTPRoute/shop/r"]);
    assert_eq!(seen("other"), ["HTTPRoute/shop/r"]);
    assert!(index.has_consumer_routes(&key("web", 80)));
}

#[test]
fn a_consumer_route_may_send_to_its_parent_and_to_no_other_service_of_that_namespace() {
    let parents = json!([{"group": "", "kind": "Service", "namespace": "shop", "name": "web"}]);
    let to = |name: &str| json!([{"backendRefs": [{"namespace": "shop", "name": name, "port": 80}]}]);
    let objects = [
        mk_service("web", "10.96.0.1"),
        mk_service("db", "10.96.0.2"),
        mk_route_in("client", "parent", parents.clone(), to("web")),
        mk_route_in("client", "other", parents, to("db")),
    ];
    let index = index(&objects);
    let resolved = |name: &str| index.status(&ObjectKey::new(Kind::HttpRoute, "client", name)).unwrap().resolved_refs;
    assert_eq!((resolved("parent"), resolved("other")), (true, false));
}

#[test]
fn a_parent_means_its_port_and_must_exist() {
    let parent = |name: &str, port: u16| json!([{"group": "", "kind": "Service", "name": name, "port": port}]);
    let rules = || json!([{"backendRefs": [backend("web")]}]);
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_route_in("shop", "good", parent("web", 80), rules()),
        mk_route_in("shop", "port", parent("web", 81), rules()),
        mk_route_in("shop", "name", parent("nobody", 80), rules()),
        mk_route_in("shop", "gateway", json!([{"name": "gw"}]), rules()),
    ]);
    assert_eq!(service(&index, "web").http_routes.len(), 1);
    for (name, accepted) in [("good", true), ("port", false), ("name", false), ("gateway", false)] {
        assert_eq!(status(&index, Kind::HttpRoute, name).accepted, accepted, "{name}");
    }
}

#[test]
fn timeouts_and_retries_that_make_no_sense_are_told() {
    let index = index(&world(json!([{
        "backendRefs": [backend("v1")],
        "timeouts": {"request": "1s", "backendRequest": "2s"},
        "retry": {"codes": [200], "attempts": 99, "backoff": "soon"},
    }, {
        "backendRefs": [backend("v1")],
        "timeouts": {"request": "1.5s"},
    }])));
    assert_eq!(
        fields(&status(&index, Kind::HttpRoute, "r")),
        [
            "spec.rules[0].timeouts.backendRequest",
            "spec.rules[0].retry.codes[0]",
            "spec.rules[0].retry.backoff",
            "spec.rules[0].retry.attempts",
            "spec.rules[1].timeouts.request",
        ]
    );
}

#[test]
fn no_deadline_is_stronger_than_the_services_default() {
    let mut objects = world(json!([{"backendRefs": [backend("v1")], "timeouts": {"request": "0s"}}]));
    let spec = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "1s"}});
    objects.push(mk_policy("TrafficPolicy", "p", spec));
    let spec = service(&index(&objects), "web");
    assert_eq!(spec.timeouts.request, Some(Duration::from_secs(1)));
    assert!(spec.http_routes[0].rules[0].timeouts.request > Some(Duration::from_secs(86_400)));
}

#[test]
fn a_redirect_needs_no_backend_and_a_rewrite_says_what_was_written() {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {
        "scheme": "https", "hostname": "shop.example", "port": 8443, "statusCode": 308,
        "path": {"type": "ReplaceFullPath", "replaceFullPath": ""}}});
    let plain = json!({"type": "RequestRedirect", "requestRedirect": {}});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {
        "hostname": "v1.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}});
    let prefix = json!([{"path": {"type": "PathPrefix", "value": "/a"}}]);
    let index = index(&world(json!([
        {"filters": [redirect]},
        {"filters": [plain]},
        {"matches": prefix, "filters": [rewrite], "backendRefs": [backend("v1")]},
        {"backendRefs": [{"name": "v1", "port": 80, "filters": [{"type": "URLRewrite", "urlRewrite": {}}]}]},
    ])));
    let told = status(&index, Kind::HttpRoute, "r");
    assert!(told.problems.is_empty(), "{told:?}");
    let rules = &service(&index, "web").http_routes[0].rules;
    let none = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
    let full = Redirect {
        scheme: Some(UrlScheme::Https),
        hostname: Some("shop.example".into()),
        path: Some(PathModifier::Full("/".into())),
        port: Some(8443),
        status: 308,
    };
    assert_eq!(rules[0].filters, [HttpFilter::Redirect(full)]);
    assert_eq!(rules[1].filters, [HttpFilter::Redirect(none)]);
    let path = Some(PathModifier::Prefix("/".into()));
    assert_eq!(rules[2].filters, [HttpFilter::Rewrite(Rewrite { hostname: Some("v1.example".into()), path })]);
    assert_eq!(rules[3].backends[0].filters, [HttpFilter::Rewrite(Rewrite::default())]);
}

#[test]
fn filters_of_urls_that_make_no_sense_are_named() {
    let redirect = |it: serde_json::Value| json!({"type": "RequestRedirect", "requestRedirect": it});
    let rewrite = |it: serde_json::Value| json!({"type": "URLRewrite", "urlRewrite": it});
    let prefix = json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}});
    let to = |path: &str| json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": path}});
    let exact = json!([{"path": {"type": "Exact", "value": "/a"}}]);
    let two = json!([{"path": {"type": "PathPrefix", "value": "/a"}}, {"path": {"type": "PathPrefix", "value": "/b"}}]);
    let twice = json!([{"name": "v1", "port": 80, "filters": [rewrite(json!({}))]}]);
    let of_backend = json!([{"name": "v1", "port": 80, "filters": [redirect(json!({}))]}]);
    let cases = [
        (json!({"filters": [redirect(json!({"port": 70_000}))]}), "filters[0]", "70000 is not a port"),
        (json!({"filters": [redirect(json!({"hostname": "*.a"}))]}), "filters[0]", "not a DNS name"),
        (json!({"filters": [rewrite(to("b"))]}), "filters[0]", "begins with '/'"),
        (json!({"filters": [rewrite(to("/b?c"))]}), "filters[0]", "a URL encodes"),
        (json!({"filters": [{"type": "URLRewrite"}]}), "filters[0]", "is missing"),
        (json!({"filters": [redirect(json!({})), rewrite(json!({}))]}), "filters", "nothing to rewrite"),
        (json!({"filters": [rewrite(json!({})), rewrite(json!({}))]}), "filters", "no more"),
        (json!({"matches": exact, "filters": [rewrite(prefix.clone())]}), "filters", "by path prefix"),
        (json!({"matches": two, "filters": [redirect(prefix.clone())]}), "filters", "by path prefix"),
        (json!({"backendRefs": of_backend}), "backendRefs[0].filters", "no backend is asked"),
        (json!({"filters": [rewrite(json!({}))], "backendRefs": twice}), "backendRefs[0].filters", "is rewritten once"),
        (json!({"filters": [rewrite(to("/a%zz"))]}), "filters[0]", "a URL encodes"),
        (json!({"filters": [rewrite(to("/a%2fb"))]}), "filters[0]", "a URL encodes"),
        (json!({"filters": [rewrite(to("/a/../b"))]}), "filters[0]", "a URL encodes"),
        (json!({"filters": [rewrite(to("/a//b"))]}), "filters[0]", "a URL encodes"),
    ];
    for (rule, field, why) in cases {
        let index = index(&world(json!([rule])));
        let told = status(&index, Kind::HttpRoute, "r");
        let problem = told.problems.iter().find(|problem| problem.field == format!("spec.rules[0].{field}"));
        let problem = problem.unwrap_or_else(|| panic!("{rule}: {:?}", told.problems));
        assert!(problem.message.contains(why) && problem.condition == Condition::Accepted, "{rule}: {problem}");
        let rule = &service(&index, "web").http_routes[0].rules[0];
        let invalid = rule.backends.iter().all(|backend| backend.target == BackendTarget::Invalid);
        assert!(invalid, "answers 500: {rule:?}");
    }
}

#[test]
fn a_grpc_method_is_a_path() {
    let method = |it: serde_json::Value| json!({"method": it});
    let header = json!({"headers": [{"name": "X-A", "value": "1"}]});
    let index = index(&[
        mk_service("web", "10.96.0.1"),
        mk_service("v1", "10.96.0.2"),
        mk_grpc_route(
            "r",
            "web",
            json!([{"matches": [
                method(json!({"service": "shop.v1.Cart", "method": "Add"})),
                method(json!({"service": "shop.v1.Cart"})),
                method(json!({"type": "Exact", "method": "Add"})),
                header,
                method(json!({"type": "RegularExpression", "service": ".*"})),
                method(json!({})),
                method(json!({"service": "a/b"})),
            ], "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "b", "value": "c"}]}}],
               "backendRefs": [{"name": "v1", "port": 80, "weight": 3}]}]),
        ),
    ]);
    let told = status(&index, Kind::GrpcRoute, "r");
    let at = |i: usize| format!("spec.rules[0].matches[{i}].method");
    assert_eq!(fields(&told), [at(4), at(5), at(6)]);
    let route = &service(&index, "web").http_routes[0];
    assert_eq!(route.id.as_str(), "GRPCRoute/shop/r");
    let rule = &route.rules[0];
    let paths: Vec<_> = rule.matches.iter().map(|one| one.path.clone()).collect();
    let exact = PathMatch::Exact("/shop.v1.Cart/Add".into());
    let prefix = PathMatch::Prefix("/shop.v1.Cart".into());
    assert_eq!(paths, [Some(exact), Some(prefix), Some(PathMatch::GrpcMethod("Add".into())), None]);
    assert!(matches!(&rule.matches[3], HttpMatch { headers, .. } if headers.len() == 1));
    assert_eq!((rule.filters.len(), rule.backends[0].weight), (1, 3));
}

#[test]
fn routes_of_one_kind_apply_to_a_port_and_the_other_is_told_so() {
    let rules = || json!([{"backendRefs": [backend("v1")]}]);
    let mut objects = world(rules());
    objects.push(mk_grpc_route("r", "web", rules()));
    let mut index = index(&objects);
    let ids = |index: &crate::Index| {
        service(index, "web").http_routes.iter().map(|route| route.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&index), ["GRPCRoute/shop/r"]);
    let told = status(&index, Kind::HttpRoute, "r");
    assert!(!told.accepted && told.problems[0].reason == crate::Reason::Conflicted, "{told:?}");
    assert!(told.problems[0].message.starts_with("GRPCRoute/shop/r is attached to "), "{told:?}");
    assert!(status(&index, Kind::GrpcRoute, "r").accepted);

    index.delete(&ObjectKey::new(Kind::GrpcRoute, "shop", "r"));
    assert_eq!(ids(&index), ["HTTPRoute/shop/r"]);
    assert!(status(&index, Kind::HttpRoute, "r").accepted);
}
