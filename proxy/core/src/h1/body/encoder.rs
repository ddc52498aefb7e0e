//! From frames to bytes.

use bytes::{BufMut, BytesMut};
use http::HeaderMap;
use smallvec::SmallVec;

use super::trailers;
use crate::h1::BodyLength;
use crate::h1::error::BodyError;

/// Writes the framing of one body and holds the sender to what its head declared.
#[derive(Debug)]
pub struct BodyEncoder {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Chunked,
    Done,
    Known(u64),
    UntilClose,
}

/// What stands before and behind a piece of payload, for a vectored write that does not copy the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkFrame {
    before: SmallVec<[u8; 18]>,
    behind: &'static [u8],
}

impl ChunkFrame {
    /// The bytes to write before the payload; empty where the body is not chunked.
    pub fn before(&self) -> &[u8] {
        &self.before
    }

    /// The bytes to write behind the payload.
    pub const fn behind(&self) -> &'static [u8] {
        self.behind
    }
}

impl BodyEncoder {
    /// Begins the body behind a head that was written with this length.
    pub const fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Chunked => State::Chunked,
            BodyLength::Known(length) => State::Known(length),
            BodyLength::None => State::Known(0),
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the receiver already has the whole body, so that [`BodyEncoder::finish`] will write nothing.
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Done | State::Known(0))
    }

    /// Whether trailers can be carried.
    pub const fn carries_trailers(&self) -> bool {
        matches!(self.state, State::Chunked)
    }

    /// Answers what to write around `len` bytes of payload, and counts them as written.
    ///
    /// # Errors
    /// [`BodyError::Overrun`] for more than was declared, or after the end: close without writing the payload.
    pub fn frame(&mut self, len: usize) -> Result<ChunkFrame, BodyError> {
        if len == 0 {
            // An empty chunk would be the last one.
            return Ok(ChunkFrame::default());
        }
        match &mut self.state {
            State::Done => Err(BodyError::Overrun),
            State::Known(left) => {
                let len = u64::try_from(len).or(Err(BodyError::Overrun))?;
                *left = left.checked_sub(len).ok_or(BodyError::Overrun)?;
                Ok(ChunkFrame::default())
            }
            State::UntilClose => Ok(ChunkFrame::default()),
            State::Chunked => Ok(ChunkFrame { before: size_line(len), behind: b"\r\n" }),
        }
    }

    /// Writes a piece of payload with what belongs around it.
    ///
    /// # Errors
    /// As [`BodyEncoder::frame`].
    ///
    /// **Cost**: copies the payload; for large ones use [`BodyEncoder::frame`] and a vectored write.
    pub fn data(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), BodyError> {
        let frame = self.frame(payload.len())?;
        out.reserve(frame.before().len() + payload.len() + frame.behind().len());
        out.put_slice(frame.before());
        out.put_slice(payload);
        out.put_slice(frame.behind());
        Ok(())
    }

    /// Ends the body. Trailers are written only where the body is chunked; RFC 9110 §6.5.1 lets them be dropped
    /// elsewhere, and those that may not be trailers are dropped always.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] when fewer bytes came than were declared: close, so that the receiver sees it too.
    pub fn finish(&mut self, trailers: Option<&HeaderMap>, out: &mut BytesMut) -> Result<(), BodyError> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Chunked => {
                out.put_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if !trailers::is_forbidden(name) {
                        crate::h1::write::field(out, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
            State::Known(1..) => Err(BodyError::Truncated),
            State::Done | State::Known(0) | State::UntilClose => Ok(()),
        }
    }
}

/// The size in hexadecimal, without leading zeros, and CRLF.
fn size_line(len: usize) -> SmallVec<[u8; 18]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = SmallVec::new();
    let first = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..first).rev() {
        line.push(DIGITS.get((len >> (place * 4)) & 0xf).copied().unwrap_or_default());
    }
    line.extend_from_slice(b"\r\n");
    line
}
