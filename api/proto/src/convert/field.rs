//! Single fields: what all messages share.

#![expect(clippy::map_err_ignore, reason = "the field's text, which is shown, says more than a parser's error")]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use weft_model::identity::{is_dns_label, is_dns_subdomain};
use weft_model::service::AppProtocol;
use weft_model::{PolicyId, ServiceKey, WorkloadName};

use super::{Invalid, Problem, bounds};
use crate::proxy::v1 as wire;

/// Says where in the enclosing message an error is.
pub(super) trait At<T> {
    fn at(self, field: &str) -> Result<T, Invalid>;
}

impl<T> At<T> for Result<T, Invalid> {
    fn at(self, field: &str) -> Self {
        self.map_err(|invalid| invalid.under(field))
    }
}

pub(super) fn required<T>(value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Problem::Missing.into())
}

/// Converts each item; an error says which.
pub(super) fn list<W, M>(
    items: Vec<W>,
    max: usize,
    mut convert: impl FnMut(W) -> Result<M, Invalid>,
) -> Result<Vec<M>, Invalid> {
    if items.len() > max {
        return Err(Problem::TooMany { count: items.len(), max }.into());
    }
    items.into_iter().enumerate().map(|(i, item)| convert(item).map_err(|e| e.under(&format!("[{i}]")))).collect()
}

/// Refuses what has the key of an item before it.
pub(super) fn distinct<'a, T, K: Ord + Display>(items: &'a [T], key: impl Fn(&'a T) -> K) -> Result<(), Invalid> {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        if let Some(again) = seen.replace(key(item)) {
            return Err(Invalid::from(Problem::Duplicate(again.to_string())).under(&format!("[{i}]")));
        }
    }
    Ok(())
}

/// What of a text is put into an error, and how a reason is cut: at a character, never within one.
pub(super) fn shown(s: &str, bytes_max: usize) -> String {
    let end = (0..=bytes_max.min(s.len())).rev().find(|end| s.is_char_boundary(*end)).unwrap_or_default();
    s.get(..end).unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const SHOWN_BYTES_MAX: usize = 128;

fn problem(kind: impl FnOnce(String) -> Problem, s: &str) -> Invalid {
    kind(shown(s, SHOWN_BYTES_MAX)).into()
}

pub(super) fn not_longer(bytes: usize, max: usize) -> Result<(), Invalid> {
    if bytes > max { Err(Problem::TooLong { bytes, max }.into()) } else { Ok(()) }
}

pub(super) fn text(s: String, bytes_max: usize) -> Result<String, Invalid> {
    not_longer(s.len(), bytes_max)?;
    if s.chars().any(char::is_control) { Err(problem(Problem::Text, &s)) } else { Ok(s) }
}

/// A text whose empty form means that there is none.
pub(super) fn optional_text(s: String, bytes_max: usize) -> Result<Option<Arc<str>>, Invalid> {
    Ok(Some(text(s, bytes_max)?).filter(|s| !s.is_empty()).map(Arc::from))
}

pub(super) fn range<T: TryFrom<u64>>(value: impl Into<u64>, min: u64, max: u64) -> Result<T, Invalid> {
    let value = value.into();
    let out = || Problem::Range { value, min, max };
    if !(min..=max).contains(&value) {
        return Err(out().into());
    }
    T::try_from(value).map_err(|_| out().into())
}

pub(super) fn port(value: u32) -> Result<u16, Invalid> {
    range(value, 1, u64::from(u16::MAX))
}

/// A duration of `min` milliseconds or more.
pub(super) fn duration(value_ms: u64, min_ms: u64, max: Duration) -> Result<Duration, Invalid> {
    range(value_ms, min_ms, ms(max)).map(Duration::from_millis)
}

/// Whole milliseconds, rounded up: a short deadline must not become none.
pub(super) fn ms(duration: Duration) -> u64 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

pub(super) fn dns_label(s: String) -> Result<Arc<str>, Invalid> {
    if is_dns_label(&s) { Ok(Arc::from(s)) } else { Err(problem(Problem::DnsLabel, &s)) }
}

pub(super) fn dns_name(s: String) -> Result<Arc<str>, Invalid> {
    if is_dns_subdomain(&s) { Ok(Arc::from(s)) } else { Err(problem(Problem::DnsName, &s)) }
}

/// An address as a key: canonical (an IPv4-mapped IPv6 address becomes IPv4), any port, 0 too.
pub(super) fn socket_addr(s: &str) -> Result<SocketAddr, Invalid> {
    let addr: SocketAddr = s.parse().map_err(|_| problem(Problem::Address, s))?;
    match addr {
        // A zone means something on one machine only.
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(problem(Problem::Address, s)),
        _ => Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
    }
}

pub(super) fn ip(s: &str) -> Result<IpAddr, Invalid> {
    s.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| problem(Problem::Address, s))
}

