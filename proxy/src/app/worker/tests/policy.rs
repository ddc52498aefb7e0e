//! What the inbound proxy lets in: mTLS modes and authorization of bytes (semantics 15, 37, 39).

use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use weft_model::AppProtocol;
use weft_model::policy::{AuthzAction, AuthzPolicy, AuthzRule, DefaultAuthorization, MtlsMode, OperationMatch};
use weft_model::resources::{InboundPort, InboundSpec};
use weft_tls::Alpn;

use super::world::{
    GET, OK, Pair, V4, V6, about, ask, expect, expect_reset, head, identity, inbound_port, pair, status, until,
};
use crate::record::Event;

/// Every rule of it asks for GET.
fn only_get(action: AuthzAction) -> AuthzPolicy {
    let get = OperationMatch { methods: vec![Method::GET], ..OperationMatch::default() };
    AuthzPolicy { rules: vec![AuthzRule { from: Vec::new(), to: vec![get] }], ..about(action, "order") }
}

/// A peer's proxy that claims to carry bytes.
async fn peer_of_bytes(pair: &Pair) -> TlsStream<TcpStream> {
    let tls = pair.world.ca.mesh(identity("order").as_str(), &pair.world.time);
    let tcp = TcpStream::connect(pair.server.inbound).await.unwrap();
    tls.connect(tcp, &identity("payment"), Alpn::Tcp).await.unwrap().0
}

async fn say(peer: &mut TlsStream<TcpStream>, words: &str) {
    peer.write_all(words.as_bytes()).await.unwrap();
    peer.flush().await.unwrap();
}

#[tokio::test]
async fn a_permissive_port_takes_plaintext_and_a_strict_one_does_not() {
    for ip in [V4, V6] {
        let pair = pair(ip).await;
        let mut stranger = pair.server.knock().await;
        stranger.write_all(b"\x00plain").await.unwrap();
        expect(&mut pair.accept().await, b"\x00plain").await;

        pair.server_policy(|spec| spec.mtls = MtlsMode::Strict);
        let mut stranger = pair.server.knock().await;
        stranger.write_all(b"\x00plain").await.unwrap();
        expect_reset(&mut stranger).await;
        pair.server.wait_for_reason("plaintext-refused").await;
        let mut stranger = pair.server.knock().await;
        let refusal = ask(&mut stranger, GET).await;
        assert_eq!(status(&refusal), 403);
        assert!(!refusal.contains("weft-"), "a stranger is told nothing: {refusal}");
        pair.server.wait_for_event(Event::PlaintextRefused, 2).await;
        // Mesh TLS passes.
        drop(pair.open_carried().await);
    }
}

#[tokio::test]
async fn a_strict_port_lets_the_kubelet_probe_what_it_was_told_to() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| strict_with_open_paths(spec, pair.app_port()));
    let lines = [
        ("GET /healthz HTTP/1.1", 200),
        ("GET /healthz?full=1 HTTP/1.1", 200),
        ("GET /metrics HTTP/1.1", 200),
        ("GET /metrics?format=text HTTP/1.1", 200),
        ("GET / HTTP/1.1", 403),
        ("GET /healthz/x HTTP/1.1", 403),
        ("GET //healthz HTTP/1.1", 403),
        ("GET /%68ealthz HTTP/1.1", 403),
        ("GET //metrics HTTP/1.1", 403),
        ("POST /healthz HTTP/1.1", 403),
        ("POST /metrics HTTP/1.1", 403),
    ];
    strangers_ask(&pair, &lines).await;
    // A default that denies changes nothing of it, but that what is forwarded is the path that was judged.
    pair.server_policy(|spec| {
        strict_with_open_paths(spec, pair.app_port());
        spec.default_authorization = DefaultAuthorization::Deny;
    });
    let lines = lines.map(|(line, want)| {
        (line, if line.starts_with("GET /%68") || line.starts_with("GET //") { 200 } else { want })
    });
    strangers_ask(&pair, &lines).await;
}

#[tokio::test]
async fn a_deny_closes_scrapes_and_leaves_probes() {
    let pair = pair(V4).await;
    for default in [DefaultAuthorization::Allow, DefaultAuthorization::Deny] {
        pair.server_policy(|spec| {
            strict_with_open_paths(spec, pair.app_port());
            spec.default_authorization = default;
            spec.authz = vec![AuthzPolicy { rules: vec![AuthzRule::default()], ..about(AuthzAction::Deny, "order") }];
        });
        let lines = [("GET /healthz HTTP/1.1", 200), ("GET /metrics HTTP/1.1", 403), ("GET / HTTP/1.1", 403)];
        strangers_ask(&pair, &lines).await;
    }
}

/// A strict port of whose paths one is probed and one is scraped.
fn strict_with_open_paths(spec: &mut InboundSpec, app_port: u16) {
    spec.mtls = MtlsMode::Strict;
    let (probe_paths, scrape_paths) = (vec!["/healthz".into()], vec!["/metrics".into()]);
    let port = inbound_port(app_port, AppProtocol::Http);
    spec.ports = vec![InboundPort { mtls: MtlsMode::Strict, probe_paths, scrape_paths, ..port }];
}

