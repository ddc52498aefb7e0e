//! What each decision on the way of a request costs, and how that grows, and the admission of a pod: `cargo bench --package weft-bench`.
//!
//! What every request pays is measured at its worst: the rule that matches is the last in its order, the policy that allows too.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use divan::Bencher;
use http::{HeaderMap, Method};
use serde_json::json;
use weft_injector::benching::Admissions;
use weft_injector::patch::Installation;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, DefaultAuthorization, MtlsMode, OperationMatch, PathPattern,
    PeerMatch, PolicyId,
};
use weft_model::resources::{EndpointsDelta, InboundSpec, Lifecycle, ServiceSpec};
use weft_model::route::{Backend, BackendTarget, HttpMatch, HttpRoute, HttpRule, PathMatch, Timeouts};
use weft_model::{EndpointAddr, EndpointSpec, Health, ServiceKey, SpiffeId, WorkloadName};
use weft_proxy_core::authz::{L7View, Policies};
use weft_proxy_core::balance::{pick, pick_by_client};
use weft_proxy_core::path::normalize;
use weft_proxy_core::route::http::{HttpRoutes, RequestView};
use weft_proxy_core::snapshot::EndpointSet;

fn main() {
    divan::main();
}

const RULES: [usize; 4] = [1, 10, 100, 1000];
const ENDPOINTS: [u32; 5] = [1, 10, 100, 1000, 10_000];

/// A rule for each path; the request is for the last one.
#[divan::bench(args = RULES)]
fn match_a_route(bencher: Bencher<'_, '_>, rules: usize) {
    let routes = HttpRoutes::compile(&service(rules));
    let (headers, path) = (HeaderMap::new(), format!("/api/v{}/orders/17", rules - 1));
    let view = RequestView { method: &Method::GET, path: &path, query: Some("page=2"), headers: &headers };
    assert!(routes.select(&view).is_some(), "it is not the last rule's");
    bencher.bench_local(|| routes.select(black_box(&view)).is_some());
}

#[divan::bench(args = RULES)]
fn compile_routes(bencher: Bencher<'_, '_>, rules: usize) {
    let service = service(rules);
    bencher.bench_local(|| HttpRoutes::compile(black_box(&service)));
}

/// A policy for each client, each for a path of its own; the request is the last one's.
#[divan::bench(args = RULES)]
fn authorize(bencher: Bencher<'_, '_>, policies: usize) {
    let compiled = Policies::compile(&inbound(policies));
    let peer = identity(policies - 1);
    let text = format!("/p{}/orders", policies - 1);
    let path = normalize(&text).ok();
    let view = L7View { method: &Method::GET, path: path.as_ref() };
    assert!(compiled.judge(80, Some(&peer), Some(view)).is_allow(), "it is not the last policy's");
    bencher.bench_local(|| compiled.judge(80, black_box(Some(&peer)), Some(view)).is_allow());
}

#[divan::bench(args = RULES)]
fn compile_policies(bencher: Bencher<'_, '_>, policies: usize) {
    let inbound = inbound(policies);
    bencher.bench_local(|| Policies::compile(black_box(&inbound)));
}

#[divan::bench(args = ENDPOINTS, sample_size = 1000)]
fn balance(bencher: Bencher<'_, '_>, endpoints: u32) {
    let (now, rolls) = (now(), Rolls::default());
    let set = EndpointSet::build(None, &delta(endpoints), now);
    bencher.bench_local(|| pick(black_box(&set), now, rolls.next(), &[]).is_some());
}

#[divan::bench(args = ENDPOINTS, sample_size = 1000)]
fn balance_by_client(bencher: Bencher<'_, '_>, endpoints: u32) {
    let (now, rolls) = (now(), Rolls::default());
    let set = EndpointSet::build(None, &delta(endpoints), now);
    bencher.bench_local(|| {
        let [a, b, c, d, ..] = rolls.next().to_be_bytes();
        pick_by_client(black_box(&set), now, IpAddr::V4(Ipv4Addr::new(a, b, c, d)), &[]).is_some()
    });
}

/// One endpoint comes and one goes, in a set of so many.
#[divan::bench(args = ENDPOINTS)]
fn rebuild_a_snapshot(bencher: Bencher<'_, '_>, endpoints: u32) {
    let now = now();
    let set = EndpointSet::build(None, &delta(endpoints), now);
    let gone = endpoint(0).addr.0;
    let change = EndpointsDelta {
        reset: false,
        upserted: vec![endpoint(endpoints)],
        removed: vec![gone],
        policy: BackendPolicy::default(),
    };
    bencher.bench_local(|| EndpointSet::build(Some(black_box(&set)), &change, now));
}

