//! What can go wrong with the authority's files, and with a certificate.

use std::io;
use std::path::PathBuf;

use rustls_pki_types::pem;
use weft_model::{SpiffeId, TrustDomain};
use weft_tls::bundle::BundleError;
use weft_tls::credentials::CredentialsError;

use super::CsrError;
use super::signer::Unfit;

/// Why the authority cannot be opened, or a step of a rotation not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The issuer's anchor has expired.
    #[error("the trust anchor has expired")]
    AnchorExpired,
    /// An anchor was taken out while leaves that it vouches for are still valid.
    #[error(
        "the old trust anchor is needed until {until_unix_s} (seconds since 1970); remove retiring.json too to insist"
    )]
    AnchorNeeded {
        /// Until when.
        until_unix_s: u64,
    },
    /// The anchor's key is not in the directory.
    #[error("the trust anchor's key is not here: sign a new issuer where it is, and put it into issuer.pem")]
    AnchorOffline,
    /// The anchors are not a trust bundle.
    #[error("the trust anchors cannot be used")]
    Bundle(#[from] BundleError),
    /// Reading or writing failed.
    #[error("cannot read or write {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The issuer is somebody else's to make.
    #[error("the issuer is that of the Secret {secret}: replace it, or its authority, where that is made")]
    IssuerElsewhere {
        /// The Secret.
        secret: String,
    },
    /// The issuer's name is one that cannot be written into leaves.
    #[error("a part of the issuer's name has several values: give it one of each")]
    IssuerName,
    /// A note of ours cannot be read.
    #[error("{path} is not what we wrote")]
    Json {
        /// What.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A key of an unknown kind.
    #[error("the authority's key cannot be used: PKCS #8 with P-256, P-384 or Ed25519 is expected")]
    Key(#[source] rcgen::Error),
    /// A certificate cannot be made.
    #[error("cannot make the authority's certificate")]
    Make(#[source] rcgen::Error),
    /// A file that must be there is not.
    #[error("{path} is missing beside the other files of the authority")]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// The issuer was not signed by any anchor of the bundle.
    #[error("no anchor of anchors.pem signed the issuer")]
    NotAnchored,
    /// The certificate is not one of an authority that may sign.
    #[error("issuer.pem does not hold the certificate of an authority that may sign")]
    NotAnIssuer,
    /// A new issuer under an anchor that the proxies do not know yet.
    #[error(
        "the new issuer's anchor was not in anchors.pem before: add it, wait for the proxies, then replace the issuer"
    )]
    NoOverlap,
    /// The key is another one than the certificate names.
    #[error("the authority's key is another one than its certificate names")]
    OtherKey,
    /// The text is not PEM, or lacks a part.
    #[error("a file of the authority is not PEM or lacks a part")]
    Pem(#[source] pem::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// One rotation at a time.
    #[error("a rotation of the trust anchor is not finished")]
    RotationUnderWay,
    /// No file of an authority is that large.
    #[error("{path} is too large for a file of the authority")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
}

impl From<Unfit> for CaError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Name => Self::IssuerName,
            Unfit::NotAnchored => Self::NotAnchored,
            Unfit::NotAnIssuer => Self::NotAnIssuer,
            Unfit::OtherKey => Self::OtherKey,
            Unfit::Unreadable(error) => Self::Key(error),
        }
    }
}

/// Why a certificate is not made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Our own certificate cannot be used.
    #[error("the certificate that was made cannot be used")]
    Credentials(#[source] CredentialsError),
    /// The issuer is no longer valid.
    #[error("the issuer expired at {not_after_unix_s} (seconds since 1970)")]
    IssuerExpired {
        /// Its last second.
        not_after_unix_s: u64,
    },
    /// The library refuses.
    #[error("cannot make the certificate")]
    Make(#[source] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The request is refused.
    #[error("the certificate signing request is refused")]
    Request(#[source] CsrError),
    /// The identity belongs elsewhere.
    #[error("{identity} is not of the trust domain {ours}")]
    TrustDomain {
        /// Who it would be.
        identity: SpiffeId,
        /// Ours.
        ours: TrustDomain,
    },
}
