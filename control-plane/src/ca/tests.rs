//! The authority on a real directory, by a clock that is an argument.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;
use weft_model::{SpiffeId, TrustDomain};
use weft_tls::peer::identify;
use weft_tls::{PeerIdentity, TrustBundle, VerifyError};

use super::{Acknowledgements, Authority, CaError, Leaf, Rotation, Settings, SignError, Step};

const NOW: u64 = 1_800_000_000;
const LIFE: u64 = 60;
const NOBODY: Acknowledgements = Acknowledgements { pending: 0, replicas: 0 };

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/order".parse().unwrap()
}

fn settings() -> Settings {
    Settings { leaf_life: Duration::from_secs(LIFE), ..Settings::new("cluster.local".parse().unwrap()) }
}

fn open(path: &Path, now: u64) -> Authority {
    Authority::open(path, settings(), now).unwrap()
}

fn csr() -> Vec<u8> {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn leaf(authority: &Authority, now: u64) -> Leaf {
    authority.sign(&csr(), &id(), now).unwrap()
}

fn verdict(leaf: &Leaf, bundle: &TrustBundle, now: u64) -> Result<PeerIdentity, VerifyError> {
    let chain: Vec<_> = leaf.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    identify(&chain, bundle, &TrustDomain::default(), now)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The directory as a crash would leave it: a copy of these files.
fn snapshot(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn what_it_signs_is_accepted_by_peers() {
    let dir = TempDir::new().unwrap();
    let authority = open(dir.path(), NOW);
    let leaf = leaf(&authority, NOW);
    assert_eq!(leaf.not_after_unix_s, NOW + LIFE);
    let peer = verdict(&leaf, &authority.bundle(), NOW).unwrap();
    assert_eq!(peer.id, id());
    // Backdated by 20 s for clocks that are behind, and no more.
    assert!(verdict(&leaf, &authority.bundle(), NOW - 20).is_ok());
    assert!(matches!(verdict(&leaf, &authority.bundle(), NOW - 21), Err(VerifyError::NotYetValid { .. })));
    assert!(verdict(&leaf, &authority.bundle(), NOW + LIFE).is_ok());
    assert!(matches!(verdict(&leaf, &authority.bundle(), NOW + LIFE + 1), Err(VerifyError::Expired { .. })));
}

#[test]
fn only_the_public_key_of_a_request_reaches_the_certificate() {
    let dir = TempDir::new().unwrap();
    let authority = open(dir.path(), NOW);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "weft-control-plane");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let leaf = authority.sign(csr.der(), &id(), NOW).unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&leaf.chain_der[0]).unwrap();
    assert_eq!(read.subject().iter().count(), 0);
    assert!(!read.is_ca());
    let usage = read.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let purposes = read.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && purposes.server_auth && !purposes.code_signing && purposes.other.is_empty());
    let (_, issuer) = x509_parser::parse_x509_certificate(&leaf.chain_der[1]).unwrap();
    assert_eq!(issuer.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert_ne!(read.raw_serial(), issuer.raw_serial());
}

#[test]
fn a_foreign_trust_domain_is_not_signed() {
    let dir = TempDir::new().unwrap();
    let elsewhere: SpiffeId = "spiffe://elsewhere/ns/shop/sa/order".parse().unwrap();
    let error = open(dir.path(), NOW).sign(&csr(), &elsewhere, NOW).unwrap_err();
    assert!(matches!(error, SignError::TrustDomain { .. }));
}

#[test]
fn a_leaf_never_outlives_its_issuer_nor_begins_before_it() {
    let dir = TempDir::new().unwrap();
    let short = Settings { issuer_life: Duration::from_secs(100), ..settings() };
    let authority = Authority::open(dir.path(), short, NOW).unwrap();
    assert_eq!(leaf(&authority, NOW + 70).not_after_unix_s, NOW + 100);
    assert!(matches!(authority.sign(&csr(), &id(), NOW + 100), Err(SignError::IssuerExpired { .. })));
    // Far before: a clock that was set back does not make leaves that nobody accepts.
    let early = leaf(&authority, NOW - 3590);
    assert!(verdict(&early, &authority.bundle(), NOW - 3590).is_ok());
}

#[test]
fn a_restart_finds_what_was_there_and_keys_are_private() {
    let dir = TempDir::new().unwrap();
    let before = open(dir.path(), NOW);
    let after = open(dir.path(), NOW + 10);
    assert_eq!(before.bundle(), after.bundle());
    assert!(verdict(&leaf(&before, NOW), &after.bundle(), NOW).is_ok());
    assert_eq!(mode(&dir.path().join("issuer.pem")), 0o600);
    assert_eq!(mode(&dir.path().join("anchor.key")), 0o600);
    assert_eq!(mode(&dir.path().join("anchors.pem")), 0o644);
}

#[test]
fn half_an_authority_is_refused_and_never_overwritten() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), NOW));
    let issuer = fs::read(dir.path().join("issuer.pem")).unwrap();
    fs::remove_file(dir.path().join("anchors.pem")).unwrap();
    assert!(matches!(Authority::open(dir.path(), settings(), NOW), Err(CaError::Missing { .. })));
    assert_eq!(fs::read(dir.path().join("issuer.pem")).unwrap(), issuer);

    let other = TempDir::new().unwrap();
    drop(open(other.path(), NOW));
    fs::copy(other.path().join("anchors.pem"), dir.path().join("anchors.pem")).unwrap();
    assert!(matches!(Authority::open(dir.path(), settings(), NOW), Err(CaError::NotAnchored)));
    fs::write(dir.path().join("issuer.pem"), "nonsense").unwrap();
    assert!(matches!(Authority::open(dir.path(), settings(), NOW), Err(CaError::Pem(_))));
}

