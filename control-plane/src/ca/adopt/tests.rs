//! An issuer that somebody else makes, on a real directory, by a clock that is an argument.

use std::fs;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;
use weft_model::{SpiffeId, TrustDomain};
use weft_tls::peer::identify;

use super::*;
use crate::ca::testing::{Made, NOW, anchor, key, params, read, secret, secret_of, valid};
use crate::ca::{Acknowledgements, Leaf, Settings, Step};

const LIFE: u64 = 60;
const ALL: Acknowledgements = Acknowledgements { pending: 0, replicas: 0 };
const BUT_ONE: Acknowledgements = Acknowledgements { pending: 1, replicas: 0 };

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/order".parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        leaf_life: Duration::from_secs(LIFE),
        issuer_secret: Some("weft-issuer".to_owned()),
        ..Settings::new("cluster.local".parse().unwrap())
    }
}

fn open(dir: &TempDir, now: u64) -> Authority {
    Authority::open(dir.path(), settings(), now).unwrap()
}

/// An authority that began with what the Secret says.
fn begun(offer: &Offer) -> (TempDir, Authority) {
    let dir = TempDir::new().unwrap();
    Authority::create_from(dir.path(), offer).unwrap();
    let authority = open(&dir, NOW);
    (dir, authority)
}

fn leaf(authority: &Authority, now: u64) -> Leaf {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    authority.sign(csr.der(), &id(), now).unwrap()
}

fn is_accepted(leaf: &Leaf, bundle: &TrustBundle, now: u64) -> bool {
    let chain: Vec<_> = leaf.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    identify(&chain, bundle, &TrustDomain::default(), UnixTime::since_unix_epoch(Duration::from_secs(now))).is_ok()
}

fn trusts(anchors: &[&Made]) -> TrustBundle {
    TrustBundle::from_der(anchors.iter().map(|anchor| anchor.der())).unwrap()
}

/// Whether it signs by this issuer, and a proxy that trusts these anchors alone accepts it.
fn signs_by(authority: &Authority, offer: &Offer, anchors: &[&Made], now: u64) -> bool {
    let leaf = leaf(authority, now);
    offer.issuer_pem.starts_with(&weft_tls::bundle::certificate_pem(&leaf.chain_der[1]))
        && is_accepted(&leaf, &trusts(anchors), now)
}

#[test]
fn it_begins_with_the_secrets_issuer_and_makes_none() {
    let dir = TempDir::new().unwrap();
    assert!(!Authority::is_there(dir.path()).unwrap());
    assert!(matches!(Authority::open(dir.path(), settings(), NOW), Err(CaError::Missing { .. })));
    let root = anchor("root");
    let offer = read(&secret(&root)).unwrap();
    Authority::create_from(dir.path(), &offer).unwrap();
    assert!(Authority::is_there(dir.path()).unwrap());
    let authority = open(&dir, NOW);
    assert!(signs_by(&authority, &offer, &[&root], NOW));
    assert_eq!(authority.adopt(&offer, true, NOW).unwrap(), Adopted::Nothing);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "anchors, issuer and leaves");
}

#[test]
fn what_was_made_by_half_is_begun_again() {
    let root = anchor("root");
    let (dir, _) = begun(&read(&secret(&root)).unwrap());
    fs::write(dir.path().join("creating"), "").unwrap();
    assert!(!Authority::is_there(dir.path()).unwrap());
}

#[test]
fn neither_issuer_nor_anchor_is_replaced_by_us() {
    let (_dir, authority) = begun(&read(&secret(&anchor("root"))).unwrap());
    for refused in [authority.renew_issuer(NOW), authority.begin_rotation(NOW)] {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("Secret weft-issuer"), "{said}");
    }
    // Not even where its end is near.
    let end = authority.issuer_not_after_unix_s();
    assert_eq!(authority.advance(ALL, end - 1).unwrap(), Step::Wait);
    assert_eq!(authority.issuer_not_after_unix_s(), end);
    assert!(
        authority.issuer_overdue_unix_s() < end - 14 * 86_400 && authority.issuer_overdue_unix_s() > end - 16 * 86_400
    );
}

#[test]
fn another_issuer_under_the_same_anchor_signs_at_once_on_every_replica() {
    let root = anchor("root");
    let (dir, authority) = begun(&read(&secret(&root)).unwrap());
    let mut changes = authority.subscribe();
    changes.mark_unchanged();
    let next = read(&secret(&root)).unwrap();
    assert_eq!(authority.adopt(&next, false, NOW).unwrap(), Adopted::Signs);
    assert!(signs_by(&authority, &next, &[&root], NOW));
    assert_eq!(authority.adopt(&next, false, NOW).unwrap(), Adopted::Nothing);
    assert!(!changes.has_changed().unwrap() && authority.rotation() == Rotation::Steady);
    assert!(signs_by(&open(&dir, NOW), &next, &[&root], NOW), "a restart finds it");

    // The same key, issued again for longer, is the same anchor.
    let mut longer = params("root");
    valid(&mut longer, NOW - 3600, NOW + 900 * 86_400);
    let longer = Made::self_signed(longer, KeyPair::try_from(root.key().serialize_der()).unwrap()).unwrap();
    let next = read(&secret(&longer)).unwrap();
    assert_eq!(authority.adopt(&next, false, NOW).unwrap(), Adopted::Signs);
    assert_eq!(*authority.bundle(), trusts(&[&longer]));
}

