//! Each reason that HTTP produces: status, `weft-error`, record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, ConnectTimeout, Ejection, OperationMatch, PathPattern,
};
use weft_model::resources::{InboundSpec, ServiceSpec};
use weft_model::route::{
    Backend, BackendTarget, HeaderModifier, HttpFilter, HttpMatch, HttpRoute, HttpRule, PathMatch, Timeouts,
};
use weft_model::{EndpointSpec, PolicyId};
use weft_tls::testing::{ManualTime, TestCa};

use super::world::{
    Server, Setting, World, endpoint, h2_request, h2_server, id, inbound, key, local, nobody, passthrough, read_head,
    read_to_end, say, service_of, spec, to, with_spec,
};
use crate::resolve::Target;

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Asks through a world and checks what comes of it. The word is in header, body and metric alike.
async fn check(world: &World, target: Target, request: &str, status: u16, reason: &str) {
    let answer = say(world.http1(world.outbound(target)).await, request).await;
    refused(world, &answer, status, reason).await;
}

async fn refused(world: &World, answer: &str, status: u16, reason: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{reason}: {answer}");
    assert!(answer.contains(&format!("\r\nweft-error: {reason}\r\n")), "{answer}");
    assert!(answer.contains(&format!("\r\n\r\n{reason}")), "{answer}");
    let labels = [format!("reason=\"{reason}\""), format!("status_code=\"{status}\"")];
    while world.count("weft_requests_total", &[&labels[0], &labels[1]]) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.count("weft_requests_total", &[]), 1, "{reason}");
}

async fn silent() -> SocketAddr {
    let server = Server::start(|mut io, _| async move {
        read_head(&mut io).await;
        sleep(Duration::from_secs(60)).await;
    });
    server.await.addr
}

#[tokio::test]
async fn heads_that_cannot_be_read() {
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "x: 1\r\n".repeat(300));
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad-request"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad-request"),
        ("nonsense\r\n\r\n", 400, "bad-request"),
        (&large, 431, "headers-too-large"),
        (&many, 431, "headers-too-large"),
    ] {
        local(async { check(&World::new(), passthrough(nobody().await), request, status, reason).await }).await;
    }
}

#[tokio::test]
async fn a_head_that_breaks_off_is_counted_and_a_connection_without_one_is_not() {
    local(async {
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(nobody().await))).await;
        client.write_all(b"GET / HT").await.unwrap();
        drop(client);
        world.until_ended("client-gone", 1).await;
        drop(world.http1(world.outbound(passthrough(nobody().await))).await);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(world.count("weft_requests_total", &[]), 1);
    })
    .await;
}

#[tokio::test]
async fn connecting_fails() {
    local(async {
        let world = World::new();
        check(&world, passthrough(nobody().await), GET, 503, "connect-refused").await;
        let world = World::new();
        let answer = say(world.http1(world.inbound(nobody().await, Some(id("web")))).await, GET).await;
        refused(&world, &answer, 503, "app-connect").await;

        let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
        let world = World::with(Setting { tls: ca.mesh(id("web").as_str(), &time), ..Setting::default() });
        let policy =
            BackendPolicy { connect_timeout: ConnectTimeout(Duration::from_millis(50)), ..BackendPolicy::default() };
        let mute = Server::start(|io, _| async move {
            sleep(Duration::from_secs(60)).await;
            drop(io);
        })
        .await;
        let meshed = EndpointSpec { identity: Some(id("order")), ..endpoint(mute.addr) };
        check(&world, Target::Service(service_of(spec(), vec![meshed], policy)), GET, 504, "connect-timeout").await;
    })
    .await;
}