#[test]
fn a_crash_while_the_authority_is_made_is_begun_again() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), NOW));
    fs::write(dir.path().join("creating"), "").unwrap();
    fs::remove_file(dir.path().join("issuer.pem")).unwrap();
    let authority = open(dir.path(), NOW);
    assert!(verdict(&leaf(&authority, NOW), &authority.bundle(), NOW).is_ok());
    assert!(!dir.path().join("creating").exists());
}

#[test]
fn the_issuer_is_renewed_in_time_where_the_anchors_key_is_here() {
    let dir = TempDir::new().unwrap();
    let short = Settings { issuer_life: Duration::from_secs(9_000), ..settings() };
    let authority = Authority::open(dir.path(), short.clone(), NOW).unwrap();
    let first = authority.issuer_not_after_unix_s();
    authority.advance(NOBODY, NOW + 1_000).unwrap();
    assert_eq!(authority.issuer_not_after_unix_s(), first);
    authority.advance(NOBODY, NOW + 6_000).unwrap();
    assert_eq!(authority.issuer_not_after_unix_s(), NOW + 15_000);
    assert!(verdict(&leaf(&authority, NOW + 6_000), &authority.bundle(), NOW + 6_000).is_ok());

    fs::remove_file(dir.path().join("anchor.key")).unwrap();
    authority.advance(NOBODY, NOW + 14_000).unwrap();
    assert_eq!(authority.issuer_not_after_unix_s(), NOW + 15_000);
    assert!(matches!(authority.renew_issuer(NOW + 14_000), Err(CaError::AnchorOffline)));
}