/// Asks without an identity; the application answers what reaches it.
async fn strangers_ask(pair: &Pair, lines: &[(&str, u16)]) {
    for &(line, want) in lines {
        let mut kubelet = pair.server.knock().await;
        let request = format!("{line}\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let asked = ask(&mut kubelet, &request);
        let served = async {
            let mut app = pair.accept().await;
            head(&mut app).await;
            app.write_all(OK.as_bytes()).await.unwrap();
            app
        };
        let answer = if want == 200 { tokio::join!(asked, served).0 } else { asked.await };
        assert_eq!(status(&answer), want, "{line}");
    }
}

#[tokio::test]
async fn strict_closes_plaintext_that_was_there_before() {
    let pair = pair(V4).await;
    let mut stranger = pair.server.knock().await;
    stranger.write_all(b"\x00plain").await.unwrap();
    let mut app = pair.accept().await;
    expect(&mut app, b"\x00plain").await;
    pair.server_policy(|spec| spec.mtls = MtlsMode::Strict);
    expect_reset(&mut stranger).await;
    expect_reset(&mut app).await;
    pair.server.wait_for_reason("plaintext-refused").await;
}

#[tokio::test]
async fn bytes_are_judged_by_who_sends_them() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| spec.authz = vec![about(AuthzAction::Allow, "order")]);
    drop(pair.open_carried().await);
    for denied in [about(AuthzAction::Allow, "other"), about(AuthzAction::Deny, "order")] {
        pair.server_policy(|spec| spec.authz = vec![denied]);
        let before = pair.server.reason("authorization");
        let mut client = pair.open().await;
        client.write_all(b"\x00bytes").await.unwrap();
        expect_reset(&mut client).await;
        until(|| pair.server.reason("authorization") > before).await.expect("it is counted");
    }
}

#[tokio::test]
async fn a_policy_that_forbids_closes_what_sleeps() {
    let pair = pair(V4).await;
    let (mut client, mut app) = pair.open_carried().await;
    // And one where nobody has spoken yet.
    let mut silent = pair.open().await;
    let mut tried = pair.accept().await;
    pair.server_policy(|spec| spec.authz = vec![about(AuthzAction::Audit, "order")]);
    client.write_all(b"still allowed").await.unwrap();
    expect(&mut app, b"still allowed").await;
    pair.server_policy(|spec| spec.default_authorization = DefaultAuthorization::Deny);
    for io in [&mut client, &mut app, &mut silent, &mut tried] {
        expect_reset(io).await;
    }
    until(|| pair.server.reason("authorization") == 2).await.expect("both are counted");
}

#[tokio::test]
async fn inside_bytes_http_is_found_where_a_rule_asks_for_it() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| spec.authz = vec![only_get(AuthzAction::Allow)]);
    let mut peer = peer_of_bytes(&pair).await;
    say(&mut peer, GET).await;
    let mut app = pair.accept().await;
    head(&mut app).await;
    app.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut peer, b"HTTP/1.1 200 OK\r\n").await;

    let mut peer = peer_of_bytes(&pair).await;
    say(&mut peer, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    expect(&mut peer, b"HTTP/1.1 403 Forbidden\r\n").await;
}

#[tokio::test]
async fn bytes_match_no_allow_and_every_deny_that_asks_for_http() {
    let pair = pair(V4).await;
    for policy in [only_get(AuthzAction::Allow), only_get(AuthzAction::Deny)] {
        pair.server_policy(|spec| spec.authz = vec![policy]);
        let mut client = pair.open().await;
        client.write_all(b"\x00bytes").await.unwrap();
        expect_reset(&mut client).await;
    }
    pair.server.wait_for_reason("authorization").await;
    assert_eq!(pair.server.counted(Event::UpstreamConnected), 0);
}

#[tokio::test]
async fn a_client_that_keeps_silent_before_its_http_is_waited_for() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| spec.authz = vec![only_get(AuthzAction::Allow)]);
    let mut client = pair.open().await;
    // The client's proxy has tried it as bytes, which would not be let in.
    pair.client.wait_for_event(Event::UpstreamConnected, 1).await;
    tokio::time::sleep(crate::detect::SILENCE * 3).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    app.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 200);
}

#[tokio::test]
async fn an_l4_allow_beside_an_l7_one_lets_a_greeting_through() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| spec.authz = vec![about(AuthzAction::Allow, "order"), only_get(AuthzAction::Allow)]);
    let mut client = pair.open().await;
    let mut app = pair.accept().await;
    app.write_all(b"220 mail\r\n").await.unwrap();
    expect(&mut client, b"220 mail\r\n").await;
}

#[tokio::test]
async fn http_on_a_port_that_declares_bytes_is_judged_where_a_rule_asks_for_http() {
    let pair = pair(V4).await;
    pair.server_policy(|spec| {
        spec.ports = vec![inbound_port(pair.app_port(), AppProtocol::Opaque)];
        spec.authz = vec![only_get(AuthzAction::Deny)];
    });
    let mut stranger = pair.server.knock().await;
    assert_eq!(status(&ask(&mut stranger, GET).await), 403);
}
