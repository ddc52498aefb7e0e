//! Reads the ClientHello that begins a TLS connection: which name it asks for, which protocols it offers.
//!
//! It is not a TLS implementation: nothing is answered and nothing is trusted. Its answer decides only whether *we*
//! terminate (an ALPN of the mesh) or the bytes pass untouched; the handshake proper reads the same bytes again.
//! A ClientHello may come in many segments and many records: post-quantum key shares make it larger than one packet.

#![warn(clippy::indexing_slicing)]

use std::borrow::Cow;

/// The longest ClientHello that is reassembled, its four bytes of header included.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// How many records it may be spread over; a real one needs one or two.
const RECORDS_MAX: usize = 64;

/// How many bytes of a connection are ever needed to read a ClientHello: its own bound and the records' headers.
pub const PEEK_BYTES_MAX: usize = CLIENT_HELLO_BYTES_MAX + RECORDS_MAX * RECORD_HEADER_BYTES;

/// Every ALPN protocol between proxies begins so (semantics 12).
pub const MESH_ALPN_PREFIX: &[u8] = b"weft/";

/// What a ClientHello says that decides how its connection is treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in `server_name`, where there is one that could be a DNS name; lower case.
    pub server_name: Option<Box<str>>,
    /// The protocols of `application_layer_protocol_negotiation`, in the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

impl ClientHello {
    /// Whether it comes from a proxy of the mesh: it offers any protocol that begins with `weft/`.
    pub fn offers_mesh(&self) -> bool {
        self.alpn.iter().any(|protocol| protocol.starts_with(MESH_ALPN_PREFIX))
    }
}

/// What can be said of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It is complete.
    Hello(ClientHello),
    /// It is incomplete; read more, up to [`PEEK_BYTES_MAX`].
    NeedMore,
    /// It is not, or not a well-formed, ClientHello.
    NotTls,
    /// It is longer than [`CLIENT_HELLO_BYTES_MAX`] or in too many records.
    TooLarge,
}

/// Reads a ClientHello from everything that a connection sent so far.
///
/// **Cost:** one pass over the record headers until it is complete, then one over the message; a message in several
/// records is copied once.
pub fn parse(bytes: &[u8]) -> Parsed {
    match reassemble(bytes) {
        Ok(message) => read_message(&message).map_or(Parsed::NotTls, Parsed::Hello),
        Err(early) => early,
    }
}

const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;

/// The body of the first handshake message, its header removed.
fn reassemble(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Parsed> {
    let mut records = Records { rest: bytes, seen: 0 };
    let first = records.next()?;
    let mut message = Cow::Borrowed(first.payload);
    let mut whole = first.whole;
    loop {
        if let Some(header) = message.first_chunk::<MESSAGE_HEADER_BYTES>() {
            let [kind, high, middle, low] = *header;
            if kind != 1 {
                return Err(Parsed::NotTls);
            }
            let len = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
            if len > CLIENT_HELLO_BYTES_MAX - MESSAGE_HEADER_BYTES {
                return Err(Parsed::TooLarge);
            }
            if message.len() >= MESSAGE_HEADER_BYTES + len {
                return Ok(match message {
                    Cow::Borrowed(all) => {
                        Cow::Borrowed(all.get(MESSAGE_HEADER_BYTES..MESSAGE_HEADER_BYTES + len).unwrap_or_default())
                    }
                    Cow::Owned(mut all) => {
                        all.truncate(MESSAGE_HEADER_BYTES + len);
                        all.drain(..MESSAGE_HEADER_BYTES);
                        Cow::Owned(all)
                    }
                });
            }
        } else if message.first().is_some_and(|&kind| kind != 1) {
            return Err(Parsed::NotTls);
        }
        if !whole {
            return Err(Parsed::NeedMore);
        }
        let next = records.next()?;
        message.to_mut().extend_from_slice(next.payload);
        whole = next.whole;
    }
}

struct Record<'a> {
    /// As much of it as there is.
    payload: &'a [u8],
    /// Whether that is all of it.
    whole: bool,
}

struct Records<'a> {
    rest: &'a [u8],
    seen: usize,
}

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Record<'a>, Parsed> {
        if self.seen == RECORDS_MAX {
            return Err(Parsed::TooLarge);
        }
        self.seen += 1;
        // What is there of a header is judged at once, so that other protocols are not kept waiting.
        let fits = |at: usize, legal: fn(u8) -> bool| self.rest.get(at).copied().is_none_or(legal);
        if !fits(0, |b| b == 22) || !fits(1, |b| b == 3) || !fits(2, |b| b <= 4) || !fits(3, |b| b <= 0x40) {
            return Err(Parsed::NotTls);
        }
        let Some((header, rest)) = self.rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err(Parsed::NeedMore);
        };
        let [_, _, _, high, low] = *header;
        let len = usize::from(u16::from_be_bytes([high, low]));
        // Handshake records are never empty, and never longer than 2^14 (RFC 8446 §5.1).
        if len == 0 || len > 1 << 14 {
            return Err(Parsed::NotTls);
        }
        let (payload, rest) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        self.rest = rest;
        Ok(Record { payload, whole: payload.len() == len })
    }
}

/// Takes a ClientHello apart (RFC 8446 §4.1.2). `None`: malformed.
fn read_message(message: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?;
    let session_id = reader.short_vector()?;
    let cipher_suites = reader.long_vector()?;
    let compression = reader.short_vector()?;
    if session_id.len() > 32 || cipher_suites.len() < 2 || cipher_suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.long_vector()?);
    if !reader.0.is_empty() {
        return None;
    }
    let (mut name_seen, mut alpn_seen) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = Reader(extensions.long_vector()?);
        let seen = match kind {
            EXTENSION_SERVER_NAME => {
                hello.server_name = read_server_name(body)?;
                &mut name_seen
            }
            EXTENSION_ALPN => {
                hello.alpn = read_alpn(body)?;
                &mut alpn_seen
            }
            _ => continue,
        };
        // An extension that stands twice has two meanings (forbidden by RFC 8446 §4.2).
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    Some(hello)
}

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;

/// RFC 6066 §3. The outer option is "well-formed", the inner one "a name of use".
fn read_server_name(mut body: Reader<'_>) -> Option<Option<Box<str>>> {
    let mut names = Reader(body.long_vector()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.long_vector()?;
        if kind == [0] && found.is_none() {
            found = std::str::from_utf8(name).ok().filter(|name| is_host_name(name));
        }
    }
    Some(found.map(|name| name.to_ascii_lowercase().into_boxed_str()))
}

fn is_host_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(legal)
}

/// RFC 7301 §3.1.
fn read_alpn(mut body: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut names = Reader(body.long_vector()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.short_vector()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(Box::from(name));
    }
    Some(protocols)
}

/// Takes bytes from the front; `None` when there are not enough.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// A vector whose length stands before it in one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let (&len, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(len))
    }

    /// A vector whose length stands before it in two bytes.
    fn long_vector(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests;
