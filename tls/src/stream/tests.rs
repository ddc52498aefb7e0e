//! Handshakes over an in-memory pipe, by a clock that is moved by hand.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client, server};
use weft_model::{EndpointAddr, SpiffeId, TrustDomain};

use super::{StreamEnd, TlsError};
use crate::bundle::TrustBundle;
use crate::config::{Alpn, MeshTls};
use crate::credentials::Credentials;
use crate::peer::PeerIdentity;
use crate::testing::{LEAF_LIFE, ManualTime, TestCa, leaf_params, set_validity};
use crate::verify::VerifyError;

const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";
const PAYMENT: &str = "spiffe://cluster.local/ns/shop/sa/payment";

type Client = Result<(client::TlsStream<DuplexStream>, PeerIdentity, Alpn), TlsError>;
type Server = Result<(server::TlsStream<DuplexStream>, PeerIdentity, Alpn), TlsError>;

struct World {
    ca: TestCa,
    time: ManualTime,
    order: MeshTls,
    payment: MeshTls,
}

fn world() -> World {
    let (ca, time) = (TestCa::new("ca"), ManualTime::new());
    let (order, payment) = (ca.mesh(ORDER, &time), ca.mesh(PAYMENT, &time));
    World { ca, time, order, payment }
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

async fn shake(client: &MeshTls, server: &MeshTls, expected: &str) -> (Client, Server) {
    let (near, far) = duplex(16 * 1024);
    let expected = id(expected);
    tokio::join!(client.connect(near, &expected, Alpn::Http1), server.accept(far))
}

/// Shakes hands, passes a byte each way (which brings the client its ticket), and says how the handshake went.
async fn exchange(client: &MeshTls, server: &MeshTls, expected: &str) -> (HandshakeKind, HandshakeKind) {
    let (client, server) = Box::pin(shake(client, server, expected)).await;
    let ((mut client, ..), (mut server, ..)) = (client.unwrap(), server.unwrap());
    client.write_all(b"?").await.unwrap();
    server.read_u8().await.unwrap();
    server.write_all(b"!").await.unwrap();
    client.read_u8().await.unwrap();
    (client.get_ref().1.handshake_kind().unwrap(), server.get_ref().1.handshake_kind().unwrap())
}

const FULL: (HandshakeKind, HandshakeKind) = (HandshakeKind::Full, HandshakeKind::Full);
const RESUMED: (HandshakeKind, HandshakeKind) = (HandshakeKind::Resumed, HandshakeKind::Resumed);

/// The error of the client, or of its first read where the server judged later.
async fn refusal_seen_by_client(client: Client) -> StreamEnd {
    let (mut stream, ..) = client.unwrap();
    StreamEnd::of(&stream.read_u8().await.unwrap_err())
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let w = world();
    let (client, server) = shake(&w.order, &w.payment, PAYMENT).await;
    let ((_, server_peer, client_alpn), (_, client_peer, server_alpn)) = (client.unwrap(), server.unwrap());
    assert_eq!((server_peer.id, client_peer.id), (id(PAYMENT), id(ORDER)));
    assert_eq!((client_alpn, server_alpn), (Alpn::Http1, Alpn::Http1));
    assert_eq!(client_peer.anchor, w.ca.bundle().anchors()[0].id());
}

#[tokio::test]
async fn every_alpn_is_carried() {
    let w = world();
    for alpn in Alpn::ALL {
        let (near, far) = duplex(16 * 1024);
        let expected = id(PAYMENT);
        let (client, server) = tokio::join!(w.order.connect(near, &expected, alpn), w.payment.accept(far));
        assert_eq!((client.unwrap().2, server.unwrap().2), (alpn, alpn));
    }
}

#[tokio::test]
async fn the_second_handshake_is_resumed_on_both_sides_and_still_identified() {
    let w = world();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    let (client, server) = shake(&w.order, &w.payment, PAYMENT).await;
    let ((client, server_peer, _), (server, client_peer, _)) = (client.unwrap(), server.unwrap());
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!((server_peer.id, client_peer.id), (id(PAYMENT), id(ORDER)));
}

#[tokio::test]
async fn a_ticket_is_offered_only_to_the_endpoint_that_gave_it() {
    let w = world();
    let other = w.ca.mesh(PAYMENT, &w.time);
    let expected = id(PAYMENT);
    let (a, b) = (EndpointAddr("10.0.0.1:80".parse().unwrap()), EndpointAddr("10.0.0.2:80".parse().unwrap()));
    for (server, addr, kind) in [
        (&w.payment, a, HandshakeKind::Full),
        (&other, b, HandshakeKind::Full),
        (&w.payment, a, HandshakeKind::Resumed),
        (&other, b, HandshakeKind::Resumed),
    ] {
        let (near, far) = duplex(16 * 1024);
        let connect = w.order.connect_endpoint(near, &expected, Some(addr), Alpn::Tcp);
        let (client, server) = tokio::join!(connect, server.accept(far));
        let ((mut client, ..), (mut server, ..)) = (client.unwrap(), server.unwrap());
        server.write_all(b"!").await.unwrap();
        client.read_u8().await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
    }
}

#[tokio::test]
async fn another_identity_than_expected_is_refused() {
    let w = world();
    let (client, _server) = shake(&w.order, &w.payment, ORDER).await;
    let Err(TlsError::IdentityMismatch { expected, actual }) = client else { panic!("not refused") };
    assert_eq!((expected, actual), (id(ORDER), id(PAYMENT)));
}

#[tokio::test]
async fn another_identity_than_expected_is_refused_when_resumed_too() {
    let w = world();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    // The cache key separates identities, so the only way to resume with the wrong one is below it.
    let mesh = w.order.state().mesh.unwrap();
    let name = crate::config::session_name(&id(PAYMENT), None).unwrap();
    let (near, far) = duplex(16 * 1024);
    let connect = mesh.client.with_alpn(vec![Alpn::Http1.as_bytes().to_vec()]).connect(name, near);
    let (client, _server) = tokio::join!(connect, w.payment.accept(far));
    let client = client.unwrap();
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let peer = w.order.peer(client.get_ref().1, &mesh.verifier).unwrap().unwrap();
    assert!(matches!(super::expect(&id(ORDER), &peer), Err(TlsError::IdentityMismatch { .. })));
    // And a dial that expects somebody else never resumes that ticket: it is a whole handshake, and refused.
    let (client, _server) = shake(&w.order, &w.payment, ORDER).await;
    assert!(matches!(client, Err(TlsError::IdentityMismatch { .. })));
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let w = world();
    w.time.advance(LEAF_LIFE + Duration::from_secs(1));
    let (client, server) = shake(&w.order, &w.payment, PAYMENT).await;
    assert!(matches!(client, Err(TlsError::Expired(VerifyError::Expired { .. }))), "{client:?}");
    assert!(matches!(server, Err(TlsError::PeerRefused(rustls::AlertDescription::CertificateExpired))), "{server:?}");
}

#[tokio::test]
async fn an_expired_client_is_refused_also_by_a_server_that_it_resumes_with() {
    let w = world();
    let mut long = leaf_params(PAYMENT);
    set_validity(&mut long, crate::testing::START_UNIX_S, crate::testing::START_UNIX_S + 10 * LEAF_LIFE.as_secs());
    let (chain, key) = w.ca.sign(&long);
    w.payment.publish_credentials(Credentials::from_der(chain, key).unwrap()).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    w.time.advance(LEAF_LIFE + Duration::from_secs(1));
    let (client, server) = shake(&w.order, &w.payment, PAYMENT).await;
    assert!(matches!(server, Err(TlsError::Expired(_))), "{server:?}");
    let (stream, ..) = client.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    // Without a ticket it is refused by the handshake itself.
    let fresh = w.ca.mesh(ORDER, &w.time);
    let (client, server) = shake(&fresh, &w.payment, PAYMENT).await;
    assert!(matches!(server, Err(TlsError::Expired(_))), "{server:?}");
    assert!(refusal_seen_by_client(client).await.is_certificate_refused());
}

#[tokio::test]
async fn a_renewal_ends_resumption_and_nothing_fails() {
    let w = world();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, RESUMED);
    w.payment.publish_credentials(w.ca.leaf(PAYMENT)).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, RESUMED);
    w.order.publish_credentials(w.ca.leaf(ORDER)).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
}

