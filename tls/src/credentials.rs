//! Our own credentials: a private key and the chain that names it. Making the key is the caller's business; here it is
//! only held, in the form the provider signs with, and never shown.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use weft_model::SpiffeId;
use zeroize::Zeroizing;

use crate::verify::{self, CHAIN_LEN_MAX, VerifyError};

/// A key and the certificates that name it. Cloning counts references.
#[derive(Clone)]
pub struct Credentials {
    key: Arc<CertifiedKey>,
    id: SpiffeId,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Credentials {
    /// Credentials from a chain, the leaf first and without the anchor, and the leaf's private key. The key's bytes are
    /// overwritten when it has been loaded.
    ///
    /// # Errors
    /// A chain that no peer would accept, whoever the anchors are; a key that is not usable or not the leaf's.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let key = Zeroizing::new(key);
        let leaf = chain.first().ok_or(CredentialsError::Chain(VerifyError::NoCertificate))?;
        if chain.len() > CHAIN_LEN_MAX {
            return Err(CredentialsError::Chain(VerifyError::ChainTooLong));
        }
        let facts = verify::leaf_facts(leaf).map_err(CredentialsError::Chain)?;
        let mut validity = facts.validity;
        for issuer in chain.iter().skip(1) {
            let of_issuer = verify::ca_validity(issuer).ok_or(CredentialsError::Chain(VerifyError::Malformed))?;
            validity = validity.within(of_issuer);
        }
        let signer = any_supported_type(&key).map_err(CredentialsError::Key)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(CredentialsError::Key)?;
        Ok(Self {
            key: Arc::new(certified),
            id: facts.id,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// Credentials from PEM: the chain, and the key in PKCS #8, SEC 1 or PKCS #1.
    ///
    /// # Errors
    /// Broken PEM, and those of [`Credentials::from_der`].
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CredentialsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem).take(CHAIN_LEN_MAX + 1).collect();
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(CredentialsError::Pem)?;
        Self::from_der(chain.map_err(CredentialsError::Pem)?, key)
    }

    /// Who we are.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// From when on the whole chain is valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second in which the whole chain is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl fmt::Debug for Credentials {
    /// Says whose they are and until when; never anything of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).field("not_after", &self.not_after.as_secs()).finish()
    }
}

/// Why certificates and a key are not credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No peer would accept the chain.
    #[error("the certificate chain cannot be used")]
    Chain(#[source] VerifyError),
    /// The key is of an unknown kind, broken, or another than the leaf names.
    #[error("the private key cannot be used with this certificate")]
    Key(#[source] rustls::Error),
    /// The text is not PEM.
    #[error("the certificate or the key is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
}

#[cfg(test)]
mod tests {
    use super::{Credentials, CredentialsError};
    use crate::testing::TestCa;
    use rustls_pki_types::PrivateKeyDer;

    #[test]
    fn a_key_of_another_leaf_is_refused() {
        let ca = TestCa::new("a");
        let (chain, _) = ca.leaf_der("spiffe://cluster.local/ns/a/sa/b");
        let (_, other) = ca.leaf_der("spiffe://cluster.local/ns/a/sa/b");
        assert!(matches!(Credentials::from_der(chain, other), Err(CredentialsError::Key(_))));
    }

    #[test]
    fn debug_shows_no_key() {
        let ca = TestCa::new("a");
        let (chain, key) = ca.leaf_der("spiffe://cluster.local/ns/a/sa/b");
        let PrivateKeyDer::Pkcs8(pkcs8) = &key else { panic!("rcgen makes PKCS #8") };
        let secret = pkcs8.secret_pkcs8_der().to_vec();
        let shown = format!("{:?}", Credentials::from_der(chain, key).unwrap());
        assert!(shown.starts_with("Credentials { id: spiffe://cluster.local/ns/a/sa/b, not_after: "), "{shown}");
        assert!(!shown.contains(&format!("{secret:?}")));
    }
}
