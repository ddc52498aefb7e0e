//! What is kept is what comes back, and whatever else lies there is refused by its reason and taken away.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use weft_proto::proxy::v1::{ResourceKey, resource_key};
use weft_tls::testing::{LEAF_LIFE, START_UNIX_S, TestCa};

use super::testing::in_memory;
use super::*;

const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";

fn open(path: &Path, identity: &str, workload: &str, uid: &str) -> StateDir {
    StateDir::open(path, &identity.parse().unwrap(), &WorkloadName::new("shop", workload), uid).unwrap()
}

fn at(unix_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
}

fn key_of(answer: &PrivateKeyDer<'_>) -> Vec<u8> {
    answer.secret_der().to_vec()
}

fn mesh_update(version: u64) -> WatchResponse {
    let kind = Some(resource_key::Kind::Mesh(weft_proto::proxy::v1::Unit {}));
    WatchResponse { key: Some(ResourceKey { kind }), version, resource: None }
}

/// A directory in which `shop/order-1` has kept both files.
struct World {
    there: TempDir,
    ca: TestCa,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    state: StateDir,
}

impl World {
    fn new() -> Self {
        let (there, ca) = (in_memory(), TestCa::new("ca"));
        let (chain, key) = ca.leaf_der(ORDER);
        let state = open(there.path(), ORDER, "order-1", "uid-1");
        let world = Self { there, chain, key: key_of(&key), ca, state };
        world.state.keep_credentials(&world.chain, &world.key, &world.ca.bundle()).unwrap();
        world.state.keep_snapshots(vec![mesh_update(1), mesh_update(2)]).unwrap();
        world
    }

    fn credentials(&self) -> Result<Option<(Credentials, TrustBundle)>, StateError> {
        self.read(START_UNIX_S + 1)
    }

    fn read(&self, unix_s: u64) -> Result<Option<(Credentials, TrustBundle)>, StateError> {
        self.state.read_credentials(&TrustDomain::default(), &self.ca.bundle(), at(unix_s))
    }

    fn bytes(&self, kind: Kind) -> Vec<u8> {
        fs::read(self.there.path().join(kind.name())).unwrap()
    }

    fn put(&self, kind: Kind, bytes: &[u8]) {
        fs::write(self.there.path().join(kind.name()), bytes).unwrap();
    }
}

#[test]
fn what_is_kept_comes_back() {
    let w = World::new();
    let (credentials, bundle) = w.credentials().unwrap().unwrap();
    assert_eq!((credentials.chain(), &bundle), (&*w.chain, &w.ca.bundle()));
    assert_eq!(w.state.snapshots().unwrap(), [mesh_update(1), mesh_update(2)]);
}

#[test]
fn nothing_kept_is_nothing_wrong() {
    let there = in_memory();
    let state = open(there.path(), ORDER, "order-1", "");
    let anchors = TestCa::new("ca").bundle();
    assert!(state.read_credentials(&TrustDomain::default(), &anchors, at(START_UNIX_S)).unwrap().is_none());
    assert!(state.read_snapshots().unwrap().is_none());
}

