//! Which certificates are accepted as a peer's, and why. One rule for clients and servers, because every proxy is both:
//!
//! - a path to an anchor of the bundle, with signatures, validity, basic constraints, path length and name constraints
//!   (RFC 5280 §6.1), found by webpki; the anchor's own validity counts too;
//! - a leaf that is not a CA (X509-SVID §4.1), whose key usage has digitalSignature and neither keyCertSign nor cRLSign
//!   (X509-SVID §4.3), and whose extended key usage allows both TLS client and TLS server (X509-SVID §4.4);
//! - exactly one URI in the subject alternative name (X509-SVID §2), which is an identity of the one shape that
//!   `SpiffeId` parses (SPIFFE-ID §2), in our own trust domain. DNS names and addresses are not looked at: they are
//!   nobody's identity here.
//!
//! Revocation is by expiry: leaves live for hours.

#![warn(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};
use weft_model::identity::IdentityError;
use weft_model::{SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::TrustBundle;
use crate::peer::PeerIdentity;

/// Leaf, issuer, and room for two more: a longer chain is an attempt to make us work.
pub(crate) const CHAIN_LEN_MAX: usize = 4;

/// Chains whose path is remembered; some 200 bytes each. A proxy talks to fewer peers than that between two renewals.
const PATHS_MAX: usize = 1024;

/// Verifies chains against one bundle and one trust domain. The rustls configurations of both sides hold it.
#[derive(Debug)]
pub(crate) struct Verifier {
    bundle: Arc<TrustBundle>,
    trust_domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
    /// Chains whose path to an anchor was verified, by their hash: the check after a handshake, and every later handshake
    /// with the same peer, costs a hash instead of two signatures. Only verified chains come in, only with a validity
    /// that is looked at again each time, and the map dies with the bundle. A mutex, because it is held for a lookup.
    paths: Mutex<HashMap<[u8; 32], VerifiedPath>>,
}

/// What remains true of a chain for as long as its validity lasts.
#[derive(Clone, Debug)]
struct VerifiedPath {
    peer: PeerIdentity,
    validity: Validity,
}

impl Verifier {
    pub(crate) fn new(bundle: Arc<TrustBundle>, trust_domain: TrustDomain, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { bundle, trust_domain, algorithms, paths: Mutex::default() }
    }

    /// Who presented this chain, if it is acceptable now.
    pub(crate) fn identify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<PeerIdentity, VerifyError> {
        let (leaf, issuers) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        self.identify_parts(leaf, issuers, now)
    }

    fn identify_parts(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, VerifyError> {
        if issuers.len() >= CHAIN_LEN_MAX {
            return Err(VerifyError::ChainTooLong);
        }
        let hash = chain_hash(leaf, issuers);
        let known = self.paths.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some(path) = known {
            path.validity.check(now)?;
            return Ok(path.peer);
        }
        let path = verify_path(leaf, issuers, &self.bundle, &self.trust_domain, self.algorithms.all, now)?;
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= PATHS_MAX {
            // Costs everybody one verification more; an order of eviction would cost every handshake something.
            paths.clear();
        }
        let peer = path.peer.clone();
        paths.insert(hash, path);
        Ok(peer)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

/// Who presented `chain` (the leaf first), if it is acceptable under `bundle` and `trust_domain` at `now`. This is the
/// whole rule of this module, without memory; connections use it through [`crate::MeshTls`].
///
/// # Errors
/// Whatever makes the chain unacceptable.
pub fn identify(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    trust_domain: &TrustDomain,
    now: UnixTime,
) -> Result<PeerIdentity, VerifyError> {
    let (leaf, issuers) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if issuers.len() >= CHAIN_LEN_MAX {
        return Err(VerifyError::ChainTooLong);
    }
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    verify_path(leaf, issuers, bundle, trust_domain, algorithms.all, now).map(|path| path.peer)
}

/// The identity that a certificate names, whoever signed it: exactly one URI in the subject alternative name, of the
/// accepted shape. For a peer's certificate this is not enough; see [`identify`]. Fuzzed.
///
/// # Errors
/// Bytes that are not a certificate, a certificate authority's, no URI or several, or another shape.
pub fn spiffe_id(certificate_der: &[u8]) -> Result<SpiffeId, VerifyError> {
    leaf_facts(certificate_der).map(|facts| facts.id)
}

/// What a leaf says of itself.
pub(crate) struct LeafFacts {
    pub(crate) id: SpiffeId,
    pub(crate) validity: Validity,
}

/// Reads a leaf and applies the rules of the profile that need no anchor.
pub(crate) fn leaf_facts(der: &[u8]) -> Result<LeafFacts, VerifyError> {
    // A parser's detailed complaint about hostile bytes helps nobody and can be long.
    let malformed = |_error| VerifyError::Malformed;
    let (rest, certificate) = X509Certificate::from_der(der).ok().ok_or(VerifyError::Malformed)?;
    if !rest.is_empty() {
        return Err(VerifyError::Malformed);
    }
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|extension| extension.value.ca) {
        return Err(VerifyError::CaAsPeer);
    }
    let usage = certificate.key_usage().map_err(malformed)?.ok_or(VerifyError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(VerifyError::KeyUsage);
    }
    let names = certificate.subject_alternative_name().map_err(malformed)?.ok_or(VerifyError::UriSans { count: 0 })?;
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be meant as a URI, so it cannot be passed over.
            GeneralName::Invalid(..) => return Err(VerifyError::Malformed),
            _ => {}
        }
    }
    let [uri] = uris.as_slice() else { return Err(VerifyError::UriSans { count: uris.len() }) };
    let id = uri.parse().map_err(VerifyError::Identity)?;
    Ok(LeafFacts { id, validity: Validity::of(&certificate) })
}

/// The validity of a certificate authority's certificate; `None` if it is not one.
pub(crate) fn ca_validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let is_ca = certificate.basic_constraints().ok()??.value.ca;
    is_ca.then(|| Validity::of(&certificate))
}