/// Meshed in name only, somebody else, and us without a certificate.
#[tokio::test]
async fn the_peer_is_not_who_discovery_named() {
    local(async {
        let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
        let mesh =
            |account: &str| World::with(Setting { tls: ca.mesh(id(account).as_str(), &time), ..Setting::default() });
        let plain = Server::start(|mut io, _| async move {
            io.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
            drop(read_to_end(&mut io).await);
        })
        .await;
        let mallory = mesh("mallory");
        let other = mallory.listen_inbound(plain.addr).await;
        let to = |addr| {
            let meshed = EndpointSpec { identity: Some(id("order")), ..endpoint(addr) };
            Target::Service(service_of(spec(), vec![meshed], BackendPolicy::default()))
        };
        check(&mesh("web"), to(plain.addr), GET, 502, "peer-not-meshed").await;
        check(&mesh("web"), to(other), GET, 502, "identity-mismatch").await;
        check(&World::new(), to(other), GET, 503, "discovery-unavailable").await;
        assert_eq!(mallory.count("weft_requests_total", &[]), 0);
    })
    .await;
}

/// The timeouts of a rule, before the answer.
#[tokio::test]
async fn time_runs_out() {
    let short = Some(Duration::from_millis(50));
    for (timeouts, status, reason) in [
        (Timeouts { request: short, backend_request: None }, 504, "request-timeout"),
        (Timeouts { request: None, backend_request: short }, 504, "backend-timeout"),
        (Timeouts { request: short, backend_request: Some(Duration::from_secs(9)) }, 504, "request-timeout"),
        (Timeouts { request: Some(Duration::from_secs(9)), backend_request: short }, 504, "backend-timeout"),
    ] {
        local(async {
            let target = with_spec(ServiceSpec { timeouts, ..spec() }, &[silent().await]);
            check(&World::new(), target, GET, status, reason).await;
        })
        .await;
    }
}

/// The timeouts of a rule, in the middle of the answer: it is cut, and never looks complete.
#[tokio::test]
async fn time_runs_out_in_the_middle_of_an_answer() {
    local(async {
        let timeouts = Timeouts { request: Some(Duration::from_millis(50)), backend_request: None };
        let spec = ServiceSpec { timeouts, ..spec() };
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await;
            io.write_all(b"HTTP/1.0 200 OK\r\n\r\nhalf").await.unwrap();
            sleep(Duration::from_secs(60)).await;
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(with_spec(spec.clone(), &[server.addr]))).await;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let error = read_to_end(&mut client).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        world.until_ended("request-timeout", 1).await;

        let server = h2_server(|_, mut respond| async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data("half".into(), false).unwrap();
            sleep(Duration::from_secs(60)).await;
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(with_spec(spec, &[server.addr]))).await;
        let response = client.send_request(h2_request("GET"), true).unwrap().0.await.unwrap();
        let error = super::world::h2_body(response.into_body()).await.unwrap_err();
        // CANCEL would be taken for the end by some clients.
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        world.until_ended("request-timeout", 1).await;
    })
    .await;
}

/// A server that answers too late is blamed, so that it is ejected like one that fails.
#[tokio::test]
async fn time_that_runs_out_counts_against_the_endpoint() {
    for reason in ["request-timeout", "backend-timeout"] {
        local(async {
            let short = Some(Duration::from_millis(20));
            let timeouts = match reason {
                "request-timeout" => Timeouts { request: short, backend_request: None },
                _ => Timeouts { request: None, backend_request: short },
            };
            let addr = silent().await;
            let policy = BackendPolicy { ejection: Some(Ejection::default()), ..BackendPolicy::default() };
            let other = Server::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
            let endpoints = vec![endpoint(addr), endpoint(other.addr), endpoint(other.addr)];
            let target = Target::Service(service_of(ServiceSpec { timeouts, ..spec() }, endpoints, policy));
            let world = World::new();
            // P2C avoids the slow one, but not for ever.
            while world.count("weft_ejections_total", &[]) == 0 {
                let asked: Vec<_> = (0..20)
                    .map(|_| async { drop(say(world.http1(world.outbound(target.clone())).await, GET).await) })
                    .collect();
                futures::future::join_all(asked).await;
            }
            assert!(world.ended(reason) >= 7);
        })
        .await;
    }
}