#[test]
fn a_file_is_believed_whole_or_not_at_all() {
    let w = World::new();
    for kind in [Kind::Credentials, Kind::Snapshots] {
        let whole = w.bytes(kind);
        let read = || match kind {
            Kind::Credentials => w.credentials().map(|found| found.is_some()),
            Kind::Snapshots => w.state.read_snapshots().map(|found| found.is_some()),
        };
        for length in 0..whole.len() {
            w.put(kind, &whole[..length]);
            assert!(matches!(read(), Err(StateError::Damaged | StateError::OtherKind { .. })), "{length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            w.put(kind, &changed);
            assert!(read().is_err(), "{place}");
        }
        w.put(kind, &[&*whole, b"more"].concat());
        assert!(matches!(read(), Err(StateError::Damaged)));
        w.put(kind, &whole);
        assert!(read().unwrap());
    }
}

#[test]
fn each_refusal_names_its_reason() {
    let w = World::new();
    let seal = |payload: &[u8]| file::seal(Kind::Snapshots, payload).to_vec();
    let mut newer = w.bytes(Kind::Snapshots);
    newer[11] += 1;
    let large = vec![0; Kind::Snapshots.bytes_max() + 1];
    for (bytes, want) in [
        (w.bytes(Kind::Credentials), "it is not a snapshots file of weft-proxy"),
        (b"something else".to_vec(), "it is not a snapshots file of weft-proxy"),
        (newer, "it has version 2, this proxy reads 1"),
        (b"weft-state".to_vec(), "it is truncated or corrupt"),
        (seal(&[0xff; 9]), "it is not a message of this version"),
        (seal(&[]), "it is the state of nobody"),
        (large, "it has more than 16781312 bytes"),
    ] {
        w.put(Kind::Snapshots, &bytes);
        assert_eq!(w.state.read_snapshots().unwrap_err().to_string(), want);
    }
}

#[test]
fn the_state_of_another_is_refused() {
    let w = World::new();
    let other = "spiffe://cluster.local/ns/shop/sa/user";
    for (identity, workload, uid) in [
        (other, "order-1", "uid-1"),
        ("spiffe://other.example/ns/shop/sa/order", "order-1", "uid-1"),
        (ORDER, "order-2", "uid-1"),
        (ORDER, "order-1", "uid-2"),
    ] {
        let state = open(w.there.path(), identity, workload, uid);
        let said = state.read_snapshots().unwrap_err().to_string();
        assert_eq!(said, format!("it is the state of {ORDER:?} of workload \"shop/order-1\" with uid \"uid-1\""));
        let refused = state.read_credentials(&TrustDomain::default(), &w.ca.bundle(), at(START_UNIX_S + 1));
        assert!(matches!(refused, Err(StateError::OtherOwner { .. })));
    }
    // The right owner on the outside, and another's certificate within.
    let (chain, key) = w.ca.leaf_der(other);
    w.state.keep_credentials(&chain, key.secret_der(), &w.ca.bundle()).unwrap();
    assert_eq!(w.credentials().unwrap_err().to_string(), format!("it is the state of {other}"));
}

#[test]
fn credentials_that_no_peer_would_accept_are_refused() {
    let w = World::new();
    let read = |unix_s| w.read(unix_s);
    assert!(matches!(read(START_UNIX_S - 1), Err(StateError::Unusable(VerifyError::NotYetValid { .. }))));
    let end = START_UNIX_S + LEAF_LIFE.as_secs();
    assert!(read(end).is_ok());
    assert!(matches!(read(end + 1), Err(StateError::Unusable(VerifyError::Expired { .. }))));

    let keep = |key: &[u8], bundle: &TrustBundle| w.state.keep_credentials(&w.chain, key, bundle).unwrap();
    keep(&w.key, &TestCa::new("another").bundle());
    assert!(matches!(w.credentials(), Err(StateError::Unusable(_))));
    keep(&key_of(&w.ca.leaf_der(ORDER).1), &w.ca.bundle());
    assert!(matches!(w.credentials(), Err(StateError::Credentials(_))));
    let mut message = CredentialsFile::default();
    message.owner = Some(w.state.owner.clone());
    w.put(Kind::Credentials, &file::seal(Kind::Credentials, &message.encode_to_vec()));
    assert!(matches!(w.credentials(), Err(StateError::Bundle(_))));
}

#[test]
fn the_operators_anchors_have_the_last_word() {
    let w = World::new();
    let read = |anchors: &TrustBundle| w.state.read_credentials(&TrustDomain::default(), anchors, at(START_UNIX_S + 1));
    let (anew, both) = (TestCa::new("ca"), [w.ca.anchor_der(), TestCa::new("next").anchor_der()]);
    assert!(matches!(read(&anew.bundle()), Err(StateError::OtherAnchors(_))));
    assert!(read(&TrustBundle::from_der(both).unwrap()).unwrap().is_some());
}

#[test]
fn what_is_refused_is_taken_away() {
    let w = World::new();
    let now = at(START_UNIX_S + LEAF_LIFE.as_secs() + 1);
    assert!(w.state.credentials(&TrustDomain::default(), &w.ca.bundle(), now).is_none());
    w.put(Kind::Snapshots, b"something else");
    assert!(w.state.snapshots().is_none());
    assert_eq!(fs::read_dir(w.there.path()).unwrap().count(), 0);
}

#[test]
fn the_key_is_never_shown() {
    let w = World::new();
    let bytes = w.bytes(Kind::Credentials);
    let message: CredentialsFile = file::decode(Kind::Credentials, &bytes).unwrap();
    assert_eq!(message.key_pkcs8, w.key);
    let shown = format!("{message:?} {:?}", w.state);
    assert!(shown.starts_with("CredentialsFile { owner: Some(Owner {"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", w.key).replace(['[', ']'], "")), "{shown}");
}