#[test]
fn another_anchor_goes_out_first_and_the_old_one_goes_last() {
    // A root that cert-manager renews keeps its name, and gets another key.
    let (old, new) = (anchor("root.weft"), anchor("root.weft"));
    let upper = Made::signed_by(params("upper"), key(), &new).unwrap();
    let issuer = Made::signed_by(params("weft issuer"), key(), &upper).unwrap();
    let (first, second) = (read(&secret(&old)).unwrap(), read(&secret_of(&issuer, &[&upper], &new)).unwrap());
    let (dir, authority) = begun(&first);
    assert_eq!(authority.adopt(&second, false, NOW).unwrap(), Adopted::Nothing, "only one replica announces");
    assert_eq!(authority.adopt(&second, true, NOW).unwrap(), Adopted::Announced);
    assert_eq!(*authority.bundle(), trusts(&[&old, &new]));
    assert_eq!(authority.adopt(&second, true, NOW).unwrap(), Adopted::Nothing);
    assert_eq!(authority.advance(BUT_ONE, NOW + 1).unwrap(), Step::Wait);
    assert!(signs_by(&authority, &first, &[&old], NOW + 1), "those who do not know the new anchor yet");

    // A restart in the middle: the old issuer's key is nowhere but here.
    let authority = {
        drop(authority);
        open(&dir, NOW + 2)
    };
    assert!(signs_by(&authority, &first, &[&old], NOW + 2));
    assert_eq!(authority.adopt(&second, true, NOW + 2).unwrap(), Adopted::Nothing);
    // cert-manager renews meanwhile.
    let third = read(&secret(&new)).unwrap();
    assert_eq!(authority.adopt(&third, true, NOW + 2).unwrap(), Adopted::Announced);
    assert_eq!(authority.adopt(&second, true, NOW + 2).unwrap(), Adopted::Announced);

    assert_eq!(authority.advance(ALL, NOW + 3).unwrap(), Step::Switch);
    assert!(signs_by(&authority, &second, &[&new], NOW + 3));
    assert_eq!(*authority.bundle(), trusts(&[&old, &new]));
    assert_eq!(authority.adopt(&second, true, NOW + 3).unwrap(), Adopted::Nothing);
    let authority = {
        drop(authority);
        open(&dir, NOW + 4)
    };
    assert!(signs_by(&authority, &second, &[&new], NOW + 4));
    // A renewal under the new anchor waits for nothing.
    assert_eq!(authority.adopt(&third, false, NOW + 4).unwrap(), Adopted::Signs);
    for (acknowledgements, at) in [(ALL, NOW + 3 + LIFE), (BUT_ONE, NOW + 4 + LIFE)] {
        assert_eq!(authority.advance(acknowledgements, at).unwrap(), Step::Wait);
    }
    assert_eq!(authority.advance(ALL, NOW + 5 + LIFE).unwrap(), Step::Retire);
    assert_eq!(*authority.bundle(), trusts(&[&new]));
    assert_eq!(authority.adopt(&third, true, NOW + 5 + LIFE).unwrap(), Adopted::Nothing);
}

#[test]
fn a_third_anchor_waits_until_the_old_one_is_gone() {
    let (old, new, third) = (anchor("old"), anchor("new"), anchor("third"));
    let (_dir, authority) = begun(&read(&secret(&old)).unwrap());
    authority.adopt(&read(&secret(&new)).unwrap(), true, NOW).unwrap();
    authority.advance(ALL, NOW).unwrap();
    let offer = read(&secret(&third)).unwrap();
    assert_eq!(authority.adopt(&offer, true, NOW).unwrap(), Adopted::Waits);
    assert_eq!(*authority.bundle(), trusts(&[&old, &new]));
    assert_eq!(authority.advance(ALL, NOW + LIFE + 1).unwrap(), Step::Retire);
    assert_eq!(authority.adopt(&offer, true, NOW + LIFE + 1).unwrap(), Adopted::Announced);
    assert_eq!(*authority.bundle(), trusts(&[&new, &third]));
}

