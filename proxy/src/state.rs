//! What outlives a restart of the proxy: its credentials and the last snapshots, in a directory that lies in memory and
//! that only its user may enter (semantics 22). With it a proxy that comes back while the control plane is away resumes;
//! without it nothing is ever written.
//!
//! Two files: `credentials` (key, chain, bundle) and `snapshots` (what discovery had in force, as the wire says it). Each
//! is replaced as a whole by a rename. It does not know what the answers mean: they go the way of every answer, through
//! `weft_proto::convert` and `discovery`.
//!
//! Invariant: a file is believed as a whole or not at all, and one that is not believed is removed, so that it cannot
//! come back by a later change of circumstances. Nothing that is wrong with a file is fatal.

use std::error::Error;
use std::io;
use std::path::Path;

use prost::Message as _;
use weft_model::{SpiffeId, TrustDomain, WorkloadName};
use weft_proto::proxy::v1::WatchResponse;
use weft_tls::bundle::BundleError;
use weft_tls::credentials::CredentialsError;
use weft_tls::peer::identify;
use weft_tls::{CertificateDer, Credentials, PrivateKeyDer, PrivatePkcs8KeyDer, TrustBundle, UnixTime, VerifyError};
use zeroize::Zeroizing;

mod directory;
// Open to `crate::fuzzing`.
pub(crate) mod file;

pub(crate) use directory::DirectoryError;
pub(crate) use file::{Kind, SNAPSHOTS_BYTES_MAX};

use directory::Directory;
use file::{CredentialsFile, Owner, SnapshotsFile};

/// The directory, and whose state is believed in it.
#[derive(Debug)]
pub(crate) struct StateDir {
    directory: Directory,
    identity: SpiffeId,
    owner: Owner,
}

impl StateDir {
    /// Opens the directory for the state of this workload. What was checked stays what is used: later renames of the
    /// path change nothing.
    ///
    /// # Errors
    /// It does not lie in memory, belongs to somebody else, or lets others in.
    pub(crate) fn open(
        path: &Path,
        identity: &SpiffeId,
        workload: &WorkloadName,
        uid: &str,
    ) -> Result<Self, DirectoryError> {
        let owner = Owner {
            identity: identity.as_str().to_owned(),
            namespace: (*workload.namespace).to_owned(),
            name: (*workload.name).to_owned(),
            uid: uid.to_owned(),
        };
        Ok(Self { directory: Directory::open(path)?, identity: identity.clone(), owner })
    }

