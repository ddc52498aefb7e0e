//! The form of a state file: a head that says what it is and whether all of it is there, then one message. Pure; the
//! bytes come and go through [`super::directory`].
//!
//! The digest is against accidents. Who may write into the directory has the key anyway.

use std::fmt;

use prost::Message;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::proxy::v1::WatchResponse;
use zeroize::{Zeroize as _, Zeroizing};

use super::StateError;

/// What both files begin with.
const MAGIC: &[u8] = b"weft-state";

/// The version of form and messages; another one is not read. Proxies of two versions share no state, because between
/// them lies a new container or an upgrade, and a control plane that is away during one is rare.
pub(super) const VERSION: u16 = 1;

/// Key, chain and bundle: [16 anchors](weft_model::bounds::TRUST_ANCHORS_MAX) of at most 16 KiB, and a chain of four.
const CREDENTIALS_BYTES_MAX: usize = 512 * 1024;

/// Mesh and inbound, which are one message of the wire each, and as much again for destinations. The volume is memory of
/// the workload, and holds the old file beside the new one for a moment.
pub(crate) const SNAPSHOTS_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Beside the answers: head and owner.
const FRAME_BYTES_MAX: usize = 4 * 1024;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Key, chain and bundle.
    Credentials,
    /// What discovery had in force.
    Snapshots,
}

impl Kind {
    /// What it is called in the directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Snapshots => "snapshots",
        }
    }

    /// How many bytes of it are read.
    pub(super) fn bytes_max(self) -> usize {
        match self {
            Self::Credentials => CREDENTIALS_BYTES_MAX,
            Self::Snapshots => SNAPSHOTS_BYTES_MAX + FRAME_BYTES_MAX,
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::Credentials => 1,
            Self::Snapshots => 2,
        }
    }
}

/// Whose state it is: a restart is of the same workload, another one's is nobody's business.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Owner {
    #[prost(string, tag = "1")]
    pub(super) identity: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    /// Empty where the platform gives none.
    #[prost(string, tag = "4")]
    pub(super) uid: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = format!("{}/{}", self.namespace, self.name);
        // Quoted, because nobody has validated it.
        write!(f, "{:?} of workload {workload:?}", self.identity)?;
        if self.uid.is_empty() { Ok(()) } else { write!(f, " with uid {:?}", self.uid) }
    }
}

/// Never shown, and its key is overwritten when it is dropped.
#[derive(PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct CredentialsFile {
    #[prost(message, optional, tag = "1")]
    pub(super) owner: Option<Owner>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) key_pkcs8: Vec<u8>,
    /// DER, the leaf first.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) chain: Vec<Vec<u8>>,
    /// DER.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) anchors: Vec<Vec<u8>>,
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsFile").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Drop for CredentialsFile {
    fn drop(&mut self) {
        self.key_pkcs8.zeroize();
    }
}

/// Answers of the wire, whole ones, each after what leads to it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotsFile {
    #[prost(message, optional, tag = "1")]
    pub(crate) owner: Option<Owner>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) updates: Vec<WatchResponse>,
}

/// A file with this payload.
pub(crate) fn seal(kind: Kind, payload: &[u8]) -> Zeroizing<Vec<u8>> {
    // Made large enough at once: growing would leave a copy behind.
    let room = MAGIC.len() + size_of::<u16>() + 1 + SHA256_OUTPUT_LEN + payload.len();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.push(kind.tag());
    bytes.extend_from_slice(digest(&SHA256, payload).as_ref());
    bytes.extend_from_slice(payload);
    bytes
}

/// The message in a file.
///
/// # Errors
/// It is of another kind or version, or was damaged.
pub(crate) fn decode<M: Message + Default>(kind: Kind, bytes: &[u8]) -> Result<M, StateError> {
    M::decode(payload(kind, bytes)?).map_err(StateError::Malformed)
}

fn payload(kind: Kind, bytes: &[u8]) -> Result<&[u8], StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::OtherKind { kind })?;
    let (version, rest) = rest.split_first_chunk().ok_or(StateError::Damaged)?;
    let found = u16::from_be_bytes(*version);
    if found != VERSION {
        return Err(StateError::OtherVersion { found });
    }
    let (tag, rest) = rest.split_first().ok_or(StateError::Damaged)?;
    if *tag != kind.tag() {
        return Err(StateError::OtherKind { kind });
    }
    let (sum, payload) = rest.split_at_checked(SHA256_OUTPUT_LEN).ok_or(StateError::Damaged)?;
    if digest(&SHA256, payload).as_ref() == sum { Ok(payload) } else { Err(StateError::Damaged) }
}
