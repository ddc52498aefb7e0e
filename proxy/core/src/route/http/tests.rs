use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use weft_model::policy::{PolicyId, RetryPolicy};
use weft_model::resources::ServiceSpec;
use weft_model::route::{
    Backend, BackendTarget, HeaderMatch, HeaderModifier, HttpFilter, HttpMatch, HttpRoute, HttpRule, PathMatch,
    QueryMatch, Timeouts, is_reserved_header,
};
use weft_model::service::ServiceKey;

use super::{HttpRoutes, Pick, RequestView};
use crate::ticks::mix;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name, 80)
}

fn to(name: &str, weight: u32) -> Backend {
    Backend { target: BackendTarget::Service(key(name)), weight, filters: Vec::new() }
}

fn rule(matches: Vec<HttpMatch>, backends: Vec<Backend>) -> HttpRule {
    HttpRule { name: None, matches, filters: Vec::new(), backends, timeouts: Timeouts::default(), retry: None }
}

fn route(name: &str, created: i64, rules: Vec<HttpRule>) -> HttpRoute {
    HttpRoute { id: PolicyId::new("HTTPRoute", "shop", name), created, rules }
}

fn service(http_routes: Vec<HttpRoute>) -> ServiceSpec {
    ServiceSpec { http_routes, ..ServiceSpec::plain(key("web")) }
}

fn exact(path: &str) -> HttpMatch {
    HttpMatch { path: Some(PathMatch::Exact(path.into())), ..HttpMatch::default() }
}

fn prefix(path: &str) -> HttpMatch {
    HttpMatch { path: Some(PathMatch::Prefix(path.into())), ..HttpMatch::default() }
}

fn header(name: &'static str, value: &str) -> HeaderMatch {
    HeaderMatch { name: HeaderName::from_static(name), value: value.into() }
}

/// The name of the rule's first backend, or why there is none.
fn chosen(routes: &HttpRoutes, method: &Method, target: &str, headers: &HeaderMap) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    match routes.select(&RequestView { method, path, query, headers }).map(|rule| rule.pick_backend(0)) {
        None => "no route".into(),
        Some(Pick::Invalid) => "invalid".into(),
        Some(Pick::Service { index, .. }) => routes.backend_keys()[index].name.to_string(),
    }
}

fn get(routes: &HttpRoutes, target: &str) -> String {
    chosen(routes, &Method::GET, target, &HeaderMap::new())
}

#[test]
fn without_routes_everything_goes_to_the_service_itself() {
    let retry = RetryPolicy {
        status_codes: vec![503],
        grpc_codes: Vec::new(),
        on_reset: false,
        attempts: 1,
        backoff: Duration::ZERO,
        non_idempotent: false,
    };
    let timeouts = Timeouts { request: Some(Duration::from_secs(3)), backend_request: None };
    let routes = HttpRoutes::compile(&ServiceSpec { retry: Some(retry.clone()), timeouts, ..service(Vec::new()) });
    let headers = HeaderMap::new();
    let view = RequestView { method: &Method::OPTIONS, path: "*", query: None, headers: &headers };
    let rule = routes.select(&view).unwrap();
    assert_eq!((rule.route(), rule.timeouts(), rule.retry()), (None, timeouts, Some(&retry)));
    assert_eq!(get(&routes, "/any"), "web");
    assert_eq!(routes.backend_keys(), [key("web")]);
}

#[test]
fn a_path_prefix_means_whole_segments() {
    for (matched, path, holds) in [
        ("/", "/", true),
        ("/", "/a/b", true),
        ("/", "*", true),
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a", "/A", false),
        ("/a", "/", false),
        ("/a/", "/a", true),
        ("/a/", "/a/b", true),
        ("/a/", "/ab", false),
        ("/a/b", "/a/b/c/d", true),
        ("/a/b", "/a/c", false),
        ("/a/b", "/a", false),
        ("/a//b", "/a//b", true),
        ("/a//b", "/a/b", false),
    ] {
        let routes =
            HttpRoutes::compile(&service(vec![route("r", 0, vec![rule(vec![prefix(matched)], vec![to("x", 1)])])]));
        assert_eq!(get(&routes, path) == "x", holds, "{matched} {path}");
    }
}

