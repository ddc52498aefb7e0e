//! The fields that say where a message ends (RFC 9112 §6).

use super::connection::list_members;
use super::error::HeadError;

/// A decimal number of at most 64 bits: 20 digits.
const CONTENT_LENGTH_DIGITS_MAX: usize = 20;

/// Reads one `Content-Length`: digits and nothing else. A list is refused even where its members agree: some readers
/// take the first and some the last.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || value.len() > CONTENT_LENGTH_DIGITS_MAX {
        return Err(HeadError::ContentLengthInvalid);
    }
    value
        .iter()
        .try_fold(0_u64, |length, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(HeadError::ContentLengthInvalid)
}

/// What all `Transfer-Encoding` fields together say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TransferCodings {
    #[default]
    Absent,
    /// `chunked`, once, and nothing else: the only list that is accepted.
    Chunked,
    /// Another coding, or `chunked` not alone; the last one is `chunked` or not.
    Other { chunked_last: bool },
}

impl TransferCodings {
    /// Adds one field's value. An empty value or empty member counts as an unknown coding: readers differ on it.
    pub(crate) fn note(&mut self, value: &[u8]) {
        let chunked_last = value.rsplit(|byte| *byte == b',').next().is_some_and(is_chunked);
        *self = if *self == Self::Absent && is_chunked(value) { Self::Chunked } else { Self::Other { chunked_last } };
    }

    /// Whether the body is chunked, or why the field is refused.
    pub(crate) const fn is_chunked(self) -> Result<bool, HeadError> {
        match self {
            Self::Absent => Ok(false),
            Self::Chunked => Ok(true),
            Self::Other { chunked_last: true } => Err(HeadError::TransferEncodingUnknown),
            Self::Other { chunked_last: false } => Err(HeadError::TransferEncodingNotChunked),
        }
    }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Whether `TE` says that trailers are welcome (RFC 9110 §10.1.4).
pub(crate) fn accepts_trailers(value: &[u8]) -> bool {
    list_members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}
