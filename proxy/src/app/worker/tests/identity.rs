//! Who answers, and what happens when it is somebody else (semantics 10, 26, 35); ourselves among them (semantics 5).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use weft_model::policy::AuthzAction;
use weft_model::resources::WorkloadDestination;
use weft_model::{AppProtocol, EndpointSpec};
use weft_tls::TrustBundle;
use weft_tls::testing::TestCa;

use super::world::{
    GET, OK, Pair, Proxy, V4, about, ask, endpoints, expect, expect_reset, head, identity, inbound_spec, meshed, pair,
    service_spec, status, unmeshed,
};
use crate::connect::DISTRUSTED_MAX;
use crate::record::Event;

/// Has the service's one endpoint be another.
fn serve_at(pair: &Pair, endpoint: EndpointSpec) {
    pair.client.told.service(pair.service, service_spec(), &endpoints([endpoint]));
}

#[tokio::test]
async fn a_peer_with_another_identity_gets_nothing() {
    let pair = pair(V4).await;
    serve_at(&pair, EndpointSpec { identity: Some(identity("other")), ..meshed(&pair.server) });
    let mut client = pair.open().await;
    client.write_all(b"\x00secret").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("identity-mismatch").await;
    assert!(pair.client.counted(Event::IdentityMismatch) > 0);
    // In TLS 1.3 the server is done before the client has judged it: the application is reached, and told nothing.
    assert!(matches!(pair.accept().await.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    let mut client = pair.open().await;
    assert_eq!(status(&ask(&mut client, GET).await), 502);
}

#[tokio::test]
async fn a_client_that_the_server_does_not_trust_gets_nothing() {
    let pair = pair(V4).await;
    let stranger = TestCa::new("elsewhere");
    let both = TrustBundle::from_der([pair.world.ca.anchor_der(), stranger.anchor_der()]).unwrap();
    pair.client.tls.publish(stranger.leaf(identity("order").as_str()), both).unwrap();
    let mut client = pair.open().await;
    client.write_all(b"\x00secret").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("identity-mismatch").await;
    pair.server.wait_for_reason("identity-mismatch").await;
    assert_eq!(pair.server.counted(Event::UpstreamConnected), 0);
    assert_eq!(pair.server.counted(Event::TlsHandshakeFailed), 1);
}

#[tokio::test]
async fn plaintext_is_never_tried_where_an_identity_is_named() {
    let pair = pair(V4).await;
    let plain = TcpListener::bind((V4, 0)).await.unwrap();
    serve_at(&pair, EndpointSpec { identity: Some(identity("payment")), ..unmeshed(plain.local_addr().unwrap()) });
    let serve = async {
        for _ in 0..4 {
            let mut io = plain.accept().await.unwrap().0;
            assert_eq!(io.read_u8().await.unwrap(), 22, "a TLS record");
            io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            // All of the hello is read, or the close would be a reset.
            assert!(io.read(&mut [0; 16_384]).await.unwrap() > 0);
        }
    };
    let talk = async {
        let mut client = pair.open().await;
        client.write_all(b"\x00secret").await.unwrap();
        expect_reset(&mut client).await;
    };
    tokio::join!(serve, talk);
    pair.client.wait_for_reason("peer-not-meshed").await;
    assert_eq!(pair.client.counted(Event::UpstreamConnected), 0);
    assert!(pair.client.counted(Event::TlsHandshakeFailed) > 0);
}

#[tokio::test]
async fn without_a_certificate_of_ours_nothing_goes_out() {
    let pair = pair(V4).await;
    let bare = weft_tls::MeshTls::new(weft_model::TrustDomain::default());
    assert!(bare.credentials().is_none());
    // A client whose certificate has expired is no better off.
    pair.world.time.advance(weft_tls::testing::LEAF_LIFE * 2);
    let mut client = pair.open().await;
    client.write_all(b"\x00secret").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("identity-mismatch").await;
}

#[tokio::test]
async fn an_anchor_that_is_removed_closes_what_it_authenticated() {
    let pair = pair(V4).await;
    let next = TestCa::new("next");
    for remove_at_server in [true, false] {
        let (mut client, mut app) = pair.open_carried().await;
        let side = if remove_at_server { &pair.server } else { &pair.client };
        side.tls.publish(next.leaf(identity(side.name).as_str()), next.bundle()).unwrap();
        expect_reset(&mut client).await;
        expect_reset(&mut app).await;
        side.wait_for_reason("identity-mismatch").await;
        side.tls.publish(pair.world.ca.leaf(identity(side.name).as_str()), pair.world.ca.bundle()).unwrap();
    }
}

/// A rotation as the control plane does it: both anchors, leaves of the next one, then the old anchor goes, at the server
/// first. A POST may not be sent twice, so each one that meets a closing connection would fail.
#[tokio::test]
async fn a_rotation_of_the_anchor_costs_no_request() {
    let pair = pair(V4).await;
    let next = TestCa::new("next");
    let both = TrustBundle::from_der([pair.world.ca.anchor_der(), next.anchor_der()]).unwrap();
    let publish = |side: &Proxy, bundle: TrustBundle| {
        side.tls.publish(next.leaf(identity(side.name).as_str()), bundle).unwrap();
    };
    let app = async {
        loop {
            let mut io = pair.accept().await;
            tokio::task::spawn_local(async move {
                let mut read = vec![0; 16_384];
                while matches!(io.read(&mut read).await, Ok(1..)) {
                    io.write_all(OK.as_bytes()).await.unwrap();
                }
            });
        }
    };
    let rotate = async {
        let posts = async |length: Duration| {
            let end = Instant::now() + length;
            let mut client = pair.open().await;
            while Instant::now() < end {
                let answer = ask(&mut client, "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 0\r\n\r\n").await;
                assert_eq!(status(&answer), 200, "{answer}");
                expect(&mut client, b"ok").await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        posts(Duration::from_millis(100)).await;
        publish(&pair.server, both.clone());
        publish(&pair.client, both.clone());
        let under_load = posts(DISTRUSTED_MAX + Duration::from_secs(1));
        let removal = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            publish(&pair.server, next.bundle());
            tokio::time::sleep(Duration::from_millis(500)).await;
            publish(&pair.client, next.bundle());
        };
        tokio::join!(under_load, removal);
    };
    tokio::task::LocalSet::new()
        .run_until(Box::pin(async {
            tokio::select! {
                () = rotate => {}
                () = app => {}
            }
        }))
        .await;
    // The old connection was given up, and a new one made.
    assert!(pair.client.counted(Event::UpstreamConnected) >= 2);
}

#[tokio::test]
async fn a_leaf_that_expires_cuts_nothing() {
    let pair = pair(V4).await;
    let (mut client, mut app) = pair.open_carried().await;
    pair.world.time.advance(weft_tls::testing::LEAF_LIFE * 2);
    client.write_all(b"on").await.unwrap();
    expect(&mut app, b"on").await;
}

#[tokio::test]
async fn an_endpoint_that_is_ourselves_is_not_dialled_and_policy_applies() {
    let pair = pair(V4).await;
    let app = pair.app.local_addr().unwrap();
    serve_at(&pair, EndpointSpec { addr: weft_model::EndpointAddr(app), ..meshed(&pair.client) });
    let mut client = pair.open().await;
    client.write_all(b"\x00self").await.unwrap();
    let mut at_app = pair.accept().await;
    expect(&mut at_app, b"\x00self").await;
    client.shutdown().await.unwrap();
    assert_eq!(at_app.read(&mut [0; 1]).await.unwrap(), 0, "the half-close passes");
    at_app.write_all(b"answer").await.unwrap();
    drop(at_app);
    assert_eq!(super::world::rest(&mut client).await, "answer");
    assert_eq!(pair.client.counted(Event::ConnectionAccepted), 1, "no second connection to ourselves");

    let mut client = pair.open().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut at_app = pair.accept().await;
    let request = head(&mut at_app).await;
    assert!(request.contains("weft-client-id: spiffe://cluster.local/ns/shop/sa/order\r\n"), "{request}");
    at_app.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 200);

    let mut spec = inbound_spec("order");
    spec.authz = vec![about(AuthzAction::Deny, "order")];
    pair.client.told.inbound(spec);
    let mut client = pair.open().await;
    client.write_all(b"\x00self").await.unwrap();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("authorization").await;
    let mut client = pair.open().await;
    assert_eq!(status(&ask(&mut client, GET).await), 403);
}

#[tokio::test]
async fn a_workload_dialled_by_its_address_is_met_by_its_identity() {
    let pair = pair(V4).await;
    let addr = pair.server.inbound;
    let endpoint = meshed(&pair.server);
    let destination = WorkloadDestination { endpoint, protocol: AppProtocol::Undeclared, service: None };
    pair.client.told.mesh({
        let mut spec = pair.world.mesh_spec();
        spec.networks.push("127.0.0.0/8".parse().unwrap());
        spec
    });
    pair.client.told.workload(addr, destination);
    let mut client = pair.client.open_to(addr).await;
    client.write_all(b"\x00direct").await.unwrap();
    expect(&mut pair.accept().await, b"\x00direct").await;
}