#[test]
fn the_more_specific_match_wins() {
    let post = HttpMatch { method: Some(Method::POST), ..prefix("/a") };
    let one_header = HttpMatch { headers: vec![header("x-a", "1")], ..prefix("/a") };
    let two_headers = HttpMatch { headers: vec![header("x-a", "1"), header("x-b", "2")], ..prefix("/a") };
    let query = HttpMatch { query: vec![QueryMatch { name: "v".into(), value: "2".into() }], ..prefix("/a") };
    // In the resource they stand from the least to the most specific.
    let rules = [
        ("everything", HttpMatch::default()),
        ("prefix", prefix("/a")),
        ("query", query),
        ("header", one_header),
        ("headers", two_headers),
        ("post", post),
        ("longer", prefix("/a/b")),
        ("exact", exact("/a")),
    ];
    let rules = rules.into_iter().map(|(name, one)| rule(vec![one], vec![to(name, 1)])).collect();
    let routes = HttpRoutes::compile(&service(vec![route("r", 0, rules)]));
    let with = |names: &[&'static str]| {
        let value = |name: &str| HeaderValue::from_static(if name == "x-a" { "1" } else { "2" });
        names.iter().map(|name| (HeaderName::from_static(name), value(name))).collect::<HeaderMap>()
    };
    for (method, target, headers, want) in [
        (Method::GET, "/", with(&[]), "everything"),
        (Method::GET, "/a", with(&["x-a", "x-b"]), "exact"),
        (Method::GET, "/a/x", with(&[]), "prefix"),
        (Method::GET, "/a/x?v=2", with(&[]), "query"),
        (Method::GET, "/a/x?v=2", with(&["x-a"]), "header"),
        (Method::GET, "/a/x?v=2", with(&["x-a", "x-b"]), "headers"),
        (Method::POST, "/a/x?v=2", with(&["x-a", "x-b"]), "post"),
        (Method::POST, "/a/b", with(&["x-a", "x-b"]), "longer"),
    ] {
        assert_eq!(chosen(&routes, &method, target, &headers), want, "{method} {target} {headers:?}");
    }
}

#[test]
fn among_equals_age_then_name_then_order_decide() {
    let one = |name, created, backend| route(name, created, vec![rule(Vec::new(), vec![to(backend, 1)])]);
    let by_age = HttpRoutes::compile(&service(vec![one("a", 5, "young"), one("b", 3, "old")]));
    assert_eq!(get(&by_age, "/"), "old");
    let by_name = HttpRoutes::compile(&service(vec![one("b", 3, "b"), one("a", 3, "a")]));
    assert_eq!(get(&by_name, "/"), "a");
    let rules = vec![rule(Vec::new(), vec![to("first", 1)]), rule(vec![prefix("/")], vec![to("second", 1)])];
    assert_eq!(get(&HttpRoutes::compile(&service(vec![route("a", 0, rules)])), "/"), "first");
}

#[test]
fn where_routes_are_attached_and_none_matches_there_is_no_route() {
    let routes = HttpRoutes::compile(&service(vec![route("r", 0, vec![rule(vec![exact("/a")], vec![to("x", 1)])])]));
    assert_eq!(get(&routes, "/b"), "no route");
    let empty = HttpRoutes::compile(&service(vec![route("r", 0, Vec::new())]));
    assert_eq!(get(&empty, "/"), "no route");
}

#[test]
fn weights_divide_requests() {
    let invalid = Backend { target: BackendTarget::Invalid, weight: 10, filters: Vec::new() };
    let backends = vec![to("none", 0), to("v1", 60), to("v2", 30), invalid, to("also none", 0)];
    let routes = HttpRoutes::compile(&service(vec![route("r", 0, vec![rule(Vec::new(), backends)])]));
    let mut seen = BTreeMap::<String, u32>::new();
    for n in 0..20_000 {
        let name = match routes.rules()[0].pick_backend(mix(n)) {
            Pick::Invalid => "invalid".into(),
            Pick::Service { index, .. } => routes.backend_keys()[index].name.to_string(),
        };
        *seen.entry(name).or_default() += 1;
    }
    let near = |name: &str, want: u32| seen.get(name).is_some_and(|n| n.abs_diff(want) < 400);
    assert!(seen.len() == 3 && near("v1", 12_000) && near("v2", 6000) && near("invalid", 2000), "{seen:?}");

    for backends in [Vec::new(), vec![to("x", 0)]] {
        let routes = HttpRoutes::compile(&service(vec![route("r", 0, vec![rule(Vec::new(), backends)])]));
        assert_eq!(get(&routes, "/"), "invalid");
    }
}

#[test]
fn each_backend_has_one_number() {
    let rules = vec![
        rule(vec![prefix("/a")], vec![to("x", 1), to("y", 1)]),
        rule(vec![prefix("/b")], vec![to("y", 1), to("x", 1)]),
    ];
    let routes = HttpRoutes::compile(&service(vec![route("r", 0, rules)]));
    assert_eq!(routes.backend_keys(), [key("x"), key("y")]);
}

