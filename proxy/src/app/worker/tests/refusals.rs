//! What is not carried at all, and the reason that says so.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_model::resources::EgressMode;
use weft_model::{AppProtocol, ClientAddr, OriginalDst};
use weft_runtime::task::Tasks;

use super::world::{
    GET, Parts, Settings, V4, World, ask, endpoints, expect, expect_reset, inbound_port, meshed, pair, pair_of, parts,
    service_spec, status, unmeshed, until,
};
use crate::accept::Accepted;
use crate::app::worker::Stories;
use crate::config::Ports;
use crate::io::Io;
use crate::record::{Event, Telemetry};

#[tokio::test]
async fn what_is_declared_http_and_is_not_is_refused_on_both_sides() {
    let pair = pair_of(Settings::of(V4), |spec| spec.protocol = AppProtocol::Http).await;
    let mut client = pair.open().await;
    client.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("not-http").await;

    pair.server_policy(|spec| spec.ports = vec![inbound_port(pair.app_port(), AppProtocol::Http)]);
    let mut stranger = pair.server.knock().await;
    stranger.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut stranger).await;
    pair.server.wait_for_reason("not-http").await;
}

#[tokio::test]
async fn a_port_that_the_service_does_not_have_is_refused() {
    let pair = pair(V4).await;
    pair.client.told.port_not_found("10.96.0.1:81".parse().unwrap());
    pair.client.open_in_vain("10.96.0.1:81".parse().unwrap()).await;
    pair.client.wait_for_reason("port-not-found").await;
}

#[tokio::test]
async fn what_came_back_to_us_or_was_never_captured_is_refused() {
    let pair = pair(V4).await;
    let to = |port: u16| Some(SocketAddr::from((V4, port)));
    let (inbound, outbound) = (pair.server.inbound, pair.server.outbound);
    for (listener, dst) in [
        (inbound, to(inbound.port())),
        (inbound, to(outbound.port())),
        (inbound, Some("203.0.113.9:80".parse().unwrap())),
        (outbound, to(inbound.port())),
        (outbound, to(outbound.port())),
    ] {
        pair.server.dial_in_vain(listener, dst).await;
    }
    assert_eq!((pair.server.counted(Event::LoopRefused), pair.server.reason("loop")), (5, 5));
    // Nobody redirected anything to the client's proxy: the kernel knows no destination.
    pair.client.dial_in_vain(pair.client.inbound, None).await;
    pair.client.dial_in_vain(pair.client.outbound, None).await;
    pair.client.wait_for_event(Event::LoopRefused, 2).await;
}

#[tokio::test]
async fn a_service_without_endpoints_is_waited_for_and_then_refused() {
    let pair = pair(V4).await;
    let backend = pair.client.told.service(pair.service, service_spec(), &endpoints([]));
    let mut client = pair.open().await;
    client.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("no-endpoints").await;
    let mut client = pair.open().await;
    client.write_all(b"\x00bytes").await.unwrap();
    tokio::time::sleep(crate::detect::SILENCE).await;
    backend.tell(&endpoints([meshed(&pair.server)]));
    expect(&mut pair.accept().await, b"\x00bytes").await;
}

#[tokio::test]
async fn what_leaves_the_mesh_needs_leave() {
    let pair = pair(V4).await;
    let outside = TcpListener::bind((V4, 0)).await.unwrap();
    let addr = outside.local_addr().unwrap();
    pair.client.told.mesh({
        let mut spec = pair.world.mesh_spec();
        spec.egress = EgressMode::MeshOnly;
        spec
    });
    pair.client.told.not_found(addr);
    let mut client = pair.client.open_to(addr).await;
    client.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut client).await;
    let mut client = pair.client.open_to(addr).await;
    let refusal = ask(&mut client, GET).await;
    assert_eq!(status(&refusal), 403);
    assert!(refusal.contains("weft-error: egress\r\n"), "{refusal}");
    until(|| pair.client.reason("egress") == 2).await.expect("both are counted");
    drop(pair.open_carried().await);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_tried_elsewhere_and_then_told() {
    let pair = pair(V4).await;
    let dead = || {
        let listener = std::net::TcpListener::bind((V4, 0)).unwrap();
        unmeshed(listener.local_addr().unwrap())
    };
    pair.client.told.service(pair.service, service_spec(), &endpoints([dead(), dead(), meshed(&pair.server)]));
    for _ in 0..8 {
        drop(pair.open_carried().await);
    }
    pair.client.told.service(pair.service, service_spec(), &endpoints([dead()]));
    let mut client = pair.open().await;
    client.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("connect-refused").await;
    assert!(pair.client.counted(Event::UpstreamConnectFailed) > 0);
}

