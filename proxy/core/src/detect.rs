//! What a connection speaks, from its first bytes. Pure; the caller reads, waits and gives up.
//!
//! Nothing here is authoritative for security: a client may say anything. Where an HTTP policy applies to a port the
//! caller must not let [`Detected::Opaque`] slip past it (semantics 15).

#![warn(clippy::indexing_slicing)]

/// How many first bytes are looked at before a connection is taken as bytes. A request line that does not end within
/// the first 8 KiB is answered by no server we know.
pub const DETECT_BYTES_MAX: usize = 8 * 1024;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// None of the others.
    Opaque,
    /// A TLS record that begins a ClientHello.
    Tls,
}

/// What can be said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detection {
    /// It is decided; more bytes would not change it.
    Found(Detected),
    /// Every byte so far could begin something known; read more.
    NeedMore,
}

/// The HTTP/2 connection preface (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Decides by the first bytes of the client. `bytes` is everything since the connection began.
///
/// **Cost:** one pass over a request line at most; no allocation. Never [`Detection::NeedMore`] from
/// [`DETECT_BYTES_MAX`] bytes on.
pub fn detect(bytes: &[u8]) -> Detection {
    for probe in [http2, tls, http1] {
        match probe(bytes) {
            Fit::Is(found) => return Detection::Found(found),
            Fit::MayBecome if bytes.len() < DETECT_BYTES_MAX => return Detection::NeedMore,
            Fit::MayBecome | Fit::Not => {}
        }
    }
    Detection::Found(Detected::Opaque)
}

/// Whether bytes that the server sent before its client said anything show a protocol in which servers speak first.
///
/// HTTP/2 servers may send SETTINGS at once, and HTTP/1 servers a 408 to a silent client: neither is evidence, nor is
/// anything too short to tell (semantics 14).
pub fn server_first_evidence(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !agrees(bytes, b"HTTP/1.") && !may_begin_http2_frames(bytes)
}

enum Fit {
    Is(Detected),
    MayBecome,
    Not,
}

fn http2(bytes: &[u8]) -> Fit {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Fit::Is(Detected::Http2);
    }
    // Up to here the preface and a request with the method `PRI` look alike, and both need more.
    if HTTP2_PREFACE.starts_with(bytes) { Fit::MayBecome } else { Fit::Not }
}

/// A handshake record (22) of any version 3.x, not longer than a record may be, whose first message is a ClientHello
/// (1). RFC 8446 §5.1, §4.
fn tls(bytes: &[u8]) -> Fit {
    let mut rest = bytes.iter().copied();
    let legal: [fn(u8) -> bool; 4] = [|b| b == 22, |b| b == 3, |b| b <= 4, |b| b <= 0x40];
    for is_legal in legal {
        match rest.next() {
            None => return Fit::MayBecome,
            Some(b) if is_legal(b) => {}
            Some(_) => return Fit::Not,
        }
    }
    match (rest.next(), rest.next()) {
        (_, None) => Fit::MayBecome,
        (Some(_), Some(1)) => Fit::Is(Detected::Tls),
        (_, Some(_)) => Fit::Not,
    }
}

/// `method SP target SP "HTTP/1."`: a method may be any token (RFC 9110 §5.6.2), a target begins as one of the four
/// forms does (RFC 9112 §3.2). The version is what makes it HTTP: many line protocols have a verb and an argument.
fn http1(bytes: &[u8]) -> Fit {
    let method_len = bytes.iter().take_while(|&&b| is_token(b)).count();
    let (method, rest) = bytes.split_at_checked(method_len).unwrap_or((bytes, &[]));
    if method.len() > METHOD_BYTES_MAX || (method.is_empty() && !rest.is_empty()) {
        return Fit::Not;
    }
    let Some((&separator, rest)) = rest.split_first() else { return Fit::MayBecome };
    let Some(&first) = rest.first() else {
        return if separator == b' ' { Fit::MayBecome } else { Fit::Not };
    };
    let begins_target = matches!(first, b'/' | b'*' | b'[') || first.is_ascii_alphanumeric();
    if separator != b' ' || !begins_target {
        return Fit::Not;
    }
    let target_len = rest.iter().take_while(|&&b| b > b' ' && b != 0x7f).count();
    let Some((&separator, version)) = rest.get(target_len..).and_then(<[u8]>::split_first) else {
        return Fit::MayBecome;
    };
    if separator != b' ' || !agrees(version, b"HTTP/1.") {
        return Fit::Not;
    }
    if version.len() >= b"HTTP/1.".len() { Fit::Is(Detected::Http1) } else { Fit::MayBecome }
}

/// The longest registered method has 17 bytes (`UPDATEREDIRECTREF`); more room for private ones.
const METHOD_BYTES_MAX: usize = 32;

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Whether one of the two begins with the other.
fn agrees(bytes: &[u8], word: &[u8]) -> bool {
    bytes.starts_with(word) || word.starts_with(bytes)
}

/// Whether `bytes` may be the start of what an HTTP/2 server sends first: SETTINGS (4), or GOAWAY (7) from one that
/// gives up at once; on stream 0, within the default frame size (RFC 9113 §4.1, §6.5, §6.8).
fn may_begin_http2_frames(bytes: &[u8]) -> bool {
    let at = |i: usize| bytes.get(i).copied();
    let size = match (at(0), at(1), at(2)) {
        (Some(0), Some(high), Some(low)) if high <= 0x40 => Some(u16::from_be_bytes([high, low])),
        (Some(0) | None, None, _) | (Some(0), Some(0..=0x40), None) => None,
        _ => return false,
    };
    let (kind, flags) = (at(3), at(4));
    let kind_fits = match (kind, size) {
        (None, _) => true,
        (Some(4), Some(size)) => size % 6 == 0 && flags.is_none_or(|flags| flags <= 1),
        (Some(7), Some(size)) => size >= 8,
        _ => false,
    };
    kind_fits && bytes.iter().skip(5).take(4).all(|&b| b == 0)
}

#[cfg(test)]
mod tests;
