//! An issuer that somebody else made, such as cert-manager: its certificate, its key and its anchor, read and checked. It decides
//! nothing about when the issuer may sign; that is `Authority::adopt`.
//!
//! Invariant: what an [`Offer`] holds makes leaves that a proxy accepts which trusts its anchor. One is made for a trial, so that no
//! rule of path validation has to be written down twice.

use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use weft_model::{SpiffeId, TrustDomain};
use weft_tls::bundle::{BundleError, certificate_pem};
use weft_tls::peer::identify;
use weft_tls::{AnchorId, TrustBundle, VerifyError};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::SignError;
use super::signer::{Signer, Unfit};

/// The issuer's certificate, and those between it and its anchor.
const CERTIFICATE: &str = "tls.crt";
/// The issuer's key.
const KEY: &str = "tls.key";
/// The anchor's certificate.
const AUTHORITY: &str = "ca.crt";

/// How long the leaf of the trial would live.
const TRIAL_S: u64 = 60;

/// An issuer that somebody else made, and that can be used.
#[derive(Clone)]
pub struct Offer {
    /// Its certificate, those between it and its anchor, and its key: the content of `issuer.pem`.
    pub(super) issuer_pem: Zeroizing<String>,
    /// The anchor's certificate.
    pub(super) anchor_der: CertificateDer<'static>,
    /// Who the anchor is.
    pub(super) anchor: AnchorId,
}

impl Offer {
    /// Reads the fields of a Secret of type `kubernetes.io/tls`, and has the issuer sign a leaf for `identity`, to see that proxies
    /// would accept it.
    ///
    /// # Errors
    /// The first thing that is wrong, with the field that it is wrong with.
    pub fn read<'a>(
        field: impl Fn(&str) -> Option<&'a [u8]>,
        identity: &SpiffeId,
        now_unix_s: u64,
    ) -> Result<Self, OfferError> {
        let text =
            |name: &'static str| field(name).filter(|it| !it.is_empty()).ok_or(OfferError::Absent { field: name });
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text(CERTIFICATE)?).collect();
        let certificates = certificates.map_err(OfferError::CertificatePem)?;
        let key = key(text(KEY)?)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let bundle = TrustBundle::from_pem(text(AUTHORITY)?).map_err(OfferError::Authority)?;
        let signer = Signer::new(&certificates, key, &bundle)?;
        let anchor = bundle.anchors().iter().find(|anchor| anchor.id() == signer.anchor).ok_or(OfferError::Chain)?;
        signer.chain().try_for_each(|der| check_validity(CERTIFICATE, der, now_unix_s))?;
        check_validity(AUTHORITY, anchor.der(), now_unix_s)?;
        attempt(&signer, &bundle, identity, now_unix_s)?;
        let chain: String = signer.chain().map(|der| certificate_pem(der)).collect();
        Ok(Self {
            issuer_pem: Zeroizing::new(format!("{chain}{}", *key_pem)),
            anchor_der: anchor.der().clone(),
            anchor: anchor.id(),
        })
    }

    /// The content of `next.pem`: the issuer, then its anchor.
    pub(super) fn next_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", *self.issuer_pem, certificate_pem(&self.anchor_der)))
    }
}

/// The trial would find it too, and could not say of which field.
fn check_validity(field: &'static str, der: &CertificateDer<'_>, now_unix_s: u64) -> Result<(), OfferError> {
    let (_, certificate) = X509Certificate::from_der(der).ok().ok_or(OfferError::NotAnIssuer)?;
    let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
    let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
    if to.timestamp() < now {
        return Err(OfferError::Expired { field, at: to.to_string() });
    }
    if from.timestamp() > now {
        return Err(OfferError::NotYetValid { field, from: from.to_string() });
    }
    Ok(())
}

/// Signs a leaf and looks at it as a proxy does.
fn attempt(signer: &Signer, bundle: &TrustBundle, identity: &SpiffeId, now_unix_s: u64) -> Result<(), OfferError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| OfferError::Sign(SignError::Make(error)))?;
    let leaf = signer.leaf(&key, identity, now_unix_s, TRIAL_S).map_err(OfferError::Sign)?;
    let chain: Vec<CertificateDer<'_>> = leaf.chain_der.into_iter().map(CertificateDer::from).collect();
    let trust_domain: TrustDomain =
        identity.trust_domain().parse().ok().ok_or(OfferError::Refused(VerifyError::Malformed))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s));
    identify(&chain, bundle, &trust_domain, now).map(drop).map_err(OfferError::Refused)
}

