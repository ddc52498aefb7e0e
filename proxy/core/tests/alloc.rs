//! Decisions on the way of a request allocate nothing. An allocator that counts is the only witness that cannot err.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weft_model::addr::EndpointAddr;
use weft_model::endpoint::{EndpointSpec, Health, WorkloadName};
use weft_model::identity::SpiffeId;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, DefaultAuthorization, Ejection, MtlsMode, OperationMatch,
    PathPattern, PeerMatch, PolicyId, RetryBudget,
};
use weft_model::resources::{EndpointsDelta, InboundSpec, Lifecycle, ServiceSpec};
use weft_model::route::{
    Backend, BackendTarget, HeaderMatch, HttpMatch, HttpRoute, HttpRule, PathMatch, QueryMatch, Timeouts,
};
use weft_model::service::ServiceKey;
use weft_proxy_core::authz::{L7View, Policies};
use weft_proxy_core::balance::{pick, pick_by_client};
use weft_proxy_core::classify::Class;
use weft_proxy_core::detect::detect;
use weft_proxy_core::learn::ServerFirst;
use weft_proxy_core::limit::{Concurrency, TokenBucket};
use weft_proxy_core::path::normalize;
use weft_proxy_core::retry::{Attempt, Budget, Outcome, Replay, may_retry};
use weft_proxy_core::route::http::{HttpRoutes, RequestView};
use weft_proxy_core::snapshot::EndpointSet;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "the trait is unsafe; every call is handed on to the system's allocator unchanged")]
// SAFETY: all is forwarded to `System`, which keeps the contract; the counter is a const-initialised thread local
// without a destructor, so touching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes in `work`.
fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary start; the test only adds to it")]
fn start() -> Instant {
    Instant::now()
}

/// As good as random, and the same each time.
fn rolls(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[test]
fn the_witness_counts() {
    assert_eq!(allocations(|| drop(Box::new(1))), 1);
}

#[test]
fn selecting_a_route_and_a_backend_allocates_nothing() {
    let key = |n: usize| ServiceKey::new("shop", &format!("s{n}"), 80);
    let one = |n: usize| HttpMatch {
        path: Some(if n.is_multiple_of(2) {
            PathMatch::Prefix(format!("/a/{n}").into())
        } else {
            PathMatch::Exact(format!("/a/{n}/x").into())
        }),
        method: (n.is_multiple_of(3)).then_some(Method::GET),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-v"), value: "1,2".into() }],
        query: vec![QueryMatch { name: "q".into(), value: "ä".into() }],
    };
    let rule = |n: usize| HttpRule {
        name: None,
        matches: vec![one(n), one(n + 1)],
        filters: Vec::new(),
        backends: (0..3)
            .map(|m| Backend { target: BackendTarget::Service(key(n + m)), weight: 1, filters: Vec::new() })
            .collect(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    let route =
        HttpRoute { id: PolicyId::new("HTTPRoute", "shop", "r"), created: 0, rules: (0..100).map(rule).collect() };
    let routes = HttpRoutes::compile(&ServiceSpec { http_routes: vec![route], ..ServiceSpec::plain(key(0)) });
    let mut headers = HeaderMap::new();
    headers.append("x-v", HeaderValue::from_static("1"));
    headers.append("x-v", HeaderValue::from_static("2"));
    let view = RequestView { method: &Method::GET, path: "/a/42/x/y", query: Some("p=1&q=%C3%a4"), headers: &headers };
    assert!(routes.select(&view).is_some());
    let missed = RequestView { path: "/b", ..view };
    let count = allocations(|| {
        for roll in rolls(100) {
            let rule = routes.select(&view).map(std::sync::Arc::clone);
            assert!(rule.is_some_and(|rule| matches!(
                rule.pick_backend(roll),
                weft_proxy_core::route::http::Pick::Service { .. }
            )));
            assert!(routes.select(&missed).is_none());
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn judging_allocates_nothing() {
    let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/front".parse().unwrap();
    let rule = |n: usize| AuthzRule {
        from: vec![PeerMatch::Namespace(format!("n{n}").into()), PeerMatch::Identity(peer.clone())],
        to: vec![OperationMatch {
            paths: vec![PathPattern::Prefix(format!("/p{n}").into())],
            ..OperationMatch::default()
        }],
    };
    let policy = |n: usize| AuthzPolicy {
        id: PolicyId::new("AuthorizationPolicy", "shop", &format!("p{n}")),
        action: [AuthzAction::Allow, AuthzAction::Deny, AuthzAction::Audit][n % 3],
        ports: Vec::new(),
        rules: vec![rule(n)],
    };
    let policies = Policies::compile(&InboundSpec {
        workload: WorkloadName::new("shop", "w"),
        ports: Vec::new(),
        mtls: MtlsMode::Strict,
        default_authorization: DefaultAuthorization::Deny,
        default_policy: None,
        authz: (0..99).map(policy).collect(),
        lifecycle: Lifecycle::Serving,
    });
    let mut audited = 0;
    let count = allocations(|| {
        for path in ["/p96/x", "/p97", "/p98", "/none"] {
            let path = normalize(path).unwrap();
            let view = L7View { method: &Method::GET, path: Some(&path) };
            assert_eq!(policies.judge(80, Some(&peer), Some(view)).is_allow(), path.as_str() == "/p96/x");
            policies.audit(80, Some(&peer), Some(view), |_| audited += 1);
            assert!(!policies.judge(80, None, None).is_allow());
            assert!(policies.needs_l7(80));
        }
    });
    assert_eq!((count, audited), (0, 1));
}

#[test]
fn balancing_allocates_nothing_once_warm() {
    let now = start();
    let spec = |n: u32| EndpointSpec {
        addr: EndpointAddr(SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 80)),
        identity: None,
        workload: None,
        zone: None,
        weight: 1 + n % 3,
        health: Health::Ready,
    };
    let policy = BackendPolicy { ejection: Some(Ejection::default()), ..BackendPolicy::default() };
    let delta = EndpointsDelta { reset: true, upserted: (0..10_000).map(spec).collect(), removed: Vec::new(), policy };
    let set = EndpointSet::build(None, &delta, now);
    let client = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));
    drop(pick_by_client(&set, now, client, &[]));
    let count = allocations(|| {
        for roll in rolls(1000) {
            let mut first = pick(&set, now, roll, &[]).unwrap();
            first.report(Class::Failure, now, roll);
            let mut second = pick(&set, now, roll, &[first.endpoint().id()]).unwrap();
            second.first_byte(Class::Success, now + Duration::from_millis(1));
            second.report(Class::Success, now, roll);
            drop(pick_by_client(&set, now, client, &[]));
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn limits_retries_and_detection_allocate_nothing() {
    let now = start();
    let places = Concurrency::new(10);
    let bucket = TokenBucket::new(100, 10, now);
    let budget = Budget::new(now);
    let learned = ServerFirst::new(now);
    let method = Method::GET;
    let attempt =
        Attempt { outcome: Outcome::Unprocessed, method: &method, policy: None, retries: 0, replay: Replay::Whole };
    let count = allocations(|| {
        for roll in rolls(100) {
            black_box((places.try_acquire(), bucket.try_take(now).is_ok(), may_retry(&attempt, roll)));
            budget.deposit(now);
            black_box((budget.withdraw(&RetryBudget::default(), now), detect(b"GET / HTTP/1.1\r\n")));
            learned.observe(now);
            black_box((learned.is_known(now), normalize("/a/b").is_ok()));
        }
    });
    assert_eq!(count, 0);
}
