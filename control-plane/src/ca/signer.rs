//! An issuer with its key, and the certificates it makes: what they say is decided here and nowhere else.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_model::SpiffeId;
use weft_tls::{AnchorId, TrustBundle};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{CaError, SignError};

/// How far a certificate begins before it was made: a clock may be this much behind ours (semantics: skew).
const LEAF_BACKDATE_S: u64 = 20;

/// The same for the certificates of authorities, generous, so that a leaf is never cut short by its issuer's beginning.
const CA_BACKDATE_S: u64 = 3600;

/// What signs leaves: an issuer's certificate and key, and the anchor above it.
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// The authorities between it and its anchor, from below; none where the anchor itself signed it.
    above: Vec<CertificateDer<'static>>,
    pub(crate) anchor: AnchorId,
    not_before_unix_s: u64,
    pub(crate) not_after_unix_s: u64,
}

/// A certificate and its key as one PEM text, so that one rename replaces both.
pub(crate) struct NewAuthority {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: Zeroizing<String>,
}

/// A leaf that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf first, then the issuer, then the authorities between it and its anchor; DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The last second in which it is valid, since 1970.
    pub not_after_unix_s: u64,
}

impl Signer {
    /// Reads an issuer's certificate and key (PKCS #8), and finds the way from it to an anchor of `bundle`.
    pub(crate) fn from_pem(pem: &[u8], bundle: &TrustBundle) -> Result<Self, CaError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let key_der =
            Zeroizing::new(PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(CaError::Pem)?.secret_pkcs8_der().to_vec());
        let key = KeyPair::try_from(key_der.as_slice()).map_err(CaError::Key)?;
        Ok(Self::new(&certificates.map_err(CaError::Pem)?, key, bundle)?)
    }

    /// An issuer, the first of `certificates`. The others are taken where they lie between it and an anchor of `bundle`.
    pub(crate) fn new(
        certificates: &[CertificateDer<'static>],
        key: KeyPair,
        bundle: &TrustBundle,
    ) -> Result<Self, Unfit> {
        let certificate = certificates.first().ok_or(Unfit::NotAnIssuer)?.clone();
        let (_, parsed) = X509Certificate::from_der(&certificate).ok().ok_or(Unfit::NotAnIssuer)?;
        let constraints = parsed.basic_constraints().ok().flatten().ok_or(Unfit::NotAnIssuer)?.value;
        let signs = parsed.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign());
        if !constraints.ca || !signs {
            return Err(Unfit::NotAnIssuer);
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Unfit::OtherKey);
        }
        let (anchor, above) = path_of(certificates, bundle).ok_or(Unfit::NotAnchored)?;
        // rcgen writes the name into every leaf, and has no word for such a one; it panics at an empty set.
        if !parsed.subject().iter().all(|names| names.iter().count() == 1) {
            return Err(Unfit::Name);
        }
        let validity = parsed.validity();
        let unix = |seconds: i64| seconds.max(0).unsigned_abs();
        let (not_before_unix_s, not_after_unix_s) =
            (unix(validity.not_before.timestamp()), unix(validity.not_after.timestamp()));
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(Unfit::Unreadable)?;
        Ok(Self { issuer, certificate, above, anchor, not_before_unix_s, not_after_unix_s })
    }

    /// Its certificate, and those between it and its anchor.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.above)
    }

    /// Makes a leaf: one URI, not an authority, for TLS on both sides, never outliving its issuer.
    pub(crate) fn leaf(
        &self,
        public_key: &impl PublicKeyData,
        identity: &SpiffeId,
        now_unix_s: u64,
        life_s: u64,
    ) -> Result<Leaf, SignError> {
        let from = now_unix_s.saturating_sub(LEAF_BACKDATE_S).max(self.not_before_unix_s);
        let to = now_unix_s.saturating_add(life_s).min(self.not_after_unix_s);
        if to <= now_unix_s {
            return Err(SignError::IssuerExpired { not_after_unix_s: self.not_after_unix_s });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(SignError::Make)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial().ok_or(SignError::Random)?);
        set_validity(&mut params, from, to);
        let leaf = params.signed_by(public_key, &self.issuer).map_err(SignError::Make)?;
        let chain_der = std::iter::once(leaf.der()).chain(self.chain()).map(|der| der.to_vec()).collect();
        Ok(Leaf { chain_der, not_after_unix_s: to })
    }

    /// When two thirds of its life are over: time to replace it, while leaves can still live their whole life.
    pub(crate) fn due_unix_s(&self) -> u64 {
        let life = self.not_after_unix_s.saturating_sub(self.not_before_unix_s);
        self.not_before_unix_s.saturating_add(life / 3 * 2)
    }

    /// When a sixth of its life is left: somebody should have replaced it by now.
    pub(crate) fn overdue_unix_s(&self) -> u64 {
        let life = self.not_after_unix_s.saturating_sub(self.not_before_unix_s);
        self.not_after_unix_s.saturating_sub(life / 6)
    }
}