#[test]
fn an_anchor_that_is_not_wanted_any_more_goes_and_never_signs() {
    let (old, wrong) = (anchor("old"), anchor("wrong"));
    let first = read(&secret(&old)).unwrap();
    let (dir, authority) = begun(&first);
    authority.adopt(&read(&secret(&wrong)).unwrap(), true, NOW).unwrap();
    let files = ["next.pem"].map(|name| fs::read(dir.path().join(name)).unwrap());
    assert_eq!(authority.adopt(&first, false, NOW + 1).unwrap(), Adopted::Nothing);
    assert_eq!(authority.adopt(&first, true, NOW + 1).unwrap(), Adopted::Withdrawn);
    assert!(signs_by(&authority, &first, &[&old], NOW + 1));
    assert_eq!(authority.advance(ALL, NOW + 1).unwrap(), Step::Wait);

    // A crash between the two writes of it.
    fs::write(dir.path().join("next.pem"), &files[0]).unwrap();
    let authority = {
        drop(authority);
        open(&dir, NOW + 2)
    };
    assert!(!dir.path().join("next.pem").exists());
    assert!(signs_by(&authority, &first, &[&old], NOW + 2));
    assert_eq!(*authority.bundle(), trusts(&[&old, &wrong]), "another replica may have switched");
    // What signs is renewed meanwhile.
    let again = read(&secret(&old)).unwrap();
    assert_eq!(authority.adopt(&again, true, NOW + 2).unwrap(), Adopted::Signs);
    assert_eq!(authority.advance(ALL, NOW + 2 + LIFE).unwrap(), Step::Retire);
    assert_eq!(*authority.bundle(), trusts(&[&old]));
}

#[test]
fn an_issuer_of_our_own_is_replaced_by_anothers_without_a_gap() {
    let dir = TempDir::new().unwrap();
    let own = Settings { issuer_secret: None, ..settings() };
    let authority = Authority::open(dir.path(), own.clone(), NOW).unwrap();
    let (before, old_leaf) = (authority.bundle(), leaf(&authority, NOW));
    drop(authority);
    let root = anchor("root");
    let offer = read(&secret(&root)).unwrap();
    let authority = open(&dir, NOW + 1);
    assert_eq!(authority.adopt(&offer, true, NOW + 1).unwrap(), Adopted::Announced);
    assert!(is_accepted(&leaf(&authority, NOW + 1), &before, NOW + 1));
    assert_eq!(authority.advance(ALL, NOW + 2).unwrap(), Step::Switch);
    assert!(signs_by(&authority, &offer, &[&root], NOW + 2) && is_accepted(&old_leaf, &authority.bundle(), NOW + 2));
    assert!(!dir.path().join("anchor.key").exists(), "it has nothing left to sign");
    assert_eq!(authority.advance(ALL, NOW + 3 + LIFE).unwrap(), Step::Retire);
    drop(authority);

    // And back.
    let authority = Authority::open(dir.path(), own, NOW + 100).unwrap();
    assert!(matches!(authority.renew_issuer(NOW + 100), Err(CaError::AnchorOffline)));
    authority.begin_rotation(NOW + 100).unwrap();
    assert_eq!(authority.advance(ALL, NOW + 101).unwrap(), Step::Switch);
    assert_eq!(authority.advance(ALL, NOW + 102 + LIFE).unwrap(), Step::Retire);
    authority.renew_issuer(NOW + 102 + LIFE).unwrap();
}

#[test]
fn a_rotation_of_our_own_that_was_announced_is_taken_back_and_one_that_switched_ends() {
    let root = anchor("root");
    let offer = read(&secret(&root)).unwrap();
    for switches in [false, true] {
        let dir = TempDir::new().unwrap();
        let ours = Authority::open(dir.path(), Settings { issuer_secret: None, ..settings() }, NOW).unwrap();
        let before = ours.bundle();
        ours.begin_rotation(NOW).unwrap();
        if switches {
            assert_eq!(ours.advance(ALL, NOW).unwrap(), Step::Switch);
        }
        drop(ours);
        let authority = open(&dir, NOW + 1);
        let first = if switches { Adopted::Waits } else { Adopted::Withdrawn };
        assert_eq!(authority.adopt(&offer, true, NOW + 1).unwrap(), first);
        assert_eq!(authority.adopt(&offer, true, NOW + 1).unwrap(), Adopted::Waits);
        assert_eq!(is_accepted(&leaf(&authority, NOW + 1), &before, NOW + 1), !switches);
        assert_eq!(authority.advance(ALL, NOW + 2 + LIFE).unwrap(), Step::Retire);
        assert_eq!(authority.adopt(&offer, true, NOW + 2 + LIFE).unwrap(), Adopted::Announced);
        assert!(!dir.path().join("next-anchor.key").exists());
        assert_eq!(authority.advance(ALL, NOW + 2 + LIFE).unwrap(), Step::Switch);
        assert!(signs_by(&authority, &offer, &[&root], NOW + 2 + LIFE));
    }
}

#[test]
fn an_issuer_that_has_expired_keeps_nobody_waiting() {
    let root = anchor("root");
    let mut short = params("weft issuer");
    valid(&mut short, NOW - 60, NOW + 10);
    let short = secret_of(&Made::signed_by(short, key(), &root).unwrap(), &[], &root);
    for next in [&root, &anchor("other")] {
        let (_dir, authority) = begun(&read(&short).unwrap());
        let offer = read(&secret(next)).unwrap();
        assert!(authority.credentials(&id(), NOW + 11).is_err());
        assert_eq!(authority.adopt(&offer, false, NOW + 11).unwrap(), Adopted::Signs);
        assert!(signs_by(&authority, &offer, &[next], NOW + 11));
        assert!(authority.credentials(&id(), NOW + 11).is_ok());
    }
}