#[test]
fn a_rotation_never_leaves_a_valid_leaf_without_its_anchor() {
    let dir = TempDir::new().unwrap();
    let authority = open(dir.path(), NOW);
    let mut changes = authority.subscribe();
    let old_bundle = authority.bundle();
    let old_leaf = leaf(&authority, NOW);

    authority.begin_rotation(NOW).unwrap();
    assert!(changes.has_changed().unwrap());
    let both = changes.borrow_and_update().clone();
    assert_eq!(both.anchors().len(), 2);
    assert!(matches!(authority.begin_rotation(NOW), Err(CaError::RotationUnderWay)));
    // Until every proxy knows both, the old one signs.
    assert_eq!(authority.advance(Acknowledgements { pending: 1, replicas: 0 }, NOW + 1).unwrap(), Step::Wait);
    assert!(verdict(&leaf(&authority, NOW + 1), &old_bundle, NOW + 1).is_ok());

    assert_eq!(authority.advance(NOBODY, NOW + 2).unwrap(), Step::Switch);
    assert!(!changes.has_changed().unwrap());
    let new_leaf = leaf(&authority, NOW + 2);
    assert!(verdict(&new_leaf, &old_bundle, NOW + 2).is_err());
    assert!(verdict(&new_leaf, &both, NOW + 2).is_ok() && verdict(&old_leaf, &both, NOW + 2).is_ok());

    for (pending, at) in [(0, NOW + 2 + LIFE), (1, NOW + 3 + LIFE)] {
        assert_eq!(authority.advance(Acknowledgements { pending, replicas: 0 }, at).unwrap(), Step::Wait);
    }
    assert_eq!(authority.advance(NOBODY, NOW + 3 + LIFE).unwrap(), Step::Retire);
    assert_eq!(authority.rotation(), Rotation::Steady);
    assert_eq!(changes.borrow_and_update().anchors().len(), 1);
    // The new anchor's key came along: the next issuer can be made.
    authority.renew_issuer(NOW + 3 + LIFE).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn a_restart_at_any_point_of_a_rotation_goes_on_from_there() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), NOW));
    let before = snapshot(dir.path());
    open(dir.path(), NOW).begin_rotation(NOW).unwrap();
    let overlap = open(dir.path(), NOW);
    assert!(matches!(overlap.rotation(), Rotation::Overlap { .. }));
    let during = snapshot(dir.path());
    assert_eq!(overlap.advance(NOBODY, NOW).unwrap(), Step::Switch);
    let retiring = open(dir.path(), NOW + 1);
    assert_eq!(retiring.rotation(), overlap.rotation());
    let switched = snapshot(dir.path());

    // A crash between the writes of `begin`: `next.pem` is there, the bundle is the old one.
    fs::copy(before.path().join("anchors.pem"), during.path().join("anchors.pem")).unwrap();
    let resumed = open(during.path(), NOW);
    assert!(matches!(resumed.rotation(), Rotation::Overlap { .. }));
    assert_eq!(resumed.bundle(), overlap.bundle());

    // A crash after the first write of the switch: the date is there, the issuer is the old one.
    fs::copy(switched.path().join("retiring.json"), during.path().join("retiring.json")).unwrap();
    let resumed = open(during.path(), NOW);
    assert_eq!(resumed.rotation(), overlap.rotation());
    assert!(verdict(&leaf(&resumed, NOW), &resumed.bundle(), NOW).is_ok());
    resumed.renew_issuer(NOW).unwrap();
    assert!(!during.path().join("next.pem").exists() && !during.path().join("next-anchor.key").exists());

    // A crash between the writes of the retirement: the bundle is the new one, the date is still there.
    assert_eq!(retiring.advance(NOBODY, NOW + LIFE + 1).unwrap(), Step::Retire);
    fs::copy(switched.path().join("retiring.json"), dir.path().join("retiring.json")).unwrap();
    assert_eq!(open(dir.path(), NOW + LIFE + 1).rotation(), Rotation::Steady);
    assert!(!dir.path().join("retiring.json").exists());
}

#[test]
fn leaves_of_an_earlier_longer_life_are_waited_for() {
    let dir = TempDir::new().unwrap();
    let long = Settings { leaf_life: Duration::from_secs(1_000), ..settings() };
    drop(leaf(&Authority::open(dir.path(), long, NOW).unwrap(), NOW));
    let authority = open(dir.path(), NOW + 10);
    authority.begin_rotation(NOW + 10).unwrap();
    authority.advance(NOBODY, NOW + 10).unwrap();
    let Rotation::Retiring { leaves_gone_unix_s, .. } = authority.rotation() else { panic!("not retiring") };
    assert_eq!(leaves_gone_unix_s, NOW + 1_010);
}

