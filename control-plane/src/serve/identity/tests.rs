//! Who gets a certificate by which proof, by a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use weft_model::TrustDomain;
use weft_proto::identity::v1::certify_request::Proof;
use weft_proto::identity::v1::identity_server::Identity;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse, CurrentCertificate};
use weft_runtime::clock::{ManualClock, WallClock};
use weft_tls::{PeerIdentity, TrustBundle};

use super::{IdentityService, PeerCertificate, TokenReviewer};
use crate::ca::{Acknowledgements, Authority, Settings};
use crate::token::{JoinTokens, TokenSpec};

const NOW: u64 = 1_800_000_000;
const LIFE: u64 = 60;
const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";
const PAYMENT: &str = "spiffe://cluster.local/ns/shop/sa/payment";

struct World {
    service: IdentityService,
    hand: ManualClock,
    exists: Arc<AtomicBool>,
    _dir: TempDir,
}

fn world() -> World {
    let dir = TempDir::new().unwrap();
    let (clock, hand) = WallClock::manual(UNIX_EPOCH + Duration::from_secs(NOW));
    let trust_domain = TrustDomain::default();
    let settings = Settings { leaf_life: Duration::from_secs(LIFE), ..Settings::new(trust_domain.clone()) };
    let exists = Arc::new(AtomicBool::new(true));
    let workload_exists = {
        let exists = Arc::clone(&exists);
        Arc::new(move |_: &_| exists.load(Ordering::SeqCst))
    };
    let service = IdentityService {
        authority: Arc::new(Authority::open(&dir.path().join("ca"), settings, NOW).unwrap()),
        tokens: Arc::new(JoinTokens::open(&dir.path().join("join"), trust_domain.clone(), NOW).unwrap()),
        workload_exists,
        reviewer: TokenReviewer::Absent,
        trust_domain,
        clock,
    };
    World { service, hand, exists, _dir: dir }
}