#[tokio::test]
async fn an_application_that_refuses_is_told_apart_from_the_network() {
    let mut pair = pair(V4).await;
    let gone = pair.app.local_addr().unwrap();
    pair.app = TcpListener::bind((V4, 0)).await.unwrap();
    pair.server.captures_for(gone);
    let mut client = pair.open().await;
    client.write_all(b"\x00bytes").await.unwrap();
    expect_reset(&mut client).await;
    pair.server.wait_for_reason("app-connect").await;
}

/// The stories themselves, on this thread and with paused time: nothing here touches a socket.
struct OnThisThread {
    stories: Stories<std::sync::Arc<super::world::Remembered>>,
    parts: Parts,
}

impl OnThisThread {
    fn new() -> Self {
        let ports = Ports { outbound: 14001, inbound: 14002, admin: 14003 };
        let parts = parts(&World::new(), "order", Settings::of(V4), ports);
        let (own, _handoffs) = mpsc::channel(1);
        let stories = Stories::new(&parts.shared, own, Tasks::new());
        Self { stories, parts }
    }

    fn telemetry(&self) -> &Telemetry {
        &self.parts.shared.telemetry
    }

    fn tells(&self, reason: &str) -> bool {
        let mut text = String::new();
        self.telemetry().write(&mut text);
        text.contains(&format!("reason=\"{reason}\"}} 1"))
    }
}

fn accepted(io: Io, dst: &str) -> Accepted {
    let client = ClientAddr("127.0.0.1:5000".parse().unwrap());
    Accepted { io, client, dst: OriginalDst(dst.parse().unwrap()), permit: None }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_nobody_knows_is_refused_after_three_seconds() {
    let here = OnThisThread::new();
    let begun = Instant::now();
    let (_far, near) = tokio::io::duplex(64);
    here.stories.outbound.serve(accepted(near.into(), "10.1.2.3:80")).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert!(here.tells("discovery-unavailable"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_of_a_strict_port_is_not_waited_for_forever() {
    let here = OnThisThread::new();
    let mut spec = super::world::inbound_spec("order");
    spec.mtls = weft_model::policy::MtlsMode::Strict;
    here.parts.told.inbound(spec);
    let begun = Instant::now();
    let (_far, near) = tokio::io::duplex(64);
    here.stories.inbound.serve(accepted(near.into(), "127.0.0.1:8080")).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
    assert!(here.tells("plaintext-refused"));
    assert_eq!(here.telemetry().counted(Event::DetectTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_without_a_socket_is_an_error_of_ours() {
    let world = World::new();
    let here = OnThisThread::new();
    let tls = world.ca.mesh(super::world::identity("payment").as_str(), &world.time);
    let (far, near) = tokio::io::duplex(64 * 1024);
    let server = super::world::identity("order");
    // In memory there is no socket to shake hands on: the one thing that must not happen.
    let hello = async {
        let shaken = tls.connect(far, &server, weft_tls::Alpn::Tcp).await;
        assert!(shaken.is_err());
    };
    tokio::join!(here.stories.inbound.serve(accepted(near.into(), "127.0.0.1:8080")), hello);
    assert!(here.tells("internal"));
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted() {
    let pair = pair(V4).await;
    let tls = pair.world.ca.mesh(super::world::identity("order").as_str(), &pair.world.time);
    let tcp = tokio::net::TcpStream::connect(pair.server.inbound).await.unwrap();
    // The client refuses the server, and says so with an alert.
    let other = super::world::identity("other");
    drop(tls.connect(tcp, &other, weft_tls::Alpn::Tcp).await.unwrap_err());
    // A client that gives up in the middle of its hello's answer.
    let mut tcp = tokio::net::TcpStream::connect(pair.server.inbound).await.unwrap();
    tcp.write_all(&mesh_hello(&tls).await).await.unwrap();
    drop(tcp);
    pair.server.wait_for_reason("tls-handshake").await;
    assert!(pair.server.counted(Event::TlsHandshakeFailed) > 0);
}

/// The ClientHello of a peer.
async fn mesh_hello(tls: &weft_tls::MeshTls) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let payment = super::world::identity("payment");
    let read = async {
        let mut hello = vec![0; 16 * 1024];
        let n = far.read(&mut hello).await.unwrap();
        hello.truncate(n);
        drop(far);
        hello
    };
    tokio::join!(tls.connect(near, &payment, weft_tls::Alpn::Tcp), read).1
}
