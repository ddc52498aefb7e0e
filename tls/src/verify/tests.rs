//! The rule, case by case: what is refused, and for which reason.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_model::TrustDomain;

use super::{VerifyError, identify, spiffe_id};
use crate::bundle::TrustBundle;
use crate::peer::PeerIdentity;
use crate::testing::{LEAF_LIFE, START_UNIX_S, TestCa, leaf_params, set_validity, uri};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/order";

fn at(unix_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
}

fn verdict(ca: &TestCa, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, VerifyError> {
    identify(chain, &ca.bundle(), &TrustDomain::default(), at(START_UNIX_S))
}

/// Signs a changed leaf and says why it is refused.
fn refusal(change: impl FnOnce(&mut CertificateParams)) -> VerifyError {
    let ca = TestCa::new("ca");
    let mut params = leaf_params(ID);
    change(&mut params);
    verdict(&ca, &ca.sign(&params).0).unwrap_err()
}

#[test]
fn a_workloads_certificate_is_accepted() {
    let ca = TestCa::new("ca");
    let peer = verdict(&ca, ca.leaf(ID).chain()).unwrap();
    assert_eq!(peer.id.as_str(), ID);
    assert_eq!(peer.anchor, ca.bundle().anchors()[0].id());
    assert_eq!(peer.not_after, at(START_UNIX_S + LEAF_LIFE.as_secs()));
}

#[test]
fn other_names_beside_the_one_uri_are_not_looked_at() {
    let ca = TestCa::new("ca");
    let mut params = leaf_params(ID);
    params.subject_alt_names.push(SanType::DnsName("order.shop".try_into().unwrap()));
    assert_eq!(verdict(&ca, &ca.sign(&params).0).unwrap().id.as_str(), ID);
}

#[test]
fn each_broken_rule_has_its_own_reason() {
    let two = uri("spiffe://cluster.local/ns/shop/sa/payment");
    assert_eq!(refusal(|p| p.subject_alt_names.push(two.clone())), VerifyError::UriSans { count: 2 });
    assert_eq!(refusal(|p| p.subject_alt_names.clear()), VerifyError::UriSans { count: 0 });
    let dns = SanType::DnsName("order.shop".try_into().unwrap());
    assert_eq!(refusal(|p| p.subject_alt_names = vec![dns]), VerifyError::UriSans { count: 0 });
    let shape = refusal(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/order")]);
    assert!(matches!(shape, VerifyError::Identity(_)), "{shape}");
    let domain = refusal(|p| p.subject_alt_names = vec![uri("spiffe://elsewhere/ns/shop/sa/order")]);
    assert!(matches!(domain, VerifyError::TrustDomain { .. }), "{domain}");
    assert_eq!(refusal(|p| p.key_usages.clear()), VerifyError::KeyUsage);
    assert_eq!(refusal(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), VerifyError::KeyUsage);
    assert_eq!(refusal(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), VerifyError::KeyUsage);
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(refusal(|p| p.extended_key_usages = server), VerifyError::ExtendedKeyUsage);
    let client = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(refusal(|p| p.extended_key_usages = client), VerifyError::ExtendedKeyUsage);
    assert_eq!(refusal(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), VerifyError::CaAsPeer);
}

#[test]
fn time_counts_at_both_ends() {
    let ca = TestCa::new("ca");
    let leaf = ca.leaf(ID);
    let end = START_UNIX_S + LEAF_LIFE.as_secs();
    let verdict = |now| identify(leaf.chain(), &ca.bundle(), &TrustDomain::default(), at(now));
    assert!(matches!(verdict(START_UNIX_S - 1), Err(VerifyError::NotYetValid { .. })));
    assert!(verdict(START_UNIX_S).is_ok() && verdict(end).is_ok());
    assert!(matches!(verdict(end + 1), Err(VerifyError::Expired { .. })));
}

#[test]
fn an_expired_anchor_vouches_for_nobody() {
    let key = || KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "short");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, START_UNIX_S - 10, START_UNIX_S + 10);
    let anchor = CertifiedIssuer::self_signed(params, key()).unwrap();
    let bundle = TrustBundle::from_der([anchor.der()]).unwrap();
    let chain = [leaf_params(ID).signed_by(&key(), &anchor).unwrap().der().clone()];
    let verdict = |now| identify(&chain, &bundle, &TrustDomain::default(), at(now));
    assert_eq!(verdict(START_UNIX_S).unwrap().not_after, at(START_UNIX_S + 10));
    assert!(matches!(verdict(START_UNIX_S + 11), Err(VerifyError::Expired { .. })));
}

