//! Ways in for the fuzz targets of `fuzz/`: what stands behind a digest, which random bytes never have, and what is nobody's but
//! ours. Nothing else calls them, and none of them decides anything.

use prost::Message as _;
use weft_proto::proxy::v1::WatchResponse;

use crate::probe;
use crate::state::Kind;
use crate::state::file::{self, SnapshotsFile};

/// A file of snapshots around this payload, whatever it is.
pub fn seal_snapshots(payload: &[u8]) -> Vec<u8> {
    file::seal(Kind::Snapshots, payload).to_vec()
}

/// A file of these answers.
pub fn write_snapshots(updates: Vec<WatchResponse>) -> Vec<u8> {
    seal_snapshots(&SnapshotsFile { owner: None, updates }.encode_to_vec())
}

/// The answers in a file of snapshots, whoever's it is.
pub fn read_snapshots(file: &[u8]) -> Option<Vec<WatchResponse>> {
    file::decode(Kind::Snapshots, file).ok().map(|message: SnapshotsFile| message.updates)
}

/// The port and the target that a redirect to `location` leads to, from `target` on `port` of 10.0.0.7; `None` where it is not
/// followed.
pub fn follow_redirect(port: u16, target: &str, location: &str) -> Option<(u16, String)> {
    probe::follow_redirect(port, target, location)
}
