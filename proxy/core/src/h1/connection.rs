//! Fields that speak about one connection and end there (RFC 9110 §7.6.1, §7.8, §10.1.4).

use http::{HeaderName, HeaderValue};

use super::Persistence;

/// The members of a comma-separated field value, trimmed, without the empty ones (RFC 9110 §5.6.1).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether a field belongs to one connection and is written by the codec, never taken from a map.
///
/// `TE` is not among them: its one value that may travel, `trailers`, also travels in HTTP/2 (RFC 9113 §8.2.2).
pub fn is_connection_field(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "http2-settings" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

/// What `Connection` said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// What it asks for; `close` wins over `keep-alive` (RFC 9112 §9.3).
    pub(crate) persistence: Option<Persistence>,
    /// It names fields that must be removed.
    pub(crate) names_fields: bool,
    pub(crate) upgrade: bool,
}

impl Options {
    /// Adds one field's value.
    pub(crate) fn note(&mut self, value: &[u8]) {
        for option in list_members(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.persistence = Some(Persistence::Close);
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.persistence.get_or_insert(Persistence::KeepAlive);
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.names_fields = true;
            }
        }
    }
}

/// Whether `Connection` may remove the field. It may not remove what routes or frames the message: a peer that could
/// would choose how the next reader sees it. `TE` was dealt with on its own.
pub(crate) fn is_removable(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "content-length" | "host" | "te")
}

/// `value` without the protocols for which `keep` says no; `None` when none is left.
pub(crate) fn retain_protocols(value: HeaderValue, keep: impl Fn(&[u8]) -> bool) -> Option<HeaderValue> {
    if list_members(value.as_bytes()).all(&keep) && !value.is_empty() {
        return Some(value);
    }
    let kept: Vec<&[u8]> = list_members(value.as_bytes()).filter(|protocol| keep(protocol)).collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok()
}

/// Whether an upgrade would change to HTTP/2 in the middle of a connection: never passed on (semantics.md 18), since
/// the bytes after it would escape every rule that is applied to requests.
pub(crate) fn is_http2(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"h2c") || protocol.eq_ignore_ascii_case(b"h2")
}