fn verify_path(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    trust_domain: &TrustDomain,
    algorithms: &[&dyn rustls_pki_types::SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<VerifiedPath, VerifyError> {
    let facts = leaf_facts(leaf)?;
    let end_entity = EndEntityCert::try_from(leaf).map_err(VerifyError::from_webpki)?;
    let path = end_entity
        .verify_for_usage(algorithms, bundle.roots(), issuers, now, ClientAndServer, None, None)
        .map_err(VerifyError::from_webpki)?;
    // webpki only ever ends at one of the roots it was given.
    let anchor = bundle.anchor_of(path.anchor()).ok_or(VerifyError::Untrusted)?;
    let mut validity = facts.validity.within(anchor.validity());
    for issuer in path.intermediate_certificates() {
        validity = validity.within(ca_validity(&issuer.der()).ok_or(VerifyError::Malformed)?);
    }
    validity.check(now)?;
    if facts.id.trust_domain() != trust_domain.as_str() {
        return Err(VerifyError::TrustDomain { id: facts.id, ours: trust_domain.clone() });
    }
    Ok(VerifiedPath {
        peer: PeerIdentity { id: facts.id, anchor: anchor.id(), not_after: validity.not_after },
        validity,
    })
}

fn chain_hash(leaf: &CertificateDer<'_>, issuers: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in std::iter::once(leaf).chain(issuers) {
        // DER carries its own length, and only chains that parsed are compared, so the parts cannot be shifted.
        context.update(certificate);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// From when until when something is valid, both ends included (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        // A date before 1970 is as good as 1970.
        let unix =
            |seconds: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()));
        let validity = certificate.validity();
        Self { not_before: unix(validity.not_before.timestamp()), not_after: unix(validity.not_after.timestamp()) }
    }

    /// When both are valid.
    pub(crate) fn within(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }

    fn check(self, now: UnixTime) -> Result<(), VerifyError> {
        if now < self.not_before {
            return Err(VerifyError::NotYetValid { not_before: self.not_before, now });
        }
        if now > self.not_after {
            return Err(VerifyError::Expired { not_after: self.not_after, now });
        }
        Ok(())
    }
}

/// Asks the whole path for both of TLS's purposes; a certificate without the extension is good for any (RFC 5280
/// §4.2.1.12).
struct ClientAndServer;