/// Makes an anchor: signs itself, may have one authority below.
pub(crate) fn new_anchor(now_unix_s: u64, life_s: u64) -> Result<NewAuthority, CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
    let params = ca_params("Weft trust anchor", 1, now_unix_s, life_s)?;
    let certificate = params.self_signed(&key).map_err(CaError::Make)?;
    Ok(NewAuthority::new(&certificate, &key))
}

/// Makes an issuer under an anchor: may have only leaves below (pathLen 0), and does not outlive the anchor.
pub(crate) fn new_issuer(
    anchor: &CertificateDer<'_>,
    anchor_key_pem: &str,
    now_unix_s: u64,
    life_s: u64,
) -> Result<NewAuthority, CaError> {
    let (_, parsed) = X509Certificate::from_der(anchor).ok().ok_or(CaError::NotAnIssuer)?;
    let anchor_key = KeyPair::from_pem(anchor_key_pem).map_err(CaError::Key)?;
    if parsed.public_key().raw != anchor_key.subject_public_key_info() {
        return Err(CaError::OtherKey);
    }
    let left_s = parsed.validity().not_after.timestamp().max(0).unsigned_abs().saturating_sub(now_unix_s);
    if left_s == 0 {
        return Err(CaError::AnchorExpired);
    }
    let above = Issuer::from_ca_cert_der(anchor, anchor_key).map_err(CaError::Key)?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
    let params = ca_params("Weft issuer", 0, now_unix_s, life_s.min(left_s))?;
    let certificate = params.signed_by(&key, &above).map_err(CaError::Make)?;
    Ok(NewAuthority::new(&certificate, &key))
}

impl NewAuthority {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        }
    }

    /// Certificate and key as one text.
    pub(crate) fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", self.certificate_pem, *self.key_pem))
    }
}

fn ca_params(name: &str, path_len: u8, now_unix_s: u64, life_s: u64) -> Result<CertificateParams, CaError> {
    let serial = serial().ok_or(CaError::Random)?;
    // A name of its own for each: path building never has to choose between two of the same name.
    let tag: String = serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name} {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial);
    set_validity(&mut params, now_unix_s.saturating_sub(CA_BACKDATE_S), now_unix_s.saturating_add(life_s));
    Ok(params)
}

/// Whether `key_pem` is the private key that `certificate` names.
pub(crate) fn is_key_of(key_pem: &[u8], certificate: &CertificateDer<'_>) -> bool {
    let Some(key) = std::str::from_utf8(key_pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok()) else { return false };
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// The anchor that the first certificate leads to, and those of the others that lie between the two, from below.
fn path_of(
    certificates: &[CertificateDer<'static>],
    bundle: &TrustBundle,
) -> Option<(AnchorId, Vec<CertificateDer<'static>>)> {
    let (mut below, others) = certificates.split_first()?;
    let mut above: Vec<CertificateDer<'static>> = Vec::new();
    // It ends: each round takes one of the others away.
    loop {
        let (_, parsed) = X509Certificate::from_der(below).ok()?;
        if let Some(anchor) = bundle.anchors().iter().find(|anchor| is_signed_by(&parsed, anchor.der())) {
            return Some((anchor.id(), above));
        }
        below = others.iter().find(|other| !above.contains(*other) && is_signed_by(&parsed, other))?;
        above.push(below.clone());
    }
}

/// Whether a certificate bears the name of this authority, and its key made the signature.
fn is_signed_by(certificate: &X509Certificate<'_>, authority: &CertificateDer<'_>) -> bool {
    let Ok((_, authority)) = X509Certificate::from_der(authority) else { return false };
    authority.subject().as_raw() == certificate.issuer().as_raw()
        && certificate.verify_signature(Some(authority.public_key())).is_ok()
}

/// Why a certificate and a key are not an issuer's, for whoever knows where they came from to say.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A part of its name has several values.
    Name,
    /// No way leads from it to an anchor.
    NotAnchored,
    /// It is not a certificate, or not one of an authority that may sign.
    NotAnIssuer,
    /// The key is another one.
    OtherKey,
    /// The library cannot read it.
    Unreadable(rcgen::Error),
}

fn set_validity(params: &mut CertificateParams, from_unix_s: u64, to_unix_s: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from_unix_s.min(DATE_MAX_UNIX_S));
    params.not_after = epoch + Duration::from_secs(to_unix_s.min(DATE_MAX_UNIX_S));
}

/// The end of the year 9999, the last that a certificate can name (RFC 5280 §4.1.2.5.2).
const DATE_MAX_UNIX_S: u64 = 253_402_300_799;

/// 128 random bits, positive (RFC 5280 §4.1.2.2; CA/Browser Forum BR §7.1 wants 64 at least).
fn serial() -> Option<SerialNumber> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    let [first, ..] = &mut bytes;
    *first = *first & 0x7f | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}