#[tokio::test]
async fn a_change_of_the_bundle_drops_all_tickets_and_the_same_bundle_none() {
    let w = world();
    let both = || TrustBundle::from_der([w.ca.anchor_der(), TestCa::new("next").anchor_der()]).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    w.payment.publish_bundle(w.ca.bundle()).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, RESUMED);
    w.payment.publish_bundle(both()).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, RESUMED);
    w.order.publish_bundle(both()).unwrap();
    assert_eq!(exchange(&w.order, &w.payment, PAYMENT).await, FULL);
}

#[tokio::test]
async fn a_ticket_is_never_said_to_outlive_our_leaf() {
    let w = world();
    let ticketer = Arc::clone(&w.order.state().mesh.unwrap().server.config().ticketer);
    assert_eq!(u64::from(ticketer.lifetime()), LEAF_LIFE.as_secs());
    w.time.advance(LEAF_LIFE - Duration::from_secs(5));
    assert_eq!(ticketer.lifetime(), 5);
    w.time.advance(LEAF_LIFE);
    assert_eq!(ticketer.lifetime(), 0);
}

#[tokio::test]
async fn a_foreign_authority_is_refused_from_both_sides() {
    let w = world();
    let foreign = TestCa::new("foreign").mesh(PAYMENT, &w.time);
    let (client, server) = shake(&w.order, &foreign, PAYMENT).await;
    assert!(matches!(client, Err(TlsError::Refused(VerifyError::Untrusted))), "{client:?}");
    assert!(matches!(server, Err(TlsError::PeerRefused(rustls::AlertDescription::UnknownCA))), "{server:?}");
    // One that trusts us, and whom we do not trust.
    foreign.publish_bundle(w.ca.bundle()).unwrap();
    let (client, server) = shake(&foreign, &w.payment, PAYMENT).await;
    assert!(matches!(server, Err(TlsError::Refused(VerifyError::Untrusted))), "{server:?}");
    assert!(refusal_seen_by_client(client).await.is_certificate_refused());
}

