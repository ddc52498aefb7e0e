//! What the proxy answers itself, each reason once. How HTTP is carried is tested beside `forward/http`.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weft_model::PolicyId;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, ConnectTimeout, OperationMatch, PathPattern,
};
use weft_model::resources::{EndpointsDelta, ServiceSpec};
use weft_model::route::{Backend, BackendTarget, HttpMatch, HttpRoute, HttpRule, PathMatch, Timeouts};

use super::world::{
    GET, OK, Pair, Settings, V4, about, ask, endpoints, expect_reset, head, pair, pair_of, service_key, service_spec,
    status, unmeshed, until,
};
use crate::io::Io;

fn rule(path: &str, timeouts: Timeouts) -> HttpRule {
    let path = Some(PathMatch::Prefix(path.into()));
    let backend = Backend { target: BackendTarget::Service(service_key()), weight: 1, filters: Vec::new() };
    HttpRule {
        name: None,
        matches: vec![HttpMatch { path, ..HttpMatch::default() }],
        filters: Vec::new(),
        backends: vec![backend],
        timeouts,
        retry: None,
    }
}

fn routed(rules: Vec<HttpRule>) -> impl FnOnce(&mut ServiceSpec) {
    let id = PolicyId::new("HTTPRoute", "shop", "payment");
    move |spec| spec.http_routes = vec![HttpRoute { id, created: 1, rules }]
}

/// The answer of the client's own proxy, which must name `reason`.
async fn refused(pair: &Pair, request: &str, reason: &str) -> u16 {
    let answer = ask(&mut pair.open().await, request).await;
    assert!(answer.contains(&format!("weft-error: {reason}\r\n")), "{reason}: {answer}");
    pair.client.wait_for_reason(reason).await;
    status(&answer)
}

#[tokio::test]
async fn a_request_passes_both_proxies() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    let request = head(&mut app).await;
    assert!(request.contains("weft-client-id: spiffe://cluster.local/ns/shop/sa/order\r\n"), "{request}");
    app.write_all(OK.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert_eq!(status(&answer), 200);
    assert!(!answer.contains("weft-"), "{answer}");
}

#[tokio::test]
async fn bad_request_and_headers_too_large() {
    let pair = pair(V4).await;
    let two_hosts = "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    assert_eq!(refused(&pair, two_hosts, "bad-request").await, 400);
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    assert_eq!(refused(&pair, &large, "headers-too-large").await, 431);
}

#[tokio::test]
async fn no_route_and_backend_invalid() {
    let empty = HttpRule { backends: Vec::new(), ..rule("/empty", Timeouts::default()) };
    let pair = pair_of(Settings::of(V4), routed(vec![rule("/known", Timeouts::default()), empty])).await;
    assert_eq!(refused(&pair, "GET /unknown HTTP/1.1\r\nhost: a\r\n\r\n", "no-route").await, 404);
    assert_eq!(refused(&pair, "GET /empty HTTP/1.1\r\nhost: a\r\n\r\n", "backend-invalid").await, 500);
}

#[tokio::test]
async fn request_timeout_and_backend_timeout() {
    let soon = Some(Duration::from_millis(30));
    let whole = Timeouts { request: soon, backend_request: None };
    let one = Timeouts { request: None, backend_request: soon };
    let pair = pair_of(Settings::of(V4), routed(vec![rule("/whole", whole), rule("/one", one)])).await;
    assert_eq!(refused(&pair, "GET /whole HTTP/1.1\r\nhost: a\r\n\r\n", "request-timeout").await, 504);
    assert_eq!(refused(&pair, "GET /one HTTP/1.1\r\nhost: a\r\n\r\n", "backend-timeout").await, 504);
}

#[tokio::test]
async fn connect_timeout() {
    let pair = pair(V4).await;
    // A listener whose queue is full answers no further SYN.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from((V4, 0)).into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _first = tokio::net::TcpStream::connect(addr).await.unwrap();
    let policy =
        BackendPolicy { connect_timeout: ConnectTimeout(Duration::from_millis(30)), ..BackendPolicy::default() };
    let delta = EndpointsDelta { policy, ..endpoints([unmeshed(addr)]) };
    pair.client.told.service(pair.service, service_spec(), &delta);
    assert_eq!(refused(&pair, GET, "connect-timeout").await, 504);
}

#[tokio::test]
async fn path_ambiguous() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| {
        let to = OperationMatch { paths: vec![PathPattern::Prefix("/admin".into())], ..OperationMatch::default() };
        let rules = vec![AuthzRule { from: Vec::new(), to: vec![to] }];
        spec.authz = vec![AuthzPolicy { rules, ..about(AuthzAction::Deny, "order") }];
    });
    let answer = ask(&mut pair.open().await, "GET /a%2fadmin HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(status(&answer), 400);
    assert!(answer.contains("weft-error: path-ambiguous\r\n"), "{answer}");
    pair.server.wait_for_reason("path-ambiguous").await;
}

#[tokio::test]
async fn authorization_names_its_policy_to_a_meshed_client() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| spec.authz = vec![about(AuthzAction::Deny, "order")]);
    let answer = ask(&mut pair.open().await, GET).await;
    assert_eq!(status(&answer), 403);
    assert!(answer.contains("weft-error: authorization\r\n"), "{answer}");
    assert!(answer.contains("weft-policy: AuthorizationPolicy/shop/one\r\n"), "{answer}");
}

#[tokio::test]
async fn upstream_reset_and_client_gone() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    Io::from(app).reset();
    assert_eq!(status(&head(&mut client).await), 502);
    pair.server.wait_for_reason("upstream-reset").await;

    let mut client = pair.open().await;
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nok").await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    Io::from(client).reset();
    let mut ends = tokio::io::AsyncReadExt::read_u8(&mut app).await;
    while ends.is_ok() {
        ends = tokio::io::AsyncReadExt::read_u8(&mut app).await;
    }
    until(|| pair.client.reason("client-gone") > 0).await.expect("it is counted");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_an_end() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    // Without a length the end of the connection is the end of the body: a reset must stay one.
    app.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").await.unwrap();
    head(&mut client).await;
    super::world::expect(&mut client, b"4\r\npart\r\n").await;
    Io::from(app).reset();
    expect_reset(&mut client).await;
}