#[test]
fn a_rule_has_its_own_deadlines_and_retries_or_the_services() {
    let seconds = |n| Some(Duration::from_secs(n));
    let mut own = rule(vec![prefix("/own")], vec![to("x", 1)]);
    own.timeouts = Timeouts { request: seconds(1), backend_request: None };
    let spec = ServiceSpec {
        timeouts: Timeouts { request: seconds(9), backend_request: seconds(8) },
        ..service(vec![route("r", 0, vec![own, rule(vec![prefix("/")], vec![to("x", 1)])])])
    };
    let routes = HttpRoutes::compile(&spec);
    assert_eq!(routes.rules()[0].timeouts(), Timeouts { request: seconds(1), backend_request: seconds(8) });
    assert_eq!(routes.rules()[1].timeouts(), spec.timeouts);
}

#[test]
fn filters_set_then_add_then_remove_and_never_touch_the_framing() {
    let pair = |name: &'static str, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let modifier = HeaderModifier {
        set: vec![pair("x-set", "new"), pair("transfer-encoding", "chunked"), pair("weft-client-id", "forged")],
        add: vec![pair("x-add", "2"), pair("content-length", "0")],
        remove: vec![HeaderName::from_static("x-old"), HeaderName::from_static("connection")],
    };
    let mut changed = rule(Vec::new(), vec![to("x", 1)]);
    changed.filters =
        vec![HttpFilter::RequestHeaders(modifier), HttpFilter::ResponseHeaders(HeaderModifier::default())];
    let routes = HttpRoutes::compile(&service(vec![route("r", 0, vec![changed])]));
    let mut headers: HeaderMap = [("x-set", "old"), ("x-add", "1"), ("x-old", "gone"), ("connection", "close")]
        .map(|(n, v)| pair(n, v))
        .into_iter()
        .collect();
    routes.rules()[0].filters().on_request(&mut headers).unwrap();
    let all: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(all, [("x-set", &b"new"[..]), ("x-add", b"1"), ("x-add", b"2"), ("connection", b"close")]);
    let before = headers.clone();
    routes.rules()[0].filters().on_response(&mut headers).unwrap();
    assert_eq!(headers, before);
    for (name, reserved) in
        [("te", true), ("weft-error", true), ("proxy-connection", true), ("host", false), ("x", false)]
    {
        assert_eq!(is_reserved_header(&HeaderName::from_static(name)), reserved, "{name}");
    }
}

#[test]
fn deep_and_hostile_paths_are_cheap() {
    let deep = format!("/{}", "a/".repeat(200));
    let routes = HttpRoutes::compile(&service(vec![route(
        "r",
        0,
        vec![rule(vec![prefix(&deep)], vec![to("deep", 1)]), rule(vec![prefix("/a")], vec![to("short", 1)])],
    )]));
    assert_eq!(get(&routes, &"/a".repeat(32 * 1024)), "deep");
    assert_eq!(get(&routes, &format!("/a{}", "/".repeat(64 * 1024))), "short");
}

#[test]
fn a_grpc_method_without_a_service_comes_after_those_with_one() {
    let method = HttpMatch { path: Some(PathMatch::GrpcMethod("Add".into())), ..HttpMatch::default() };
    let routes = HttpRoutes::compile(&service(vec![route(
        "r",
        0,
        vec![
            rule(vec![method], vec![to("method", 1)]),
            rule(vec![prefix("/a.Cart")], vec![to("service", 1)]),
            rule(vec![exact("/a.Cart/Add")], vec![to("both", 1)]),
            rule(Vec::new(), vec![to("any", 1)]),
        ],
    )]));
    for (path, want) in [
        ("/a.Cart/Add", "both"),
        ("/a.Cart/Remove", "service"),
        ("/b.Cart/Add", "method"),
        ("/b.Cart/Add/x", "any"),
        ("//Add", "any"),
        ("/Add", "any"),
    ] {
        assert_eq!(get(&routes, path), want, "{path}");
    }
}

/// What Gateway API says, word for word: look at every match, keep the best.
fn naive(spec: &ServiceSpec, request: &RequestView<'_>) -> Option<usize> {
    let mut best = None;
    let mut number = 0;
    for route in &spec.http_routes {
        for rule in &route.rules {
            let everything = vec![HttpMatch::default()];
            for one in if rule.matches.is_empty() { &everything } else { &rule.matches } {
                let rank = naive_rank(one, request).map(|rank| (rank, route.created, route.id.as_str(), number));
                best = [best, rank].into_iter().flatten().min();
            }
            number += 1;
        }
    }
    best.map(|(.., number)| number)
}

