//! What reading a resource yields, and the small readers that several kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_crds::Selector;

use crate::problem::Problem;

/// What reading a resource yielded.
pub(crate) struct Read<E> {
    /// What is meant, if it can be understood; otherwise what was understood before stays.
    pub(crate) entry: Option<E>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

impl<E> Read<E> {
    pub(crate) fn refused(problem: Problem) -> Self {
        Self { entry: None, problems: vec![problem] }
    }
}

/// Whether a list is short enough for an answer; else what is wrong with it.
pub(crate) fn at_most(count: usize, max: usize) -> Result<(), String> {
    if count > max { Err(format!("{count} of them are more than {max}")) } else { Ok(()) }
}

/// Whether a text is short enough for an answer, and only a text; else what is wrong with it.
pub(crate) fn plain(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!("{} bytes are longer than {bytes_max}", text.len()));
    }
    if text.chars().any(char::is_control) { Err("has control characters".to_owned()) } else { Ok(()) }
}

/// When a resource was created, in seconds since 1970; 0 where nothing says so.
pub(crate) fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Whether labels carry everything that is asked for. Nothing asked for selects everything.
pub(crate) fn selects(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// As [`selects`], for a selector that may be absent.
pub(crate) fn selector_selects(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    selects(&selector.match_labels, labels)
}

/// A port number, 1 to 65535.
pub(crate) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// An address to which a connection can be opened: neither unspecified nor multicast, broadcast or link-local.
pub(crate) fn dialable(text: &str) -> Result<IpAddr, String> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(format!("{:?} is not an IP address", text.chars().take(64).collect::<String>()));
    };
    let ip = ip.to_canonical();
    let reserved = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if reserved || ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("{ip} is not an address that a connection can be opened to"));
    }
    Ok(ip)
}
