//! What a certificate signing request may say. Only its public key is taken; everything else of it is either what the
//! certificate will say anyway, or a reason to refuse: who asks for a certificate authority's certificate is told so
//! instead of getting a lesser one.

#![warn(clippy::indexing_slicing)]

use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use ring::digest;
use weft_model::SpiffeId;
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// A P-384 request with one URI is under 1 KiB; a SPIFFE id may take 2 KiB more.
const CSR_BYTES_MAX: usize = 8 * 1024;

/// A request that was checked: the public key that a certificate may be made for.
#[derive(Debug)]
pub struct CheckedRequest {
    pub(super) public_key: SubjectPublicKeyInfo,
}

impl CheckedRequest {
    /// Checks a PKCS #10 request (RFC 2986), DER, made for `identity`: its signature, its key, and that it asks for
    /// nothing that a workload does not get. Fuzzed.
    ///
    /// # Errors
    /// Each thing that is wrong with it.
    pub fn check(csr_der: &[u8], identity: &SpiffeId) -> Result<Self, CsrError> {
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge { bytes: csr_der.len() });
        }
        let (rest, csr) = X509CertificationRequest::from_der(csr_der).ok().ok_or(CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let info = &csr.certification_request_info;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).ok().ok_or(CsrError::WeakKey)?;
        let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !accepted.contains(&public_key.algorithm()) {
            return Err(CsrError::WeakKey);
        }
        csr.verify_signature().ok().ok_or(CsrError::Signature)?;
        check_attributes(info, identity)?;
        Ok(Self { public_key })
    }

    /// A hash of the public key: who asks again with the same key is the same asker.
    pub fn key_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.public_key.subject_public_key_info()).as_ref());
        hash
    }
}

/// Checks what a request asks for beside its key. Apart from [`CheckedRequest::check`] only so that fuzzing gets behind
/// the signature.
pub(crate) fn check_attributes(info: &X509CertificationRequestInfo<'_>, identity: &SpiffeId) -> Result<(), CsrError> {
    for attribute in info.iter_attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => {
                for extension in &requested.extensions {
                    check_extension(extension.parsed_extension(), identity)?;
                }
            }
            ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => {
                return Err(CsrError::Unexpected);
            }
        }
    }
    Ok(())
}

fn check_extension(extension: &ParsedExtension<'_>, identity: &SpiffeId) -> Result<(), CsrError> {
    match extension {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => Err(CsrError::CertificateAuthority),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err(CsrError::CertificateAuthority)
        }
        // Harmless, and what common programs put there: the certificate says its own.
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectKeyIdentifier(_) => Ok(()),
        ParsedExtension::SubjectAlternativeName(names) => check_names(&names.general_names, identity),
        ParsedExtension::ParseError { .. } => Err(CsrError::Malformed),
        _ => Err(CsrError::Unexpected),
    }
}

fn check_names(names: &[GeneralName<'_>], identity: &SpiffeId) -> Result<(), CsrError> {
    let mut uris = 0_usize;
    for name in names {
        match name {
            GeneralName::URI(uri) => {
                uris += 1;
                if uris > 1 {
                    return Err(CsrError::SecondUri);
                }
                if *uri != identity.as_str() {
                    return Err(CsrError::ForeignIdentity);
                }
            }
            GeneralName::DNSName(_) => return Err(CsrError::DnsName),
            GeneralName::IPAddress(_) => return Err(CsrError::Address),
            _ => return Err(CsrError::Unexpected),
        }
    }
    Ok(())
}

/// Why a certificate signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It asks for an IP address as a name.
    #[error("the request asks for an IP address as a name: a workload has one name, its identity")]
    Address,
    /// It asks for the right to sign certificates.
    #[error("the request asks for a certificate authority's certificate")]
    CertificateAuthority,
    /// It asks for a DNS name.
    #[error("the request asks for a DNS name: a workload has one name, its identity")]
    DnsName,
    /// It names another identity than the one that is asked for beside it.
    #[error("the request names another identity than the one asked for")]
    ForeignIdentity,
    /// It is not PKCS #10 in DER.
    #[error("the request is not PKCS #10 in DER")]
    Malformed,
    /// It names more than one URI.
    #[error("the request names a second URI")]
    SecondUri,
    /// Its signature was not made by the key in it.
    #[error("the request's signature does not fit its key")]
    Signature,
    /// It is larger than any request of a workload.
    #[error("a request of {bytes} bytes is larger than {CSR_BYTES_MAX}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// It asks for something that workloads do not get.
    #[error("the request asks for something that workloads do not get")]
    Unexpected,
    /// The key is none of P-256, P-384 and Ed25519.
    #[error("the request's key is none of P-256, P-384 and Ed25519")]
    WeakKey,
}

#[cfg(test)]
mod tests;
