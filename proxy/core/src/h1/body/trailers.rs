//! The trailer section (RFC 9112 §7.1.2, RFC 9110 §6.5).

use bytes::BytesMut;
use http::{HeaderMap, HeaderName};
use httparse::Status;

use crate::h1::attempt::Attempt;
use crate::h1::error::{BodyError, HeadError};
use crate::h1::{HEADERS_MAX, TRAILER_BYTES_MAX, diagnose, fields, is_connection_field};

/// Whether a field may not stand in trailers: it frames, routes, authenticates or explains a content that was already
/// dealt with when it comes (RFC 9110 §6.5.1). Dropped, so that a reader who merges trailers into the head is not fooled.
pub(crate) fn is_forbidden(name: &HeaderName) -> bool {
    is_connection_field(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "expect"
                | "host"
                | "max-forwards"
                | "proxy-authorization"
                | "set-cookie"
                | "te"
                | "trailer"
        )
}

/// Takes the trailer section and its empty line off `buf`, or `None` when it is not complete. Announced or not makes no
/// difference.
pub(crate) fn read(buf: &mut BytesMut, attempt: &mut Attempt) -> Result<Option<HeaderMap>, BodyError> {
    let section = buf.get(..TRAILER_BYTES_MAX).unwrap_or(buf);
    if !attempt.is_due(section) {
        return wait_for_more(buf);
    }
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let (len, ranges) = match httparse::parse_headers(section, &mut slots) {
        Ok(Status::Complete((len, headers))) => (len, fields::ranges(section, headers)),
        Ok(Status::Partial) => {
            attempt.was_partial(section.len());
            return wait_for_more(buf);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(BodyError::TrailersTooLarge),
        Err(_) => return Err(BodyError::TrailerInvalid(diagnose::trailers(section))),
    };
    if has_lone_lf(section.get(..len).unwrap_or_default()) {
        // In a head a lone LF is read as a line's end and written as CRLF. Here it would move the end of the message.
        return Err(BodyError::TrailerInvalid(HeadError::BareLf));
    }
    let section = buf.split_to(len).freeze();
    let mut trailers = HeaderMap::with_capacity(ranges.len());
    for range in ranges {
        let name = HeaderName::from_bytes(range.name(&section))
            .or(Err(BodyError::TrailerInvalid(HeadError::HeaderNameInvalid)))?;
        if !is_forbidden(&name) {
            let value = range.shared_value(&section).map_err(BodyError::TrailerInvalid)?;
            trailers.try_append(name, value).or(Err(BodyError::TrailersTooLarge))?;
        }
    }
    Ok(Some(trailers))
}

fn has_lone_lf(section: &[u8]) -> bool {
    section.split_inclusive(|byte| *byte == b'\n').any(|line| line.ends_with(b"\n") && !line.ends_with(b"\r\n"))
}

fn wait_for_more(buf: &[u8]) -> Result<Option<HeaderMap>, BodyError> {
    if buf.len() >= TRAILER_BYTES_MAX { Err(BodyError::TrailersTooLarge) } else { Ok(None) }
}