#[tokio::test]
async fn a_server_of_another_trust_domain_is_refused() {
    let w = world();
    let elsewhere = "spiffe://elsewhere/ns/shop/sa/payment";
    let domain: TrustDomain = "elsewhere".parse().unwrap();
    let there = MeshTls::with_time(domain, Arc::new(w.time.clone()));
    there.publish(w.ca.leaf(elsewhere), w.ca.bundle()).unwrap();
    let (client, _) = shake(&w.order, &there, elsewhere).await;
    assert!(matches!(client, Err(TlsError::Refused(VerifyError::TrustDomain { .. }))), "{client:?}");
    assert!(w.order.publish(w.ca.leaf(elsewhere), w.ca.bundle()).is_err());
    assert_eq!(w.order.credentials().unwrap().id(), &id(ORDER));
}

/// A client of rustls' own making: what an attacker or another program may do.
fn foreign_client(w: &World, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(w.ca.anchor_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = crate::verify::Servers(Arc::clone(&w.order.state().mesh.unwrap().verifier));
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(w.time.clone()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn foreign_shake(w: &World, connector: &TlsConnector) -> (io::Result<client::TlsStream<DuplexStream>>, Server) {
    let (near, far) = duplex(16 * 1024);
    let name = ServerName::try_from("payment").unwrap();
    tokio::join!(connector.connect(name, near), w.payment.accept(far))
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let w = world();
    let connector = foreign_client(&w, &[&rustls::version::TLS13], &[b"weft/tcp"]);
    let (client, server) = foreign_shake(&w, &connector).await;
    assert!(matches!(server, Err(TlsError::Refused(VerifyError::NoCertificate))), "{server:?}");
    let end = StreamEnd::of(&client.unwrap().read_u8().await.unwrap_err());
    assert_eq!(end, StreamEnd::Alert(rustls::AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let w = world();
    let connector = foreign_client(&w, &[&rustls::version::TLS12], &[b"weft/tcp"]);
    let (client, server) = foreign_shake(&w, &connector).await;
    assert!(client.is_err());
    assert!(matches!(server, Err(TlsError::Incompatible(_))), "{server:?}");
}

#[tokio::test]
async fn unknown_versions_of_our_alpn_fall_back_or_are_refused() {
    let w = world();
    for (offered, fits) in
        [(&[&b"weft/h2.7"[..], b"weft/h2"][..], true), (&[b"weft/h2.7"], false), (&[b"h2"], false), (&[], true)]
    {
        let connector = foreign_client(&w, &[&rustls::version::TLS13], offered);
        let (_, server) = foreign_shake(&w, &connector).await;
        // Without a certificate even a fitting name gets no further than that; only the reason tells.
        let refused_for_name = matches!(server, Err(TlsError::NoAlpn));
        assert_eq!(refused_for_name, !fits, "{offered:?}: {server:?}");
    }
    assert!(Alpn::is_mesh(b"weft/h2.7") && !Alpn::is_mesh(b"h2"));
}

#[tokio::test]
async fn a_ca_certificate_is_never_a_peer() {
    let w = world();
    let (chain, key) = w.ca.issuer_der();
    assert!(Credentials::from_der(chain.clone(), key.clone_key()).is_err());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = crate::verify::Servers(Arc::clone(&w.order.state().mesh.unwrap().verifier));
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(w.time.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"weft/tcp".to_vec()];
    let (_, server) = foreign_shake(&w, &TlsConnector::from(Arc::new(config))).await;
    assert!(matches!(server, Err(TlsError::Refused(VerifyError::CaAsPeer))), "{server:?}");
}

#[tokio::test]
async fn what_is_not_tls_is_told_apart_from_a_peer_that_goes_away() {
    let w = world();
    let (mut near, far) = duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let error = w.payment.accept(far).await.unwrap_err();
    assert!(matches!(error, TlsError::NotTls(_)), "{error:?}");

    let (near, mut far) = duplex(1024);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = w.order.connect(near, &id(PAYMENT), Alpn::Tcp).await.unwrap_err();
    assert!(matches!(error, TlsError::NotTls(_)), "{error:?}");

    let (near, far) = duplex(1024);
    drop(far);
    let error = w.order.connect(near, &id(PAYMENT), Alpn::Tcp).await.unwrap_err();
    assert!(matches!(error, TlsError::Closed | TlsError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn nothing_works_before_the_first_publication() {
    let w = world();
    let empty = MeshTls::with_time(TrustDomain::default(), Arc::new(w.time.clone()));
    let (client, server) = shake(&empty, &empty, PAYMENT).await;
    assert!(matches!((client, server), (Err(TlsError::NotReady), Err(TlsError::NotReady))));
    assert!(empty.publish_credentials(w.ca.leaf(PAYMENT)).is_err());
}

#[tokio::test]
async fn removing_an_anchor_wakes_who_relies_on_it() {
    let w = world();
    let next = TestCa::new("next");
    let both = TrustBundle::from_der([w.ca.anchor_der(), next.anchor_der()]).unwrap();
    let (client, _server) = shake(&w.order, &w.payment, PAYMENT).await;
    let (_, peer, _) = client.unwrap();
    let mut watch = w.order.anchor_watch();
    w.order.publish_bundle(both).unwrap();
    w.order.publish_credentials(w.ca.leaf(ORDER)).unwrap();
    assert!(watch.is_trusted(peer.anchor));
    {
        let mut removed = std::pin::pin!(watch.removed(peer.anchor));
        assert!(futures_now(removed.as_mut()).is_pending());
        w.order.publish_bundle(next.bundle()).unwrap();
        assert!(futures_now(removed.as_mut()).is_ready());
    }
    assert!(!watch.is_trusted(peer.anchor));
}

/// Polls once.
fn futures_now(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> std::task::Poll<()> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn the_control_port_takes_clients_with_and_without_a_certificate() {
    let w = world();
    let control = w.ca.mesh("spiffe://cluster.local/ns/weft-system/sa/weft-control-plane", &w.time);
    let newcomer = MeshTls::with_time(TrustDomain::default(), Arc::new(w.time.clone()));
    newcomer.publish_bundle(w.ca.bundle()).unwrap();
    // One whose certificate ran out comes without it: it may still have a token.
    let expired = w.ca.mesh(PAYMENT, &w.time);
    let mut past = leaf_params(PAYMENT);
    set_validity(&mut past, crate::testing::START_UNIX_S - 20, crate::testing::START_UNIX_S - 10);
    let (chain, key) = w.ca.sign(&past);
    expired.publish_credentials(Credentials::from_der(chain, key).unwrap()).unwrap();
    for (client, who) in [(&newcomer, None), (&w.order, Some(id(ORDER))), (&expired, None)] {
        for _ in 0..2 {
            let (near, far) = duplex(16 * 1024);
            let (client, server) = tokio::join!(client.connect_control(near), control.accept_control(far));
            let ((mut client, _), (mut server, peer)) = (client.unwrap(), server.unwrap());
            assert_eq!(peer.map(|peer| peer.id), who);
            assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            server.write_all(b"!").await.unwrap();
            client.read_u8().await.unwrap();
        }
    }
}

#[tokio::test]
async fn another_workload_cannot_play_the_control_plane() {
    let w = world();
    let (near, far) = duplex(16 * 1024);
    let (client, _server) = tokio::join!(w.order.connect_control(near), w.payment.accept_control(far));
    assert!(matches!(client, Err(TlsError::IdentityMismatch { .. })), "{client:?}");
}

#[tokio::test]
async fn close_notify_is_the_end_and_a_bare_fin_is_a_truncation() {
    let w = world();
    let (client, server) = shake(&w.order, &w.payment, PAYMENT).await;
    let ((mut client, ..), (mut server, ..)) = (client.unwrap(), server.unwrap());
    // A half-close: the other direction goes on.
    client.write_all(b"ask").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = Vec::new();
    server.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"ask");
    server.write_all(b"answer").await.unwrap();
    server.flush().await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
    drop(server);
    assert_eq!(StreamEnd::of(&client.read_u8().await.unwrap_err()), StreamEnd::Truncated);
}
