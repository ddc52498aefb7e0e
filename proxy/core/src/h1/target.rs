//! The request target and its authority (RFC 9112 §3.2).

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderValue, Method};

use super::TARGET_BYTES_MAX;
use super::error::HeadError;

/// How the target was written; it is passed on in the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// `http://host/path`: what a client says to a forward proxy, which may be the application behind us.
    Absolute,
    /// `*`, for OPTIONS only.
    Asterisk,
    /// `host:port`, for CONNECT only.
    Authority,
    /// `/path?query`.
    Origin,
}

/// Reads a target. The result holds every byte of it: what was judged is what is forwarded.
pub(crate) fn parse(method: &Method, target: Bytes) -> Result<(TargetForm, Uri), HeadError> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(HeadError::TargetTooLong);
    }
    if method == Method::CONNECT {
        return Ok((TargetForm::Authority, authority(target)?));
    }
    if target.starts_with(b"/") {
        let path = path_and_query(target)?;
        return Ok((TargetForm::Origin, Uri::from(path)));
    }
    if *target == *b"*" {
        let form = if method == Method::OPTIONS { Ok(TargetForm::Asterisk) } else { Err(HeadError::TargetForm) };
        return Ok((form?, Uri::from(PathAndQuery::from_static("*"))));
    }
    absolute(target)
}

/// Refuses a fragment: `http` would drop it silently, and programs differ on where the path ends (RFC 9112 §3.2.1).
fn path_and_query(target: Bytes) -> Result<PathAndQuery, HeadError> {
    let len = target.len();
    match PathAndQuery::from_maybe_shared(target) {
        Ok(path) if path.as_str().len() == len => Ok(path),
        Ok(_) | Err(_) => Err(HeadError::TargetInvalid),
    }
}

fn authority(target: Bytes) -> Result<Uri, HeadError> {
    let Some((host, Some(_))) = split_host(&target) else {
        let looks_other = target.starts_with(b"/") || target.contains(&b'/') || *target == *b"*";
        return Err(if looks_other { HeadError::TargetForm } else { HeadError::TargetInvalid });
    };
    if host.is_empty() {
        return Err(HeadError::TargetInvalid);
    }
    match Authority::from_maybe_shared(target) {
        Ok(authority) => Ok(Uri::from(authority)),
        Err(_) => Err(HeadError::TargetInvalid),
    }
}

fn absolute(target: Bytes) -> Result<(TargetForm, Uri), HeadError> {
    if target.contains(&b'#') {
        return Err(HeadError::TargetInvalid);
    }
    let separated = target.windows(3).any(|bytes| bytes == b"://");
    let Ok(uri) = Uri::from_maybe_shared(target) else {
        return Err(HeadError::TargetInvalid);
    };
    match (uri.scheme(), uri.authority()) {
        // RFC 9110 §4.2.4: user information in a target is an error, it is used to disguise the host.
        (Some(_), Some(authority))
            if split_host(authority.as_str().as_bytes()).is_some_and(|(host, _)| !host.is_empty()) =>
        {
            Ok((TargetForm::Absolute, uri))
        }
        _ if separated => Err(HeadError::TargetInvalid),
        _ => Err(HeadError::TargetForm),
    }
}

/// Checks `Host`: empty (the target has no authority, RFC 9110 §7.2), or a host with an optional port.
pub(crate) fn is_host(value: &[u8]) -> bool {
    value.is_empty() || names_host(value)
}

/// Whether the value of `Host` names one, with an optional port. HTTP/2 allows nothing else there (RFC 9113 §8.3.1).
pub fn names_host(value: &[u8]) -> bool {
    split_host(value).is_some_and(|(host, _)| !host.is_empty())
}

/// Checks that `Host` says what the target says. The scheme's own port may be left out on either side; for CONNECT, a
/// `Host` without port is common and compared without.
pub(crate) fn check_agreement(form: TargetForm, uri: &Uri, host: Option<&HeaderValue>) -> Result<(), HeadError> {
    let (Some(authority), Some(host)) = (uri.authority(), host) else { return Ok(()) };
    let default_port = match (form, uri.scheme_str()) {
        (TargetForm::Authority, _) => authority.port_u16(),
        (_, Some("http")) => Some(80),
        (_, Some("https")) => Some(443),
        _ => None,
    };
    let (Some((target_host, target_port)), Some((host, port))) =
        (split_host(authority.as_str().as_bytes()), split_host(host.as_bytes()))
    else {
        return Err(HeadError::HostMismatch);
    };
    let same = target_host.eq_ignore_ascii_case(host) && target_port.or(default_port) == port.or(default_port);
    if same { Ok(()) } else { Err(HeadError::HostMismatch) }
}

/// Splits `uri-host [ ":" port ]` (RFC 3986 §3.2), or `None` where it is none: user information, path, white space,
/// controls, a comma (some join two `Host` fields with it), a port that is none. An empty port counts as absent.
pub(crate) fn split_host(value: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, port) = if let Some(literal) = value.strip_prefix(b"[") {
        let end = literal.iter().position(|byte| *byte == b']')?;
        let address = std::str::from_utf8(literal.get(..end)?).ok()?;
        address.parse::<Ipv6Addr>().ok()?;
        value.split_at_checked(end + 2)?
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let (host, port) = value.split_at_checked(end)?;
        host.iter().all(|byte| is_reg_name(*byte)).then_some((host, port))?
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(b":")?;
    if digits.is_empty() {
        return Some((host, None));
    }
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((host, Some(std::str::from_utf8(digits).ok()?.parse().ok()?)))
}

/// `reg-name` of RFC 3986 §3.2.2, without the comma.
const fn is_reg_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        )
}
