//! Certificates made on the spot. Only for tests: everything here panics where it does not like something.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot make its certificates must stop"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::config::MeshTls;
use crate::credentials::Credentials;

/// The second at which [`ManualTime`] begins: 2027-01-15.
pub const START_UNIX_S: u64 = 1_800_000_000;

/// How long a test leaf is valid.
pub const LEAF_LIFE: Duration = Duration::from_secs(3600);

/// A clock that stands still until it is moved.
#[derive(Clone, Debug)]
pub struct ManualTime(Arc<AtomicU64>);

impl ManualTime {
    /// A clock at [`START_UNIX_S`].
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(START_UNIX_S)))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl Default for ManualTime {
    fn default() -> Self {
        Self::new()
    }
}

impl TimeProvider for ManualTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

/// An anchor with an issuer below it.
pub struct TestCa {
    anchor: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// A new authority with keys of its own, valid around [`START_UNIX_S`] and for real time as well.
    pub fn new(name: &str) -> Self {
        let anchor =
            CertifiedIssuer::self_signed(ca_params(name, BasicConstraints::Unconstrained), key()).expect("an anchor");
        let issuer = CertifiedIssuer::signed_by(
            ca_params(&format!("{name} issuer"), BasicConstraints::Constrained(0)),
            key(),
            &anchor,
        )
        .expect("an issuer");
        Self { anchor, issuer }
    }

    /// The anchor's certificate.
    pub fn anchor_der(&self) -> CertificateDer<'static> {
        self.anchor.der().clone()
    }

    /// A bundle of this anchor alone.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der([self.anchor_der()]).expect("a bundle")
    }

    /// Credentials of `spiffe_id`, valid for [`LEAF_LIFE`] from [`START_UNIX_S`].
    pub fn leaf(&self, spiffe_id: &str) -> Credentials {
        let (chain, key) = self.leaf_der(spiffe_id);
        Credentials::from_der(chain, key).expect("credentials")
    }

    /// The same as chain and key.
    pub fn leaf_der(&self, spiffe_id: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.sign(&leaf_params(spiffe_id))
    }

    /// Signs whatever is given.
    pub fn sign(&self, params: &CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = key();
        (self.sign_for(params, &key), key_der(&key))
    }

    /// Signs `params` for somebody else's key, as an authority answers a request.
    pub fn sign_for(
        &self,
        params: &CertificateParams,
        public_key: &impl rcgen::PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        let leaf = params.signed_by(public_key, &self.issuer).expect("a leaf");
        vec![leaf.der().clone(), self.issuer.der().clone()]
    }

    /// The issuer's own certificate and key, for those who try to be a peer with it.
    pub fn issuer_der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.issuer.der().clone()], key_der(self.issuer.key()))
    }

    /// A [`MeshTls`] of `spiffe_id` in `cluster.local`, by the given clock.
    pub fn mesh(&self, spiffe_id: &str, time: &ManualTime) -> MeshTls {
        let mesh = MeshTls::with_time(weft_model::TrustDomain::default(), Arc::new(time.clone()));
        mesh.publish(self.leaf(spiffe_id), self.bundle()).expect("published");
        mesh
    }
}

/// What a leaf of ours looks like: one URI, both purposes, digitalSignature.
pub fn leaf_params(spiffe_id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(spiffe_id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    set_validity(&mut params, START_UNIX_S, START_UNIX_S + LEAF_LIFE.as_secs());
    params
}

/// A URI as a subject alternative name.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn ca_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, 1_600_000_000, START_UNIX_S + 10 * 365 * 86_400);
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// Sets from when until when the certificate is valid, in seconds since 1970.
pub fn set_validity(params: &mut CertificateParams, from_unix_s: u64, to_unix_s: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from_unix_s);
    params.not_after = epoch + Duration::from_secs(to_unix_s);
}