/// An address that traffic may be sent to: one host.
pub(super) fn unicast(s: &str) -> Result<SocketAddr, Invalid> {
    let addr = socket_addr(s)?;
    let broadcast = matches!(addr.ip(), IpAddr::V4(v4) if v4.is_broadcast());
    if addr.ip().is_unspecified() || addr.ip().is_multicast() || broadcast {
        return Err(problem(Problem::Address, s));
    }
    Ok(addr)
}

pub(super) fn method(s: &str) -> Result<Method, Invalid> {
    not_longer(s.len(), bounds::METHOD_BYTES_MAX)?;
    Method::from_bytes(s.as_bytes()).map_err(|_| problem(Problem::Method, s))
}

pub(super) fn header_name(s: &str) -> Result<HeaderName, Invalid> {
    not_longer(s.len(), bounds::FIELD_NAME_BYTES_MAX)?;
    HeaderName::from_bytes(s.as_bytes()).map_err(|_| problem(Problem::HeaderName, s))
}

pub(super) fn path(s: String) -> Result<Arc<str>, Invalid> {
    not_longer(s.len(), bounds::PATH_BYTES_MAX)?;
    if s.starts_with('/') && !s.chars().any(char::is_control) {
        Ok(Arc::from(s))
    } else {
        Err(problem(Problem::Path, &s))
    }
}

/// A value of a generated enum; one that is not known is refused.
pub(super) fn known<E: TryFrom<i32>>(value: i32, name: &'static str) -> Result<E, Invalid> {
    E::try_from(value).map_err(|_| Problem::UnknownValue { name, value }.into())
}

pub(super) fn protocol(value: i32) -> Result<AppProtocol, Invalid> {
    Ok(match known(value, "AppProtocol")? {
        wire::AppProtocol::Undeclared => AppProtocol::Undeclared,
        wire::AppProtocol::Http => AppProtocol::Http,
        wire::AppProtocol::Http2 => AppProtocol::Http2,
        wire::AppProtocol::Grpc => AppProtocol::Grpc,
        wire::AppProtocol::Opaque => AppProtocol::Opaque,
    })
}

impl From<AppProtocol> for wire::AppProtocol {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Grpc => Self::Grpc,
            AppProtocol::Http => Self::Http,
            AppProtocol::Http2 => Self::Http2,
            AppProtocol::Opaque => Self::Opaque,
            AppProtocol::Undeclared => Self::Undeclared,
        }
    }
}

impl TryFrom<wire::ServiceKey> for ServiceKey {
    type Error = Invalid;

    fn try_from(key: wire::ServiceKey) -> Result<Self, Invalid> {
        let wire::ServiceKey { namespace, name, port: number } = key;
        Ok(Self {
            namespace: dns_label(namespace).at("namespace")?,
            name: dns_label(name).at("name")?,
            port: port(number).at("port")?,
        })
    }
}

impl From<&ServiceKey> for wire::ServiceKey {
    fn from(key: &ServiceKey) -> Self {
        let ServiceKey { namespace, name, port } = key;
        Self { namespace: namespace.to_string(), name: name.to_string(), port: u32::from(*port) }
    }
}

impl TryFrom<wire::WorkloadName> for WorkloadName {
    type Error = Invalid;

    fn try_from(workload: wire::WorkloadName) -> Result<Self, Invalid> {
        let wire::WorkloadName { namespace, name } = workload;
        Ok(Self { namespace: dns_label(namespace).at("namespace")?, name: dns_name(name).at("name")? })
    }
}

impl From<&WorkloadName> for wire::WorkloadName {
    fn from(workload: &WorkloadName) -> Self {
        let WorkloadName { namespace, name } = workload;
        Self { namespace: namespace.to_string(), name: name.to_string() }
    }
}

impl TryFrom<wire::PolicyId> for PolicyId {
    type Error = Invalid;

    fn try_from(id: wire::PolicyId) -> Result<Self, Invalid> {
        let wire::PolicyId { kind, namespace, name } = id;
        let is_kind = !kind.is_empty() && kind.len() <= 63 && kind.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_kind {
            return Err(problem(Problem::Text, &kind)).at("kind");
        }
        // What holds for the whole cluster has no namespace.
        if !namespace.is_empty() && !is_dns_label(&namespace) {
            return Err(problem(Problem::DnsLabel, &namespace)).at("namespace");
        }
        Ok(Self::new(&kind, &namespace, &dns_name(name).at("name")?))
    }
}

impl From<&PolicyId> for wire::PolicyId {
    fn from(id: &PolicyId) -> Self {
        Self { kind: id.kind().to_owned(), namespace: id.namespace().to_owned(), name: id.name().to_owned() }
    }
}