/// A key in any encoding that cert-manager writes, of a kind that we sign with.
fn key(pem: &[u8]) -> Result<KeyPair, OfferError> {
    let pkcs8: Vec<Zeroizing<Vec<u8>>> = match PrivateKeyDer::from_pem_slice(pem).map_err(OfferError::KeyPem)? {
        PrivateKeyDer::Pkcs8(key) => vec![Zeroizing::new(key.secret_pkcs8_der().to_vec())],
        PrivateKeyDer::Sec1(key) => CURVES.iter().map(|curve| pkcs8_of(key.secret_sec1_der(), curve)).collect(),
        // PKCS #1 is RSA's.
        _ => return Err(OfferError::KeyKind),
    };
    for der in pkcs8 {
        let der = PrivatePkcs8KeyDer::from(der.as_slice());
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            if let Ok(key) = KeyPair::from_pkcs8_der_and_sign_algo(&der, kind) {
                return Ok(key);
            }
        }
    }
    Err(OfferError::KeyKind)
}

/// The `AlgorithmIdentifier` of an elliptic curve's key (RFC 5480 §2.1.1), for P-256 and for P-384.
const CURVES: [&[u8]; 2] = [
    &[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
    &[0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22],
];

/// A key in SEC 1 (RFC 5915) as PKCS #8 (RFC 5208 §5): version 0, the curve, and the key as it is. *ring* reads nothing else, and
/// refuses it where the key itself names another curve.
fn pkcs8_of(sec1: &[u8], curve: &[u8]) -> Zeroizing<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const OCTET_STRING: u8 = 4;
    let key = der(OCTET_STRING, sec1);
    let content = Zeroizing::new([&[2, 1, 0], curve, &key[..]].concat());
    der(SEQUENCE, &content)
}

/// A value in DER: what it is, how long, and its content.
fn der(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match length.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        // Eight bytes at most.
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend(long);
        }
    }
    out.extend(content);
    Zeroizing::new(out)
}

/// Why an issuer that somebody else made cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// A field is not there.
    #[error("{field} is missing or empty: maybe it was not issued yet")]
    Absent {
        /// Which.
        field: &'static str,
    },
    /// The anchor cannot be used.
    #[error("{AUTHORITY} holds no trust anchor")]
    Authority(#[source] BundleError),
    /// The certificate is not PEM.
    #[error("{CERTIFICATE} is not PEM")]
    CertificatePem(#[source] pem::Error),
    /// No way leads from the issuer to the anchor.
    #[error("no certificate of {AUTHORITY} signed the issuer in {CERTIFICATE}, nor one that follows it there")]
    Chain,
    /// A certificate is no longer valid.
    #[error("a certificate of {field} expired at {at}")]
    Expired {
        /// Whose.
        field: &'static str,
        /// When.
        at: String,
    },
    /// The key is of a kind that we do not sign with.
    #[error(
        "{KEY} is not a key of P-256, P-384 or Ed25519: set privateKey.algorithm to ECDSA and privateKey.size to 256"
    )]
    KeyKind,
    /// The key is not PEM.
    #[error("{KEY} holds no private key in PEM: set privateKey.encoding to PKCS8")]
    KeyPem(#[source] pem::Error),
    /// The certificate is not one of an authority.
    #[error(
        "{CERTIFICATE} is not the certificate of an authority that may sign: set isCA to true, and the usage cert sign"
    )]
    NotAnIssuer,
    /// A certificate is not valid yet.
    #[error("a certificate of {field} is valid only from {from} on: maybe a clock is wrong")]
    NotYetValid {
        /// Whose.
        field: &'static str,
        /// From when on.
        from: String,
    },
    /// The key is another one than the certificate names.
    #[error("{KEY} is another key than {CERTIFICATE} names")]
    OtherKey,
    /// No proxy would accept what it signs.
    #[error(
        "no proxy would accept what {CERTIFICATE} signs: its usages, its validity, its path length or name constraints are not an issuer's"
    )]
    Refused(#[source] VerifyError),
    /// It does not sign.
    #[error("{CERTIFICATE} and {KEY} cannot sign")]
    Sign(#[source] SignError),
    /// Its name cannot be written into leaves.
    #[error(
        "a part of the subject of {CERTIFICATE} has several values: give it one of each, such as a commonName alone"
    )]
    Subject,
    /// The library cannot read it.
    #[error("{CERTIFICATE} cannot be read")]
    Unreadable(#[source] rcgen::Error),
}

impl From<Unfit> for OfferError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Name => Self::Subject,
            Unfit::NotAnchored => Self::Chain,
            Unfit::NotAnIssuer => Self::NotAnIssuer,
            Unfit::OtherKey => Self::OtherKey,
            Unfit::Unreadable(error) => Self::Unreadable(error),
        }
    }
}

#[cfg(test)]
mod tests;
