//! Names the cause of what `httparse` refused. It runs only for refused heads, so it may look at the bytes again.

use httparse::Error;

use super::error::HeadError;

/// The cause in a request head.
pub(crate) fn request(head: &[u8], error: Error) -> HeadError {
    match error {
        Error::HeaderName | Error::HeaderValue => fields(head),
        Error::NewLine => first_bad_field(head).unwrap_or(HeadError::RequestLineInvalid),
        Error::Status => HeadError::StatusLineInvalid,
        Error::Token | Error::Version => request_line(first_line(head)),
        Error::TooManyHeaders => HeadError::TooManyHeaders,
    }
}

/// The cause in a response head.
pub(crate) fn response(head: &[u8], error: Error) -> HeadError {
    match error {
        Error::HeaderName | Error::HeaderValue => fields(head),
        Error::NewLine => first_bad_field(head).unwrap_or(HeadError::StatusLineInvalid),
        Error::Status | Error::Token => HeadError::StatusLineInvalid,
        Error::TooManyHeaders => HeadError::TooManyHeaders,
        Error::Version if head.starts_with(b"HTTP/") => HeadError::VersionUnsupported,
        Error::Version => HeadError::StatusLineInvalid,
    }
}

/// The cause in a trailer section, which has no first line of another kind.
pub(crate) fn trailers(section: &[u8]) -> HeadError {
    bad_field_in(lines(section)).unwrap_or(HeadError::HeaderNameInvalid)
}

fn fields(head: &[u8]) -> HeadError {
    first_bad_field(head).unwrap_or(HeadError::HeaderNameInvalid)
}

fn first_line(head: &[u8]) -> &[u8] {
    lines(head).next().unwrap_or_default()
}

fn lines(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    section.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn request_line(line: &[u8]) -> HeadError {
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return HeadError::MethodInvalid;
    }
    match (words.next(), words.next(), words.next()) {
        // HTTP/0.9 had no version.
        (Some(target), None, _) if !target.is_empty() => HeadError::VersionUnsupported,
        (Some(target), Some(version), None) if !target.is_empty() && version.starts_with(b"HTTP/") => {
            if matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
                HeadError::TargetInvalid
            } else {
                HeadError::VersionUnsupported
            }
        }
        _ => HeadError::RequestLineInvalid,
    }
}

fn first_bad_field(head: &[u8]) -> Option<HeadError> {
    bad_field_in(lines(head).skip(1))
}

fn bad_field_in<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Option<HeadError> {
    lines.find_map(bad_field)
}

fn bad_field(line: &[u8]) -> Option<HeadError> {
    if line.is_empty() {
        return None;
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Some(HeadError::ObsFold);
    }
    if line.contains(&0) {
        return Some(HeadError::Nul);
    }
    if line.contains(&b'\r') {
        return Some(HeadError::BareCr);
    }
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let name = parts.next().unwrap_or_default();
    let value = parts.next();
    if value.is_some() && (name.ends_with(b" ") || name.ends_with(b"\t")) {
        return Some(HeadError::SpaceBeforeColon);
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Some(HeadError::HeaderNameInvalid);
    }
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    value?.iter().any(is_control).then_some(HeadError::ControlInValue)
}

/// `tchar` of RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}