pub(super) fn rule(path: &str, backends: Vec<Backend>) -> HttpRule {
    let path = Some(PathMatch::Prefix(Arc::from(path)));
    HttpRule {
        name: None,
        matches: vec![HttpMatch { path, ..HttpMatch::default() }],
        filters: Vec::new(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
    }
}

pub(super) fn backend(target: BackendTarget) -> Backend {
    Backend { target, weight: 1, filters: Vec::new() }
}

pub(super) fn routed(rules: Vec<HttpRule>) -> ServiceSpec {
    ServiceSpec {
        http_routes: vec![HttpRoute { id: PolicyId::new("HTTPRoute", "shop", "r"), created: 1, rules }],
        ..spec()
    }
}

#[tokio::test]
async fn routes_lead_nowhere() {
    for (spec, status, reason) in [
        (routed(vec![rule("/b", vec![backend(BackendTarget::Service(key()))])]), 404, "no-route"),
        (routed(vec![rule("/a", vec![backend(BackendTarget::Invalid)])]), 500, "backend-invalid"),
    ] {
        local(async { check(&World::new(), with_spec(spec, &[nobody().await]), GET, status, reason).await }).await;
    }
    local(async { check(&World::new(), to(&[]), GET, 503, "no-endpoints").await }).await;
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    local(async {
        let world = World::with(Setting { requests_max: 0, ..Setting::default() });
        check(&world, passthrough(nobody().await), GET, 503, "overloaded").await;
        // The permit of one that waits for its answer counts, and is given back.
        let world = World::with(Setting { requests_max: 1, ..Setting::default() });
        let mut first = world.http1(world.outbound(passthrough(silent().await))).await;
        first.write_all(GET.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(20)).await;
        let refused = say(world.http1(world.outbound(passthrough(nobody().await))).await, GET).await;
        assert!(refused.contains("overloaded"), "{refused}");
        crate::io::Io::from(first).reset();
        world.until_ended("client-gone", 1).await;
        let refused = say(world.http1(world.outbound(passthrough(nobody().await))).await, GET).await;
        assert!(refused.contains("connect-refused"), "{refused}");
    })
    .await;
}

fn deny_admin() -> InboundSpec {
    let to = OperationMatch { paths: vec![PathPattern::Prefix(Arc::from("/admin"))], ..OperationMatch::default() };
    let policy = AuthzPolicy {
        id: PolicyId::new("AuthorizationPolicy", "shop", "no-admin"),
        action: AuthzAction::Deny,
        ports: Vec::new(),
        rules: vec![AuthzRule { from: Vec::new(), to: vec![to] }],
    };
    InboundSpec { authz: vec![policy], ..inbound() }
}

#[tokio::test]
async fn policy_refuses_by_name_and_judges_one_reading_of_the_path() {
    local(async {
        let app = Server::answering(|head| {
            assert!(head.starts_with("GET /b?x=/../admin HTTP/1.1\r\n"), "{head}");
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let world = || World::with(Setting { inbound: deny_admin(), ..Setting::default() });
        for path in ["/admin", "/%61dmin/x", "//admin", "/b/../admin"] {
            let world = world();
            let answer = say(world.http1(world.inbound(app.addr, Some(id("web")))).await, &request(path)).await;
            refused(&world, &answer, 403, "authorization").await;
            assert!(answer.contains("\r\nweft-policy: AuthorizationPolicy/shop/no-admin\r\n"), "{answer}");
            let labels = ["policy=\"AuthorizationPolicy/shop/no-admin\"", "verdict=\"deny\""];
            assert_eq!(world.count("weft_authorization_total", &labels), 1);
        }
        for path in ["/b%2f../admin", "/b%5c", "/b%00"] {
            let world = world();
            let answer = say(world.http1(world.inbound(app.addr, Some(id("web")))).await, &request(path)).await;
            refused(&world, &answer, 400, "path-ambiguous").await;
        }
        // What was judged is what is forwarded; the query is left alone.
        let passing = world();
        let answer = say(passing.http1(passing.inbound(app.addr, None)).await, &request("/a/..//b?x=/../admin")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // A stranger learns the status, and nothing else.
        let strange = world();
        let answer = say(strange.http1(strange.inbound(app.addr, None)).await, &request("/admin")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("\r\n\r\nForbidden\n"), "{answer}");
        assert!(!answer.contains("weft-"), "{answer}");
    })
    .await;
}

/// HEAD and `Connection: close`, answered by ourselves: no body, and no waiting for a request that never comes.
#[tokio::test]
async fn our_own_answers_keep_to_the_protocol() {
    local(async {
        let world = World::new();
        let target = passthrough(nobody().await);
        let client = world.http1(world.outbound(target.clone())).await;
        let answers = say(client, &format!("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n{GET}")).await;
        let (head, get) = answers.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("content-length: 16"), "{answers}");
        assert!(get.starts_with("HTTP/1.1 503 ") && get.ends_with("\r\n\r\nconnect-refused\n"), "{answers}");
        assert!(get.contains("Connection: close"), "{answers}");
        for request in ["GET / HTTP/1.0\r\n\r\n", GET] {
            let client = world.http1(world.outbound(target.clone())).await;
            assert!(say(client, request).await.ends_with("\r\n\r\nconnect-refused\n"));
        }
        // A body that nobody will read: the answer arrives, the connection ends, and says so.
        let client = world.http1(world.outbound(target.clone())).await;
        let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let answer = say(client, request).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Connection: close"), "{answer}");
        // gRPC is HTTP/2: in HTTP/1 its content type must not turn a refused CONNECT into a tunnel.
        let client = world.http1(world.outbound(target)).await;
        let request = "CONNECT far:1 HTTP/1.1\r\nHost: far:1\r\nContent-Type: application/grpc\r\n\r\n";
        assert!(say(client, request).await.starts_with("HTTP/1.1 503 "));
    })
    .await;
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_words() {
    local(async {
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(nobody().await))).await;
        let mut request = h2_request("POST");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].as_bytes()), (200, &b"14"[..]));
        assert_eq!(response.headers()["grpc-message"], "connect-refused");
        world.until_ended("connect-refused", 1).await;
    })
    .await;
}

