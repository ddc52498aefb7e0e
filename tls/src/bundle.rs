//! The trust bundle: which certificate authorities are believed. Never empty, so that "nothing is configured" cannot
//! turn into "everybody is refused for a reason that nobody understands".

use std::fmt;

use ring::digest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::verify::{self, Validity};

/// How many anchors a bundle may hold: an overlap of two during a rotation, with room for federation. Bounds what a
/// hostile or broken source can make every handshake cost.
const ANCHORS_MAX: usize = 16;

/// Who a trust anchor is: its name and its key (RFC 5280 §6.1.1 (d)), hashed. A certificate that was issued again for the
/// same key is the same anchor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnchorId([u8; 32]);

impl AnchorId {
    fn new(anchor: &TrustAnchor<'_>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&anchor.subject);
        context.update(&anchor.subject_public_key_info);
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}

impl fmt::Display for AnchorId {
    /// The first 16 bytes in hex: enough to tell anchors apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(16).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AnchorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnchorId({self})")
    }
}

/// The trust anchors in force.
///
/// **Shape:** 1 to 16 anchors, each id once, in the order of their ids: two bundles with the same anchors are equal.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    anchors: Vec<Anchor>,
    /// The same anchors as webpki takes them, index for index.
    roots: Vec<TrustAnchor<'static>>,
}

/// One anchor of a bundle.
#[derive(Clone, Debug)]
pub struct Anchor {
    id: AnchorId,
    der: CertificateDer<'static>,
    validity: Validity,
}

impl Anchor {
    /// Who it is.
    pub fn id(&self) -> AnchorId {
        self.id
    }

    /// Its certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The last second in which what it signed is accepted.
    pub fn not_after(&self) -> UnixTime {
        self.validity.not_after
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }
}

impl TrustBundle {
    /// A bundle from certificates in DER.
    ///
    /// Of certificates for the same anchor the one that is valid longest is kept.
    ///
    /// # Errors
    /// No certificate, more than 16, or one that is not a CA certificate.
    pub fn from_der<T: AsRef<[u8]>>(certificates: impl IntoIterator<Item = T>) -> Result<Self, BundleError> {
        let mut found = Vec::new();
        for certificate in certificates {
            let index = found.len();
            if index == ANCHORS_MAX {
                return Err(BundleError::TooMany);
            }
            let der = CertificateDer::from(certificate.as_ref().to_vec());
            let validity = verify::ca_validity(&der).ok_or(BundleError::NotAnAnchor { index })?;
            let root = webpki::anchor_from_trusted_cert(&der)
                .map_err(|source| BundleError::Malformed { index, source })?
                .to_owned();
            found.push((Anchor { id: AnchorId::new(&root), der, validity }, root));
        }
        found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id).then(b.not_after().cmp(&a.not_after())));
        found.dedup_by_key(|(anchor, _)| anchor.id);
        let (anchors, roots): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        if anchors.is_empty() { Err(BundleError::Empty) } else { Ok(Self { anchors, roots }) }
    }

    /// A bundle from a PEM file's content; sections that are not certificates are passed over.
    ///
    /// # Errors
    /// Broken PEM, and those of [`TrustBundle::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(ANCHORS_MAX + 1).collect();
        Self::from_der(certificates.map_err(BundleError::Pem)?)
    }

    /// The anchors.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// Whether `anchor` is in it.
    pub fn contains(&self, anchor: AnchorId) -> bool {
        self.anchors.iter().any(|a| a.id == anchor)
    }

    /// The certificates, in DER, as the wires carry them.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.anchors.iter().map(|a| a.der.to_vec()).collect()
    }

    /// The certificates as PEM (RFC 7468), as files carry them.
    pub fn to_pem(&self) -> String {
        self.anchors.iter().map(|anchor| certificate_pem(&anchor.der)).collect()
    }

    pub(crate) fn roots(&self) -> &[TrustAnchor<'static>] {
        &self.roots
    }

    /// The anchor that webpki found a path to.
    pub(crate) fn anchor_of(&self, root: &TrustAnchor<'_>) -> Option<&Anchor> {
        let id = AnchorId::new(root);
        self.anchors.iter().find(|a| a.id == id)
    }
}

/// One certificate as PEM (RFC 7468). By hand, because nothing else here writes base64.
pub fn certificate_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    // 48 bytes are the 64 characters of a line.
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let sextet = usize::try_from(bits >> shift & 63).unwrap_or_default();
                let letter = ALPHABET.get(sextet).copied().filter(|_| at <= group.len()).unwrap_or(b'=');
                text.push(char::from(letter));
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.anchors.len() == other.anchors.len()
            && self.anchors.iter().zip(&other.anchors).all(|(a, b)| a.der == b.der)
    }
}

impl Eq for TrustBundle {}

/// Why certificates are not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no certificate.
    #[error("a trust bundle needs at least one certificate")]
    Empty,
    /// webpki does not take it as an anchor.
    #[error("certificate {index} of the trust bundle cannot be used")]
    Malformed {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// It is not a certificate, or not one of a certificate authority.
    #[error("certificate {index} of the trust bundle is not a certificate authority's")]
    NotAnAnchor {
        /// Which one, from 0.
        index: usize,
    },
    /// The text is not PEM.
    #[error("the trust bundle is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// More than 16 certificates.
    #[error("a trust bundle holds at most {ANCHORS_MAX} certificates")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::{BundleError, TrustBundle};
    use crate::testing::TestCa;

    #[test]
    fn order_and_repetition_do_not_matter() {
        let (a, b) = (TestCa::new("a"), TestCa::new("b"));
        let ab = TrustBundle::from_der([a.anchor_der(), b.anchor_der()]).unwrap();
        let ba = TrustBundle::from_der([b.anchor_der(), a.anchor_der(), b.anchor_der()]).unwrap();
        assert_eq!(ab, ba);
        assert_eq!(ab.anchors().len(), 2);
        assert_ne!(ab, a.bundle());
    }

    #[test]
    fn pem_is_read_as_it_was_written() {
        // Names of three lengths, so that the base64 ends in each of its three ways.
        for name in ["a", "ab", "abc"] {
            let bundle =
                TrustBundle::from_der([TestCa::new(name).anchor_der(), TestCa::new("b").anchor_der()]).unwrap();
            assert_eq!(TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(), bundle);
        }
    }

    #[test]
    fn what_is_not_an_anchor_is_refused() {
        let ca = TestCa::new("a");
        let leaf = ca.leaf("spiffe://cluster.local/ns/a/sa/b").chain().first().unwrap().clone();
        assert!(matches!(TrustBundle::from_der([leaf]), Err(BundleError::NotAnAnchor { index: 0 })));
        assert!(matches!(TrustBundle::from_der([b"junk"]), Err(BundleError::NotAnAnchor { index: 0 })));
        assert!(matches!(TrustBundle::from_der::<&[u8]>([]), Err(BundleError::Empty)));
        assert!(matches!(TrustBundle::from_pem(b"no pem at all"), Err(BundleError::Empty)));
        let many = (0..17).map(|_| ca.anchor_der());
        assert!(matches!(TrustBundle::from_der(many), Err(BundleError::TooMany)));
    }
}