fn csr() -> Vec<u8> {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn asking(identity: &str, proof: Proof) -> CertifyRequest {
    CertifyRequest { csr_der: csr(), identity: identity.to_owned(), proof: Some(proof) }
}

impl World {
    fn token(&self, identity: &str) -> String {
        let spec = TokenSpec { identity: identity.parse().unwrap(), life: Duration::from_secs(600), uses: 1 };
        self.service.tokens.mint(&spec, NOW).unwrap()
    }

    async fn certify(&self, request: CertifyRequest, peer: Option<PeerIdentity>) -> Result<CertifyResponse, Status> {
        let mut request = Request::new(request);
        request.extensions_mut().insert(PeerCertificate(peer));
        self.service.certify(request).await.map(tonic::Response::into_inner)
    }

    async fn refusal(&self, request: CertifyRequest, peer: Option<PeerIdentity>) -> (Code, String) {
        let status = self.certify(request, peer).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    async fn joined(&self, identity: &str) -> PeerIdentity {
        let response = self.certify(asking(identity, Proof::JoinToken(self.token(identity))), None).await.unwrap();
        peer_of(&response)
    }
}

fn peer_of(response: &CertifyResponse) -> PeerIdentity {
    let chain: Vec<_> = response.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let bundle = TrustBundle::from_der(&response.trust_anchors_der).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    weft_tls::peer::identify(&chain, &bundle, &TrustDomain::default(), now).unwrap()
}

fn current() -> Proof {
    Proof::CurrentCertificate(CurrentCertificate {})
}

#[tokio::test]
async fn a_join_token_brings_a_certificate_and_the_bundle() {
    let w = world();
    let response = w.certify(asking(ORDER, Proof::JoinToken(w.token(ORDER))), None).await.unwrap();
    let peer = peer_of(&response);
    assert_eq!((peer.id.as_str(), peer.not_after.as_secs()), (ORDER, NOW + LIFE));
    assert_eq!(response.not_after_unix_s, i64::try_from(NOW + LIFE).unwrap());
}

#[tokio::test]
async fn a_token_works_once_and_an_answer_that_got_lost_can_be_asked_for_again() {
    let w = world();
    let request = asking(ORDER, Proof::JoinToken(w.token(ORDER)));
    w.certify(request.clone(), None).await.unwrap();
    w.certify(request.clone(), None).await.unwrap();
    let (code, text) = w.refusal(CertifyRequest { csr_der: csr(), ..request }, None).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(text.contains("used already"), "{text}");
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_never_shown() {
    let w = world();
    let token = w.token(ORDER);
    let foreign = world().token(ORDER);
    for (identity, token, code) in [
        (PAYMENT, token.clone(), Code::PermissionDenied),
        (ORDER, foreign, Code::Unauthenticated),
        (ORDER, "junk".to_owned(), Code::Unauthenticated),
    ] {
        let (got, text) = w.refusal(asking(identity, Proof::JoinToken(token.clone())), None).await;
        assert_eq!(got, code, "{text}");
        assert!(!text.contains(&token), "{text}");
    }
    w.hand.advance(Duration::from_secs(601));
    assert_eq!(w.refusal(asking(ORDER, Proof::JoinToken(token)), None).await.0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_bad_request_does_not_use_the_token_up() {
    let w = world();
    let token = w.token(ORDER);
    let mut bad = asking(ORDER, Proof::JoinToken(token.clone()));
    bad.csr_der.pop();
    assert_eq!(w.refusal(bad, None).await.0, Code::InvalidArgument);
    w.certify(asking(ORDER, Proof::JoinToken(token)), None).await.unwrap();
}

#[tokio::test]
async fn a_valid_certificate_renews_itself_while_its_workload_exists() {
    let w = world();
    let peer = w.joined(ORDER).await;
    w.hand.advance(Duration::from_secs(LIFE - 1));
    w.certify(asking(ORDER, current()), Some(peer.clone())).await.unwrap();
    assert_eq!(w.refusal(asking(PAYMENT, current()), Some(peer.clone())).await.0, Code::PermissionDenied);
    assert_eq!(w.refusal(asking(ORDER, current()), None).await.0, Code::Unauthenticated);
    w.exists.store(false, Ordering::SeqCst);
    let (code, text) = w.refusal(asking(ORDER, current()), Some(peer)).await;
    assert_eq!((code, text.contains("no Workload")), (Code::PermissionDenied, true), "{text}");
}

#[tokio::test]
async fn a_connection_that_outlived_its_certificate_renews_nothing() {
    let w = world();
    let peer = w.joined(ORDER).await;
    w.hand.advance(Duration::from_secs(LIFE + 1));
    assert_eq!(w.refusal(asking(ORDER, current()), Some(peer)).await.0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_under_a_removed_anchor_renews_nothing() {
    let w = world();
    let peer = PeerIdentity { not_after: UnixTime::since_unix_epoch(Duration::MAX), ..w.joined(ORDER).await };
    let authority = &w.service.authority;
    authority.begin_rotation(NOW).unwrap();
    for now in [NOW, NOW + LIFE + 1] {
        authority.advance(Acknowledgements { pending: 0, replicas: 0 }, now).unwrap();
    }
    let (code, text) = w.refusal(asking(ORDER, current()), Some(peer)).await;
    assert_eq!((code, text.contains("anchor")), (Code::Unauthenticated, true), "{text}");
}

#[tokio::test]
async fn what_is_asked_for_must_be_ours_to_give() {
    let w = world();
    let token = || Proof::JoinToken(w.token(ORDER));
    for (identity, code) in [
        ("nonsense", Code::InvalidArgument),
        ("spiffe://elsewhere/ns/shop/sa/order", Code::PermissionDenied),
        ("spiffe://cluster.local/ns/weft-system/sa/weft-control-plane", Code::PermissionDenied),
    ] {
        assert_eq!(w.refusal(asking(identity, token()), None).await.0, code, "{identity}");
    }
    let none = CertifyRequest { proof: None, ..asking(ORDER, current()) };
    assert_eq!(w.refusal(none, None).await.0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_service_account_token_needs_a_kubernetes_api() {
    let w = world();
    let (code, text) = w.refusal(asking(ORDER, Proof::ServiceAccountToken("secret".to_owned())), None).await;
    assert_eq!(code, Code::Unimplemented);
    assert!(text.contains("no Kubernetes API here") && !text.contains("secret"), "{text}");
}