/// A page with so many lines of samples.
#[divan::bench(args = [100, 1000, 10_000])]
fn scrape(bencher: Bencher<'_, '_>, samples: usize) {
    let registry = weft_proxy::benching::Series::with_samples(samples);
    let mut page = String::new();
    bencher.bench_local(|| {
        page.clear();
        registry.write(&mut page);
        page.len()
    });
}

/// A pod of so many containers with probes, from the text of the API server's question to that of the answer.
#[divan::bench(args = [1, 3, 10])]
fn admit_a_pod(bencher: Bencher<'_, '_>, containers: usize) {
    let webhook = Admissions::new(Installation {
        image: "weft/proxy:1".to_owned(),
        control_plane: "weft-control-plane.weft-system.svc:14010".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ..Installation::default()
    });
    let question = question(containers);
    let answer = webhook.answer(&question).unwrap_or_default();
    assert!(String::from_utf8_lossy(&answer).contains("JSONPatch"), "it has no proxy");
    bencher.bench_local(|| webhook.answer(black_box(&question)).map_or(0, |answer| answer.len()));
}

fn question(containers: usize) -> Vec<u8> {
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10, "failureThreshold": 3});
    let container = |n: usize| {
        json!({
            "name": format!("c{n}"), "image": format!("registry.example/shop/c{n}:1.2.3"), "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": "http", "containerPort": 8080 + n, "protocol": "TCP"}],
            "env": (0..10).map(|n| json!({"name": format!("SETTING_{n}"), "value": "a value"})).collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": probe("/ready"), "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 10},
            "lifecycle": {"preStop": probe("/bye")},
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
        })
    };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "namespace": "shop", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"generateName": "cart-7d4b9-", "namespace": "shop", "labels": {"app": "cart"}},
                "spec": {
                    "serviceAccountName": "cart", "restartPolicy": "Always",
                    "containers": (0..containers).map(container).collect::<Vec<_>>(),
                    "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
                },
            },
        },
    });
    review.to_string().into_bytes()
}

fn service(rules: usize) -> ServiceSpec {
    let rule = |n: usize| HttpRule {
        name: None,
        matches: vec![HttpMatch {
            path: Some(PathMatch::Prefix(format!("/api/v{n}").into())),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: vec![Backend { target: BackendTarget::Service(key(n)), weight: 1, filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
    };
    let id = PolicyId::new("HTTPRoute", "shop", "api");
    let route = HttpRoute { id, created: 0, rules: (0..rules).map(rule).collect() };
    ServiceSpec { http_routes: vec![route], ..ServiceSpec::plain(key(0)) }
}

fn key(n: usize) -> ServiceKey {
    ServiceKey::new("shop", &format!("s{n}"), 80)
}

fn inbound(policies: usize) -> InboundSpec {
    let policy = |n: usize| AuthzPolicy {
        id: PolicyId::new("AuthorizationPolicy", "shop", &format!("p{n}")),
        action: AuthzAction::Allow,
        ports: vec![80],
        rules: vec![AuthzRule {
            from: vec![PeerMatch::Identity(identity(n))],
            to: vec![OperationMatch {
                paths: vec![PathPattern::Prefix(format!("/p{n}").into())],
                ..OperationMatch::default()
            }],
        }],
    };
    InboundSpec {
        workload: WorkloadName::new("shop", "w"),
        ports: Vec::new(),
        mtls: MtlsMode::Strict,
        default_authorization: DefaultAuthorization::Deny,
        default_policy: None,
        authz: (0..policies).map(policy).collect(),
        lifecycle: Lifecycle::Serving,
    }
}

#[expect(clippy::expect_used, reason = "a constant of this file")]
fn identity(n: usize) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/a{n}").parse().expect("an identity")
}

fn delta(endpoints: u32) -> EndpointsDelta {
    let upserted = (0..endpoints).map(endpoint).collect();
    EndpointsDelta { reset: true, upserted, removed: Vec::new(), policy: BackendPolicy::default() }
}

fn endpoint(n: u32) -> EndpointSpec {
    EndpointSpec {
        addr: EndpointAddr(SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 80)),
        identity: None,
        workload: None,
        zone: None,
        weight: 1,
        health: Health::Ready,
    }
}

/// As good as random, and the same each time.
#[derive(Default)]
struct Rolls(AtomicU64);

impl Rolls {
    fn next(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary start")]
fn now() -> Instant {
    Instant::now()
}
