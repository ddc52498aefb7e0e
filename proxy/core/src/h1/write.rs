//! Heads to bytes. Framing and connection fields are written from the head's facts, whatever the map holds.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, StatusCode};

use super::head::{RequestHead, ResponseHead};
use super::is_bodyless;
use super::spelling::Spelling;
use super::target::TargetForm;
use super::{BodyLength, Persistence, Version, is_connection_field};

/// The longest 64-bit number in decimal.
const DECIMAL_DIGITS_MAX: usize = 20;

/// How a response was written, for the body behind it and for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// How to write the body.
    pub body: BodyLength,
    /// What the connection does after it.
    pub persistence: Persistence,
}

/// Writes a request's head, in the client's version and form of target. The body goes through a
/// [`super::BodyEncoder`] of `head.body`.
///
/// `persistence` is about the connection that is written to, not the one that the request came from.
pub fn write_request(head: &RequestHead, persistence: Persistence, out: &mut BytesMut) {
    out.reserve(size_hint(&head.headers));
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    write_target(head, out);
    out.put_slice(match head.version {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 => b" HTTP/1.1\r\n",
    });
    let length = match head.body {
        BodyLength::Known(length) => LengthField::Number(length),
        BodyLength::Chunked | BodyLength::None | BodyLength::UntilClose => LengthField::Absent,
    };
    write_fields(&head.headers, &head.spelling, length, out);
    if head.body == BodyLength::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let upgrade = head.upgrade.as_ref().filter(|_| head.version == Version::Http11);
    let te = head.headers.contains_key(TE) && head.version == Version::Http11;
    let option = match (persistence, head.version) {
        (Persistence::Close, Version::Http11) => Some("close"),
        (Persistence::KeepAlive, Version::Http10) => Some("keep-alive"),
        (Persistence::Close, Version::Http10) | (Persistence::KeepAlive, Version::Http11) => None,
    };
    write_connection(out, [option.filter(|_| upgrade.is_none()), upgrade.map(|_| "Upgrade"), te.then_some("TE")]);
    if let Some(upgrade) = upgrade {
        field(out, b"Upgrade", upgrade.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// Writes the head of a final response, or of 101, for a client that spoke `client`.
///
/// A body without a known end becomes chunked for HTTP/1.1, so that the client can tell an end from a cut and keeps
/// its connection; a chunked one ends with the connection for HTTP/1.0, which knows no chunks.
pub fn write_response(head: &ResponseHead, client: Version, persistence: Persistence, out: &mut BytesMut) -> Outgoing {
    let body = match (head.body, client) {
        (BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
        (BodyLength::Chunked, Version::Http10) => BodyLength::UntilClose,
        (body, _) => body,
    };
    let persistence = if body == BodyLength::UntilClose { Persistence::Close } else { persistence };
    out.reserve(size_hint(&head.headers) + head.reason.len());
    write_status(head, out);
    let length = match body {
        BodyLength::Known(length) => LengthField::Number(length),
        // The length that GET would have had (RFC 9110 §8.6), but never where none may stand.
        BodyLength::None if !head.is_tunnel && may_describe_length(head.status) => LengthField::FromMap,
        BodyLength::Chunked | BodyLength::None | BodyLength::UntilClose => LengthField::Absent,
    };
    write_fields(&head.headers, &head.spelling, length, out);
    if body == BodyLength::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let option = match (persistence, client) {
        _ if head.is_tunnel => None,
        // Also for HTTP/1.0, where closing is the default: the status line says 1.1, where it is not.
        (Persistence::Close, _) => Some("close"),
        (Persistence::KeepAlive, Version::Http10) => Some("keep-alive"),
        (Persistence::KeepAlive, Version::Http11) => None,
    };
    write_connection(out, [option, head.upgrade.as_ref().map(|_| "Upgrade"), None]);
    if let Some(upgrade) = &head.upgrade {
        field(out, b"Upgrade", upgrade.as_bytes());
    }
    out.put_slice(b"\r\n");
    Outgoing { body, persistence }
}

/// Writes an informational head (1xx but 101), or nothing for an HTTP/1.0 client, which must get none (RFC 9110 §15.2).
pub fn write_informational(head: &ResponseHead, client: Version, out: &mut BytesMut) {
    if client == Version::Http10 {
        return;
    }
    write_status(head, out);
    write_fields(&head.headers, &head.spelling, LengthField::Absent, out);
    out.put_slice(b"\r\n");
}

/// Writes `100 Continue` of our own, for when the proxy itself wants the body.
pub fn write_continue(out: &mut BytesMut) {
    out.put_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Writes one field line.
pub(crate) fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// What to write for `Content-Length`.
#[derive(Clone, Copy)]
enum LengthField {
    Absent,
    /// What the map says: it describes another message than this one.
    FromMap,
    Number(u64),
}

fn may_describe_length(status: StatusCode) -> bool {
    status == StatusCode::NOT_MODIFIED || !is_bodyless(status)
}

/// A guess that fits most heads: one growth of the buffer instead of several.
fn size_hint(headers: &HeaderMap) -> usize {
    128 + headers.len() * 48
}

fn write_target(head: &RequestHead, out: &mut BytesMut) {
    let uri = &head.uri;
    let authority = || uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let path = uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
    match head.form {
        TargetForm::Asterisk => out.put_u8(b'*'),
        TargetForm::Authority => out.put_slice(authority().as_bytes()),
        TargetForm::Absolute => {
            out.put_slice(uri.scheme_str().unwrap_or("http").as_bytes());
            out.put_slice(b"://");
            out.put_slice(authority().as_bytes());
            out.put_slice(path.as_bytes());
        }
        TargetForm::Origin => {
            // `http://host?query` has no path of its own (RFC 9112 §3.2.1: then it is `/`).
            if !path.starts_with('/') {
                out.put_u8(b'/');
            }
            out.put_slice(path.as_bytes());
        }
    }
}

fn write_status(head: &ResponseHead, out: &mut BytesMut) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(&head.reason);
    out.put_slice(b"\r\n");
}

fn write_fields(headers: &HeaderMap, spelling: &Spelling, length: LengthField, out: &mut BytesMut) {
    // A head that was not read from HTTP/1 has `Host` where the conversion put it; RFC 9110 §7.2 wants it first.
    let host_first = spelling.is_empty().then(|| headers.get(HOST)).flatten();
    if let Some(host) = host_first {
        field(out, b"Host", host.as_bytes());
    }
    let mut speller = spelling.speller();
    let mut length = length;
    for (name, value) in headers {
        if *name == CONTENT_LENGTH {
            match length {
                LengthField::Absent => {}
                LengthField::FromMap => {
                    field(out, speller.spell(name.as_str()), value.as_bytes());
                    length = LengthField::Absent;
                }
                LengthField::Number(number) => {
                    write_length(out, speller.spell(name.as_str()), number);
                    length = LengthField::Absent;
                }
            }
        } else if !is_connection_field(name) && (host_first.is_none() || *name != HOST) {
            field(out, speller.spell(name.as_str()), value.as_bytes());
        }
    }
    if let LengthField::Number(number) = length {
        write_length(out, b"Content-Length", number);
    }
}

fn write_length(out: &mut BytesMut, name: &[u8], number: u64) {
    let mut digits = [0_u8; DECIMAL_DIGITS_MAX];
    let mut left = number;
    let mut count = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        count += 1;
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(DECIMAL_DIGITS_MAX - count..).unwrap_or_default();
    field(out, name, digits);
}

/// Writes `Connection`, where there is something to say (RFC 9112 §9.3, RFC 9110 §7.6.1).
fn write_connection(out: &mut BytesMut, options: [Option<&str>; 3]) {
    let mut options = options.into_iter().flatten();
    let Some(first) = options.next() else { return };
    out.put_slice(b"Connection: ");
    out.put_slice(first.as_bytes());
    for option in options {
        out.put_slice(b", ");
        out.put_slice(option.as_bytes());
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