#[test]
fn a_foreign_authority_is_not_trusted_even_under_our_name() {
    let (ours, namesake, other) = (TestCa::new("ca"), TestCa::new("ca"), TestCa::new("other"));
    assert_eq!(verdict(&ours, namesake.leaf(ID).chain()), Err(VerifyError::Untrusted));
    assert_eq!(verdict(&ours, other.leaf(ID).chain()), Err(VerifyError::Untrusted));
    let mut mixed = other.leaf(ID).chain().to_vec();
    mixed[1] = ours.issuer_der().0[0].clone();
    assert_eq!(verdict(&ours, &mixed), Err(VerifyError::Untrusted));
}

#[test]
fn odd_chains_are_refused() {
    let ca = TestCa::new("ca");
    let chain = ca.leaf(ID).chain().to_vec();
    assert_eq!(verdict(&ca, &[]), Err(VerifyError::NoCertificate));
    assert_eq!(verdict(&ca, &ca.issuer_der().0), Err(VerifyError::CaAsPeer));
    assert_eq!(verdict(&ca, &chain[..1]), Err(VerifyError::Untrusted));
    assert_eq!(verdict(&ca, &[CertificateDer::from(b"junk".to_vec())]), Err(VerifyError::Malformed));
    let mut trailing = chain[0].to_vec();
    trailing.push(0);
    assert_eq!(verdict(&ca, &[CertificateDer::from(trailing)]), Err(VerifyError::Malformed));
    let long = [&chain[..], &chain[1..], &chain[1..], &chain[1..]].concat();
    assert_eq!(verdict(&ca, &long), Err(VerifyError::ChainTooLong));
}

#[test]
fn a_workload_cannot_sign_for_another() {
    let ca = TestCa::new("ca");
    let (chain, key) = ca.leaf_der(ID);
    let issuer = Issuer::from_ca_cert_der(&chain[0], KeyPair::try_from(&key).unwrap()).unwrap();
    let forged = leaf_params("spiffe://cluster.local/ns/shop/sa/payment")
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let path = [forged.der().clone(), chain[0].clone(), chain[1].clone()];
    let error = verdict(&ca, &path).unwrap_err();
    assert_eq!(error, VerifyError::Path(webpki::Error::EndEntityUsedAsCa));
}

#[test]
fn reading_a_certificate_gives_its_one_identity() {
    let ca = TestCa::new("ca");
    assert_eq!(spiffe_id(&ca.leaf(ID).chain()[0]).unwrap().as_str(), ID);
    assert_eq!(spiffe_id(&ca.anchor_der()), Err(VerifyError::CaAsPeer));
}

proptest! {
    #[test]
    fn reading_junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(spiffe_id(&bytes).is_err());
    }

    #[test]
    fn a_certificate_with_a_changed_byte_never_panics(at in 0_usize..400, to in any::<u8>()) {
        thread_local!(static LEAF: Vec<u8> = TestCa::new("ca").leaf(ID).chain()[0].to_vec());
        let mut leaf = LEAF.with(Clone::clone);
        let len = leaf.len();
        leaf[at % len] = to;
        // Only the shape matters here: a signature over changed bytes is found by `identify`.
        if let Ok(id) = spiffe_id(&leaf) {
            prop_assert!(id.as_str().starts_with("spiffe://"));
        }
    }
}