type Rank = (bool, Reverse<usize>, Reverse<bool>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

fn naive_rank(one: &HttpMatch, request: &RequestView<'_>) -> Option<Rank> {
    let (is_prefix, len) = match &one.path {
        Some(PathMatch::Exact(path)) => (**path == *request.path).then_some((false, 0))?,
        Some(PathMatch::Prefix(path)) => {
            let path = path.trim_end_matches('/');
            let below = request.path.strip_prefix(path)?;
            (below.is_empty() || below.starts_with('/')).then_some((true, path.len()))?
        }
        Some(PathMatch::GrpcMethod(method)) => {
            let (_service, asked) = request.path.strip_prefix('/')?.split_once('/').filter(|(s, _)| !s.is_empty())?;
            (asked == &**method).then_some((true, 0))?
        }
        None => (true, 0),
    };
    let of_grpc = matches!(&one.path, Some(PathMatch::GrpcMethod(_)));
    let joined = |name: &HeaderName| {
        let fields: Vec<_> = request.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        (!fields.is_empty()).then(|| fields.join(","))
    };
    let param = |name: &str| {
        let mut params =
            request.query.unwrap_or_default().split('&').map(|param| param.split_once('=').unwrap_or((param, "")));
        params.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let holds = one.method.as_ref().is_none_or(|method| method == request.method)
        && one.headers.iter().all(|header| joined(&header.name).as_deref() == Some(&*header.value))
        && one.query.iter().all(|query| param(&query.name) == Some(&*query.value));
    holds.then_some((
        is_prefix,
        Reverse(len),
        Reverse(one.method.is_some()),
        Reverse(of_grpc),
        Reverse(one.headers.len()),
        Reverse(one.query.len()),
    ))
}

fn a_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab"), Just("")], 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn a_match() -> impl Strategy<Value = HttpMatch> {
    // A prefix in the API does not end in more than one slash.
    let a_prefix = a_path().prop_map(|path| PathMatch::Prefix(format!("/{}", path.trim_matches('/')).into()));
    let path = proptest::option::of(prop_oneof![
        4 => a_path().prop_map(|path| PathMatch::Exact(path.into())),
        4 => a_prefix,
        1 => Just(PathMatch::GrpcMethod("b".into())),
    ]);
    let method = proptest::option::of(prop_oneof![Just(Method::GET), Just(Method::POST)]);
    let names = ["x-a", "x-b"];
    let headers = proptest::sample::subsequence(names.to_vec(), 0..=2).prop_flat_map(|names| {
        let values = proptest::collection::vec(prop_oneof![Just("1"), Just("1,2"), Just("2")], names.len());
        values.prop_map(move |values| names.iter().zip(values).map(|(name, value)| header(name, value)).collect())
    });
    let query = proptest::sample::subsequence(vec!["p", "q"], 0..=2)
        .prop_map(|names| names.into_iter().map(|name| QueryMatch { name: name.into(), value: "1".into() }).collect());
    (path, method, headers, query).prop_map(|(path, method, headers, query)| HttpMatch { path, method, headers, query })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_index_chooses_what_the_naive_scan_chooses(
        routes in proptest::collection::vec(
            (0i64..3, 0u8..4, proptest::collection::vec(proptest::collection::vec(a_match(), 0..4), 0..4)),
            1..4,
        ),
        requests in proptest::collection::vec(
            (a_path(), any::<bool>(), proptest::collection::vec((0usize..2, 1u8..3), 0..4), "(p=[12])?(&q=[12])?(&p=1)?"),
            1..8,
        ),
    ) {
        let routes: Vec<HttpRoute> = routes.into_iter().enumerate().map(|(n, (created, name, rules))| {
            let rules = rules.into_iter().map(|matches| rule(matches, vec![to("x", 1)])).collect();
            route(&format!("{name}-{n}"), created, rules)
        }).collect();
        let spec = service(routes);
        let compiled = HttpRoutes::compile(&spec);
        for (path, post, fields, query) in requests {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(["x-a", "x-b"][name], HeaderValue::from(u16::from(value)));
            }
            let method = if post { Method::POST } else { Method::GET };
            let view = RequestView { method: &method, path: &path, query: Some(&query), headers: &headers };
            let got = compiled.select(&view).map(|rule| {
                compiled.rules().iter().position(|other| Arc::ptr_eq(rule, other)).unwrap()
            });
            prop_assert_eq!(got, naive(&spec, &view), "{:?}", view);
        }
    }
}