#[test]
fn an_offline_anchor_is_rotated_by_files() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let authority = open(dir.path(), NOW);
    drop(open(elsewhere.path(), NOW));
    let read = |name: &str| fs::read_to_string(elsewhere.path().join(name)).unwrap();
    fs::write(dir.path().join("next.pem"), read("issuer.pem") + &read("anchors.pem")).unwrap();
    authority.reload(NOW).unwrap();
    assert!(matches!(authority.rotation(), Rotation::Overlap { .. }));
    assert_eq!(authority.advance(NOBODY, NOW).unwrap(), Step::Switch);
    assert!(!dir.path().join("anchor.key").exists());
    assert!(matches!(authority.renew_issuer(NOW), Err(CaError::AnchorOffline)));
    assert!(verdict(&leaf(&authority, NOW), &open(elsewhere.path(), NOW).bundle(), NOW).is_ok());
}

#[test]
fn a_switch_by_hand_needs_an_overlap_and_keeps_the_old_anchor_for_its_leaves() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let authority = open(dir.path(), NOW);
    drop(open(elsewhere.path(), NOW));
    let path = |name: &str| dir.path().join(name);
    let (old_anchors, old_issuer) = (fs::read(path("anchors.pem")).unwrap(), fs::read(path("issuer.pem")).unwrap());
    let new_anchors = fs::read(elsewhere.path().join("anchors.pem")).unwrap();
    let both = [&old_anchors[..], &new_anchors].concat();

    // All at once: refused, and the old goes on.
    fs::write(path("anchors.pem"), &both).unwrap();
    fs::copy(elsewhere.path().join("issuer.pem"), path("issuer.pem")).unwrap();
    assert!(matches!(authority.reload(NOW), Err(CaError::NoOverlap)));
    assert_eq!(authority.bundle().anchors().len(), 1);

    fs::write(path("issuer.pem"), &old_issuer).unwrap();
    authority.reload(NOW).unwrap();
    assert_eq!(authority.bundle().anchors().len(), 2);
    fs::copy(elsewhere.path().join("issuer.pem"), path("issuer.pem")).unwrap();
    authority.reload(NOW + 5).unwrap();
    assert!(matches!(authority.rotation(), Rotation::Retiring { .. }));

    // Too early, unless one insists.
    fs::write(path("anchors.pem"), &new_anchors).unwrap();
    assert!(matches!(authority.reload(NOW + 6), Err(CaError::AnchorNeeded { .. })));
    assert_eq!(authority.bundle().anchors().len(), 2);
    assert!(matches!(Authority::open(dir.path(), settings(), NOW + 6), Err(CaError::AnchorNeeded { .. })));
    fs::remove_file(path("retiring.json")).unwrap();
    authority.reload(NOW + 6).unwrap();
    assert_eq!(authority.bundle().anchors().len(), 1);
}

#[test]
fn what_does_not_fit_together_leaves_the_last_good_in_force() {
    let dir = TempDir::new().unwrap();
    let authority = open(dir.path(), NOW);
    fs::write(dir.path().join("issuer.pem"), "half a fi").unwrap();
    assert!(authority.reload(NOW).is_err());
    assert!(verdict(&leaf(&authority, NOW), &authority.bundle(), NOW).is_ok());
}

#[test]
fn our_own_credentials_are_ready_for_use() {
    let dir = TempDir::new().unwrap();
    let credentials = open(dir.path(), NOW).credentials(&id(), NOW).unwrap();
    assert_eq!((credentials.id(), credentials.not_after().as_secs()), (&id(), NOW + LIFE));
}