/// The rule's filters, and what is and is not told next to the application.
#[tokio::test]
async fn headers_are_what_each_side_may_see() {
    local(async {
        let app = Server::answering(|head| {
            let head = head.to_lowercase();
            assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
            assert!(head.contains("\r\nweft-client-id: spiffe://cluster.local/ns/shop/sa/web\r\n"), "{head}");
            assert!(!head.contains("weft-policy") && !head.contains("6.6.6.6"), "{head}");
            "HTTP/1.1 200 OK\r\nweft-error: internal\r\nServer: app\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let world = World::new();
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\n\
                       weft-client-id: me\r\nweft-policy: none\r\n\r\n";
        let answer = say(world.http1(world.inbound(app.addr, Some(id("web")))).await, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("weft-"), "{answer}");

        let set = |name: &'static str| vec![(HeaderName::from_static(name), HeaderValue::from_static("1"))];
        let request_headers = HeaderModifier { set: set("x-up"), ..HeaderModifier::default() };
        let response_headers = HeaderModifier {
            add: set("x-down"),
            remove: vec![HeaderName::from_static("server")],
            ..HeaderModifier::default()
        };
        let filters = vec![HttpFilter::RequestHeaders(request_headers), HttpFilter::ResponseHeaders(response_headers)];
        let rule = HttpRule { filters, ..rule("/", vec![backend(BackendTarget::Service(key()))]) };
        let server = Server::answering(|head| {
            assert!(head.contains("\r\nx-up: 1\r\n"), "{head}");
            "HTTP/1.1 200 OK\r\nServer: app\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let world = World::new();
        let target = with_spec(routed(vec![rule]), &[server.addr]);
        let answer = say(world.http1(world.outbound(target)).await, GET).await;
        assert!(answer.contains("\r\nx-down: 1\r\n") && !answer.contains("Server"), "{answer}");
        assert_eq!(world.count("weft_requests_total", &["route=\"HTTPRoute/shop/r\""]), 1);
    })
    .await;
}
