//! From bytes to frames.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::trailers;
use crate::h1::attempt::Attempt;
use crate::h1::error::BodyError;
use crate::h1::{BodyLength, CHUNK_EXTENSION_BYTES_MAX};

/// A piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Payload, never empty, sharing the buffer it came in.
    Data(Bytes),
    /// Fields after the payload, at most once, without those that may not stand there.
    Trailers(HeaderMap),
    /// The body is complete; answered again and again.
    End,
}

/// Reads one body. Framing is taken off; what stays in the buffer behind the end belongs to the next message.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    chunks: Chunks,
}

#[derive(Debug)]
enum State {
    /// Before or in a chunk's size line.
    ChunkLine(LinePart),
    /// In a chunk, which has so many bytes left.
    ChunkData(u64),
    /// At the CR, or the LF, behind a chunk.
    ChunkEnd {
        seen_cr: bool,
    },
    Done,
    Known(u64),
    Trailers(Attempt),
    UntilClose,
}

/// Where in a size line: `size *( BWS ";" extension ) CRLF`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinePart {
    Size,
    SpaceAfterSize,
    Extension,
    Lf,
}

/// What is known of the current size line and of the extensions so far.
#[derive(Debug)]
struct Chunks {
    size: u64,
    digits: u8,
    /// Bytes of extensions that may still come.
    extension_bytes_left: u64,
}

/// 64 bits in hexadecimal.
const CHUNK_SIZE_DIGITS_MAX: u8 = 16;

impl BodyDecoder {
    /// Begins the body behind a head.
    pub const fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Chunked => State::ChunkLine(LinePart::Size),
            BodyLength::Known(0) | BodyLength::None => State::Done,
            BodyLength::Known(length) => State::Known(length),
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, chunks: Chunks { size: 0, digits: 0, extension_bytes_left: CHUNK_EXTENSION_BYTES_MAX } }
    }

    /// Whether the end was reached: no further frame but [`Frame::End`].
    pub const fn is_end(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes the next frame off `buf`; `None` asks for more bytes. Bytes of framing are taken even then.
    ///
    /// # Errors
    /// The body is malformed: reset towards the receiver, so that it does not take what came for the whole; the
    /// connection must not be used again.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, BodyError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Some(Frame::End)),
                State::Known(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(data.map(Frame::Data));
                }
                State::UntilClose => {
                    return Ok((!buf.is_empty()).then(|| Frame::Data(buf.split().freeze())));
                }
                State::ChunkLine(part) => {
                    if !self.chunks.read_line(part, buf)? {
                        return Ok(None);
                    }
                    self.state = match self.chunks.begin() {
                        0 => State::Trailers(Attempt::default()),
                        size => State::ChunkData(size),
                    };
                }
                State::ChunkData(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.state = State::ChunkEnd { seen_cr: false };
                    }
                    return Ok(data.map(Frame::Data));
                }
                State::ChunkEnd { seen_cr } => match (buf.first(), *seen_cr) {
                    (None, _) => return Ok(None),
                    (Some(b'\r'), false) => {
                        *seen_cr = true;
                        buf.advance(1);
                    }
                    (Some(b'\n'), true) => {
                        self.state = State::ChunkLine(LinePart::Size);
                        buf.advance(1);
                    }
                    (Some(_), _) => return Err(BodyError::ChunkEndInvalid),
                },
                State::Trailers(attempt) => {
                    let Some(trailers) = trailers::read(buf, attempt)? else { return Ok(None) };
                    self.state = State::Done;
                    if !trailers.is_empty() {
                        return Ok(Some(Frame::Trailers(trailers)));
                    }
                }
            }
        }
    }

    /// Says that the peer ended the connection cleanly and that nothing is left to decode.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] when the body was not complete. A reset or a TLS stream without its own end is not a
    /// clean end: do not call this for it, the body is truncated then in any case.
    pub const fn end_of_stream(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }
}

/// Splits off as much as there is of what is left.
fn take(buf: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left = left.saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
    (len > 0).then(|| buf.split_to(len).freeze())
}

impl Chunks {
    /// Takes a size line off `buf` as far as it is there; answers whether it is complete.
    ///
    /// The line must end in CRLF: a lone CR or LF in an extension is where readers have come to differ.
    fn read_line(&mut self, part: &mut LinePart, buf: &mut BytesMut) -> Result<bool, BodyError> {
        let mut taken = 0;
        let mut is_complete = false;
        for byte in buf.iter() {
            taken += 1;
            *part = match (*part, *byte) {
                (LinePart::Size, byte) if byte.is_ascii_hexdigit() => {
                    self.push_digit(byte)?;
                    LinePart::Size
                }
                (LinePart::Size, _) if self.digits == 0 => return Err(BodyError::ChunkSizeInvalid),
                (LinePart::Size | LinePart::SpaceAfterSize | LinePart::Extension, b'\r') => LinePart::Lf,
                (LinePart::Size | LinePart::SpaceAfterSize, b' ' | b'\t') => {
                    self.pay_extension()?;
                    LinePart::SpaceAfterSize
                }
                (LinePart::Size | LinePart::SpaceAfterSize, b';') => {
                    self.pay_extension()?;
                    LinePart::Extension
                }
                (LinePart::Size | LinePart::SpaceAfterSize, _) => return Err(BodyError::ChunkSizeInvalid),
                (LinePart::Extension, byte) if byte.is_ascii_control() && byte != b'\t' => {
                    return Err(BodyError::ChunkExtensionInvalid);
                }
                (LinePart::Extension, _) => {
                    self.pay_extension()?;
                    LinePart::Extension
                }
                (LinePart::Lf, b'\n') => {
                    is_complete = true;
                    break;
                }
                (LinePart::Lf, _) => return Err(BodyError::ChunkExtensionInvalid),
            };
        }
        buf.advance(taken);
        Ok(is_complete)
    }

    fn push_digit(&mut self, digit: u8) -> Result<(), BodyError> {
        if self.digits >= CHUNK_SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSizeOverflow);
        }
        let value = char::from(digit).to_digit(16).ok_or(BodyError::ChunkSizeInvalid)?;
        self.digits += 1;
        self.size = (self.size << 4) | u64::from(value);
        Ok(())
    }

    fn pay_extension(&mut self) -> Result<(), BodyError> {
        self.extension_bytes_left =
            self.extension_bytes_left.checked_sub(1).ok_or(BodyError::ChunkExtensionsTooLarge)?;
        Ok(())
    }

    /// Ends the line: answers the chunk's size and makes ready for the next one.
    const fn begin(&mut self) -> u64 {
        let size = self.size;
        // Credit comes before the bytes do, but the next line, which could spend it, comes after them.
        self.extension_bytes_left = self.extension_bytes_left.saturating_add(size);
        self.size = 0;
        self.digits = 0;
        size
    }
}