impl ExtendedKeyUsageValidator for ClientAndServer {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        /// 1.3.6.1.5.5.7.3.1
        const SERVER: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        /// 1.3.6.1.5.5.7.3.2
        const CLIENT: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let (mut any, mut server, mut client) = (false, false, false);
        for purpose in purposes {
            let purpose = purpose?;
            any = true;
            server |= purpose == SERVER;
            client |= purpose == CLIENT;
        }
        if !any || (server && client) { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}

/// Why a chain is not accepted as a peer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The leaf is a certificate authority's.
    #[error("a certificate authority's certificate is never a peer's")]
    CaAsPeer,
    /// More certificates than any chain of ours has.
    #[error("the chain has more than {CHAIN_LEN_MAX} certificates")]
    ChainTooLong,
    /// A certificate of the path, or the anchor, is no longer valid.
    #[error("expired {} s ago", now.as_secs().saturating_sub(not_after.as_secs()))]
    Expired {
        /// The last second in which it was.
        not_after: UnixTime,
        /// What our clock says.
        now: UnixTime,
    },
    /// Its extended key usage does not allow TLS client and server both.
    #[error("the certificate is not for TLS client and server both")]
    ExtendedKeyUsage,
    /// The URI is not an identity.
    #[error("the certificate's URI is not an identity")]
    Identity(#[source] IdentityError),
    /// The key usage is missing, lacks digitalSignature, or has a certificate authority's.
    #[error("the certificate's key usage is not a workload's")]
    KeyUsage,
    /// The bytes are not a certificate.
    #[error("the certificate cannot be read")]
    Malformed,
    /// The peer presented nothing.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// A certificate of the path, or the anchor, is not valid yet.
    #[error("valid only in {} s: maybe a clock is wrong", not_before.as_secs().saturating_sub(now.as_secs()))]
    NotYetValid {
        /// The first second in which it is.
        not_before: UnixTime,
        /// What our clock says.
        now: UnixTime,
    },
    /// A path was found and breaks a rule of RFC 5280.
    #[error("the chain breaks a rule of path validation")]
    Path(#[source] webpki::Error),
    /// It is an identity of another trust domain.
    #[error("{id} is not of the trust domain {ours}")]
    TrustDomain {
        /// Who it would be.
        id: SpiffeId,
        /// Our trust domain.
        ours: TrustDomain,
    },
    /// No path leads to an anchor of ours.
    #[error("no path to a trust anchor of ours")]
    Untrusted,
    /// Not exactly one URI in the subject alternative name.
    #[error("the certificate has {count} URIs, and exactly one is an identity")]
    UriSans {
        /// How many it has.
        count: usize,
    },
}

impl VerifyError {
    fn from_webpki(error: webpki::Error) -> Self {
        match error {
            webpki::Error::BadDer | webpki::Error::BadDerTime => Self::Malformed,
            webpki::Error::CaUsedAsEndEntity => Self::CaAsPeer,
            webpki::Error::CertExpired { time, not_after } => Self::Expired { not_after, now: time },
            webpki::Error::CertNotValidYet { time, not_before } => Self::NotYetValid { not_before, now: time },
            webpki::Error::EmptyEkuExtension => Self::ExtendedKeyUsage,
            // A signature that does not fit means that somebody else of the anchor's name signed.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Self::Untrusted,
            other => Self::Path(other),
        }
    }

    /// For rustls: chosen by the alert that the peer then gets (RFC 8446 §6.2).
    fn to_rustls(&self) -> rustls::Error {
        let error = match *self {
            Self::Expired { not_after, now } => CertificateError::ExpiredContext { time: now, not_after },
            Self::NoCertificate => return rustls::Error::NoCertificatesPresented,
            Self::NotYetValid { not_before, now } => CertificateError::NotValidYetContext { time: now, not_before },
            Self::Untrusted => CertificateError::UnknownIssuer,
            _ => CertificateError::Other(OtherError(Arc::new(self.clone()))),
        };
        rustls::Error::InvalidCertificate(error)
    }

    /// The other way: what rustls tells of our own verdict.
    pub(crate) fn from_rustls(error: &CertificateError) -> Self {
        match error {
            CertificateError::ExpiredContext { time, not_after } => Self::Expired { not_after: *not_after, now: *time },
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { not_before: *not_before, now: *time }
            }
            CertificateError::UnknownIssuer => Self::Untrusted,
            CertificateError::Other(OtherError(ours)) => {
                ours.downcast_ref::<Self>().cloned().unwrap_or(Self::Malformed)
            }
            // What rustls finds by itself: a CertificateVerify that does not fit, an encoding it cannot read.
            _ => Self::Malformed,
        }
    }
}

/// The client's side: servers are accepted by the rule above. Which identity was expected is compared after the
/// handshake; the name that rustls passes is only the key of the session cache.
#[derive(Debug)]
pub(crate) struct Servers(pub(crate) Arc<Verifier>);

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.identify_parts(end_entity, intermediates, now) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(error.to_rustls()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// The server's side: clients are accepted by the same rule.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) verifier: Arc<Verifier>,
    /// Whether a client without a certificate is refused; not so on the control plane's port, where it may be about to
    /// ask for its first one.
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints help a client to choose among its certificates. Ours have one.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.verifier.identify_parts(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(error.to_rustls()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