    /// Keeps what proves us: the chain, its key in PKCS #8, and whom we trust.
    ///
    /// # Errors
    /// No room; what was kept before stays, as it is still ours.
    pub(crate) fn keep_credentials(
        &self,
        chain: &[CertificateDer<'_>],
        key_pkcs8: &[u8],
        bundle: &TrustBundle,
    ) -> io::Result<()> {
        let message = CredentialsFile {
            owner: Some(self.owner.clone()),
            key_pkcs8: key_pkcs8.to_vec(),
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            anchors: bundle.to_der(),
        };
        let payload = Zeroizing::new(message.encode_to_vec());
        self.directory.replace(Kind::Credentials, &file::seal(Kind::Credentials, &payload))
    }

    /// The credentials that were kept, if a peer would accept them at `now`, and the bundle that goes with them. The
    /// operator's `anchors` must vouch for them too: who installed the mesh anew, or distrusts an anchor, restarts.
    pub(crate) fn credentials(
        &self,
        domain: &TrustDomain,
        anchors: &TrustBundle,
        now: UnixTime,
    ) -> Option<(Credentials, TrustBundle)> {
        self.believed(Kind::Credentials, self.read_credentials(domain, anchors, now))
    }

    /// Keeps what discovery has in force: whole values, each after what leads to it, at most [`SNAPSHOTS_BYTES_MAX`].
    ///
    /// # Errors
    /// No room. Then nothing is kept: an older policy might allow what the present one refuses.
    pub(crate) fn keep_snapshots(&self, updates: Vec<WatchResponse>) -> io::Result<()> {
        let payload = SnapshotsFile { owner: Some(self.owner.clone()), updates }.encode_to_vec();
        let kept = self.directory.replace(Kind::Snapshots, &file::seal(Kind::Snapshots, &payload));
        if kept.is_err() {
            self.forget(Kind::Snapshots);
        }
        kept
    }

    /// The answers that were kept, in the order in which they can be taken. Nothing of them was validated.
    pub(crate) fn snapshots(&self) -> Option<Vec<WatchResponse>> {
        self.believed(Kind::Snapshots, self.read_snapshots())
    }

    /// Removes a file, if it is there.
    pub(crate) fn forget(&self, kind: Kind) {
        if let Err(error) = self.directory.remove(kind) {
            tracing::warn!(file = %self.directory.path_of(kind).display(), %error, "state cannot be removed");
        }
    }

    fn read_credentials(
        &self,
        domain: &TrustDomain,
        anchors: &TrustBundle,
        now: UnixTime,
    ) -> Result<Option<(Credentials, TrustBundle)>, StateError> {
        let Some(bytes) = self.directory.read(Kind::Credentials)? else { return Ok(None) };
        let mut message: CredentialsFile = file::decode(Kind::Credentials, &bytes)?;
        self.check(message.owner.as_ref())?;
        let bundle = TrustBundle::from_der(&message.anchors).map_err(StateError::Bundle)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::mem::take(&mut message.key_pkcs8)));
        let chain = message.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let credentials = Credentials::from_der(chain, key).map_err(StateError::Credentials)?;
        identify(credentials.chain(), &bundle, domain, now).map_err(StateError::Unusable)?;
        identify(credentials.chain(), anchors, domain, now).map_err(StateError::OtherAnchors)?;
        if *credentials.id() != self.identity {
            return Err(StateError::OtherOwner { whose: credentials.id().to_string() });
        }
        Ok(Some((credentials, bundle)))
    }

    fn read_snapshots(&self) -> Result<Option<Vec<WatchResponse>>, StateError> {
        let Some(bytes) = self.directory.read(Kind::Snapshots)? else { return Ok(None) };
        let message: SnapshotsFile = file::decode(Kind::Snapshots, &bytes)?;
        self.check(message.owner.as_ref())?;
        Ok(Some(message.updates))
    }

    fn check(&self, owner: Option<&Owner>) -> Result<(), StateError> {
        match owner {
            Some(owner) if *owner == self.owner => Ok(()),
            Some(owner) => Err(StateError::OtherOwner { whose: owner.to_string() }),
            None => Err(StateError::OtherOwner { whose: "nobody".to_owned() }),
        }
    }

    /// Says once what is wrong, and takes it out of the way.
    fn believed<T>(&self, kind: Kind, read: Result<Option<T>, StateError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            let (file, error) = (self.directory.path_of(kind), &error as &dyn Error);
            tracing::warn!(file = %file.display(), error, "state ignored and removed");
            self.forget(kind);
            None
        })
    }
}

/// Why a file of the state is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Its anchors cannot be used.
    #[error("its trust anchors cannot be used")]
    Bundle(#[source] BundleError),
    /// Its key and its chain are no credentials.
    #[error("its certificate cannot be used")]
    Credentials(#[source] CredentialsError),
    /// A part is missing or was changed.
    #[error("it is truncated or corrupt")]
    Damaged,
    /// It is whole, and still no message of ours.
    #[error("it is not a message of this version")]
    Malformed(#[source] prost::DecodeError),
    /// The operator's trust anchors are others by now.
    #[error("the anchors in WEFT_TRUST_ANCHORS do not vouch for its certificate")]
    OtherAnchors(#[source] VerifyError),
    /// It does not begin as such a file does.
    #[error("it is not a {} file of weft-proxy", kind.name())]
    OtherKind {
        /// What it should be.
        kind: Kind,
    },
    /// It was kept for somebody else.
    #[error("it is the state of {whose}")]
    OtherOwner {
        /// Who that is.
        whose: String,
    },
    /// Another version of the proxy wrote it.
    #[error("it has version {found}, this proxy reads {}", file::VERSION)]
    OtherVersion {
        /// Its version.
        found: u16,
    },
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is beyond its bound.
    #[error("it has more than {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// No peer would accept the certificate, because it expired or for another reason.
    #[error("no peer would accept its certificate")]
    Unusable(#[source] VerifyError),
}

/// A place for state, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::os::unix::fs::PermissionsExt as _;

    /// A directory in memory that is ours alone; every Linux has a tmpfs there.
    pub(crate) fn in_memory() -> tempfile::TempDir {
        let mode = std::fs::Permissions::from_mode(0o700);
        tempfile::Builder::new().permissions(mode).tempdir_in("/dev/shm").unwrap()
    }
}

#[cfg(test)]
mod tests;
