//! HTTP/1.0 and HTTP/1.1 as a pure codec: bytes in a buffer become heads and body frames, and back.
//!
//! It reads no socket and keeps no clock. [`HeadReader`] reads heads of both roles, [`BodyDecoder`] the body behind a
//! head, [`write_request`], [`write_response`] and [`BodyEncoder`] write them, `convert` crosses to HTTP/2 semantics.
//! `httparse` finds the tokens; everything that decides where a message ends is decided here (RFC 9110, RFC 9112).
//!
//! # One representation
//! A head is a `Method`, a `Uri` and a `HeaderMap`, the same nouns that HTTP/2 uses, so that routes, policies and
//! filters have one code path. The map holds end-to-end fields only: `Connection` and what it names, `Keep-Alive`,
//! `Proxy-Connection`, `Transfer-Encoding`, `Upgrade`, `TE` (but `trailers`) and `HTTP2-Settings` become facts of the
//! head while it is read, and are written anew from those facts. Values share the buffer they came in. How each name
//! was spelled stands beside the map in [`Spelling`], two numbers a field, so that HTTP/1 to HTTP/1 keeps the case.
//!
//! # Invariants
//! - Framing is said once, by [`BodyLength`]: writers ignore framing fields in the map and write their own.
//! - Whatever is accepted, written and read again, has the same framing: what a next reader sees is our reading.
//! - An end is only what the sender declared as an end; anything else is [`BodyError::Truncated`].
//! - Nothing here panics on input, and every buffer that a peer can grow has a bound below.

#![warn(clippy::indexing_slicing)]

use http::StatusCode;

mod attempt;
mod body;
mod connection;
mod convert;
mod diagnose;
mod error;
mod fields;
mod framing;
mod head;
mod spelling;
mod target;
mod write;

pub use body::{BodyDecoder, BodyEncoder, ChunkFrame, Frame};
pub use connection::{is_connection_field, list_members};
pub use convert::{request_from_h2, request_to_h2, response_from_h2, response_to_h2, trailers_from_h2};
pub use error::{BodyError, ConvertError, HeadError};
pub use head::{AnswerTo, HeadReader, RequestHead, ResponseHead};
pub use spelling::Spelling;
pub use target::{TargetForm, names_host};
pub use write::{Outgoing, write_continue, write_informational, write_request, write_response};

/// The most bytes of one head, start line and final empty line included: design.md §6 says 64 KiB. Beyond it: 431.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most fields of one head or trailer section. Guess: nginx, Go and Envoy stop at 100 or have only the byte limit;
/// 256 keeps the table of slices that is filled on the stack at 8 KiB. Each hop adds a few fields of its own, so a head
/// at the very limit is refused by the next hop.
pub const HEADERS_MAX: usize = 256;

/// The most bytes of a request target. RFC 9112 §3 asks for at least 8,000; `http::Uri` holds less than 64 KiB.
pub const TARGET_BYTES_MAX: usize = 32 * 1024;

/// The most bytes of a method. The longest registered one has 17 (`UPDATEREDIRECTREF`).
pub const METHOD_BYTES_MAX: usize = 64;

/// The most bytes of a trailer section; as large as a head, so that what HTTP/2 carries fits.
pub const TRAILER_BYTES_MAX: usize = HEAD_BYTES_MAX;

/// Chunk extensions that a body may carry before any payload pays for more (RFC 9112 §7.1.1 asks for a limit). Each
/// byte of payload allows one more, so signatures per chunk pass and a body of nothing but extensions does not.
pub const CHUNK_EXTENSION_BYTES_MAX: u64 = 16 * 1024;

/// The version of a message (RFC 9112 §2.3). Later minor versions are refused: none was ever defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Where the body of a message ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// By the last chunk and the trailer section.
    Chunked,
    /// After this many bytes.
    Known(u64),
    /// There is none: the head is the message. Also for an answer that turns the connection into a tunnel.
    None,
    /// When the connection ends. Only responses.
    UntilClose,
}

impl BodyLength {
    /// Whether a body with no bytes at all is certain from the head.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Known(0))
    }
}

/// What the connection does after this message (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Ends.
    Close,
    /// Takes the next message.
    KeepAlive,
}

/// Whether a response with this status never has a body, whatever its fields say (RFC 9112 §6.3).
pub(crate) fn is_bodyless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests;
