//! Filters of rules and of backends.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderName, HeaderValue};
use weft_model::identity::is_dns_subdomain;
use weft_model::route::{
    FiltersOf, HeaderModifier, HttpFilter, PathModifier, REDIRECT_CODES, Redirect, Rewrite, UrlScheme,
    is_reserved_header, is_url_path,
};

use super::written;
use crate::problem::{Problem, Reason};
use crate::read::port;

/// What a redirect answers where nothing is said (Gateway API).
const REDIRECT_CODE: u16 = 302;

/// The filters of a rule or of a backend; each that cannot be honoured adds a problem, which names the `consequence`.
pub(super) fn read(
    filters: &[written::Filter<'_>],
    whose: FiltersOf<'_>,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<HttpFilter> {
    let consequence = match whose {
        FiltersOf::Rule(_) => "the rule answers 500",
        FiltersOf::Backend { .. } => "its share is answered 500",
    };
    let mut read = Vec::new();
    for (i, filter) in filters.iter().enumerate() {
        match one(filter) {
            Ok(filter) => read.push(filter),
            Err(message) => {
                problems.push(Problem::refused(format!("{field}.filters[{i}]"), format!("{message}; {consequence}")));
            }
        }
    }
    if let Some(why) = whose.contradiction(&read) {
        let problem = Problem::refused(format!("{field}.filters"), format!("{why}; {consequence}"));
        problems.push(problem.because(Reason::IncompatibleFilters));
    }
    read
}

fn one(filter: &written::Filter<'_>) -> Result<HttpFilter, String> {
    let missing = || "the filter of its type is missing".to_owned();
    match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            let headers = filter.request_headers.as_ref().ok_or_else(missing)?;
            header_modifier(headers).map(HttpFilter::RequestHeaders)
        }
        "ResponseHeaderModifier" => {
            let headers = filter.response_headers.as_ref().ok_or_else(missing)?;
            header_modifier(headers).map(HttpFilter::ResponseHeaders)
        }
        "UrlRewrite" => {
            let written::Rewrite { hostname: host, path } = filter.rewrite.as_ref().ok_or_else(missing)?;
            let path = path.as_ref().map(path_modifier).transpose()?;
            Ok(HttpFilter::Rewrite(Rewrite { hostname: host.map(hostname).transpose()?, path }))
        }
        "RequestRedirect" => redirect(filter.redirect.as_ref().ok_or_else(missing)?).map(HttpFilter::Redirect),
        kind => Err(format!("{kind} is not supported")),
    }
}

fn redirect(written: &written::Redirect<'_>) -> Result<Redirect, String> {
    let scheme = match written.scheme.as_deref() {
        None => None,
        Some("http") => Some(UrlScheme::Http),
        Some("https") => Some(UrlScheme::Https),
        Some(other) => return Err(format!("scheme {other:?} is neither http nor https")),
    };
    let number = match written.port {
        None => None,
        Some(number) => Some(port(number).ok_or_else(|| format!("{number} is not a port"))?),
    };
    let status = match written.status.as_deref() {
        None => REDIRECT_CODE,
        Some(text) => {
            let code = text.parse().ok().filter(|code| REDIRECT_CODES.contains(code));
            code.ok_or_else(|| format!("statusCode {text:?} is not one of 301, 302, 303, 307, 308"))?
        }
    };
    Ok(Redirect {
        scheme,
        hostname: written.hostname.map(hostname).transpose()?,
        path: written.path.as_ref().map(path_modifier).transpose()?,
        port: number,
        status,
    })
}

fn hostname(name: &str) -> Result<Arc<str>, String> {
    if is_dns_subdomain(name) { Ok(Arc::from(name)) } else { Err(format!("hostname {name:?} is not a DNS name")) }
}

fn path_modifier(written: &written::Path<'_>) -> Result<PathModifier, String> {
    let plain = |name: &str, path: &str| {
        if path.is_empty() || is_url_path(path) {
            return Ok(Arc::from(path));
        }
        Err(format!(
            "{name} {path:?} is not a path that begins with '/' and has one reading, or has characters that a URL encodes"
        ))
    };
    match (written.kind.as_str(), written.full, written.prefix) {
        // No path is written as none (RFC 9110 §4.2.3): "/" says the same.
        ("ReplaceFullPath", Some(""), _) => Ok(PathModifier::Full(Arc::from("/"))),
        ("ReplaceFullPath", Some(full), _) => plain("replaceFullPath", full).map(PathModifier::Full),
        ("ReplacePrefixMatch", _, Some(prefix)) => plain("replacePrefixMatch", prefix).map(PathModifier::Prefix),
        (kind, _, _) => Err(format!("the path of its type {kind} is missing")),
    }
}

fn header_modifier(written: &written::Headers<'_>) -> Result<HeaderModifier, String> {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| Ok((header(name)?, header_value(value)?))).collect::<Result<Vec<_>, String>>()
    };
    unreserved(HeaderModifier {
        set: pairs(&written.set)?,
        add: pairs(&written.add)?,
        remove: written.remove.iter().map(|name| header(name)).collect::<Result<_, _>>()?,
    })
}

/// A name that is one; whether it is a route's to change is another question.
fn header(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|e| format!("{:?}: {e}", name.chars().take(64).collect::<String>()))
}

/// Refuses a modifier of headers that are not a route's to change, by all their names.
fn unreserved(modifier: HeaderModifier) -> Result<HeaderModifier, String> {
    let named = modifier.set.iter().chain(&modifier.add).map(|(name, _)| name).chain(&modifier.remove);
    // A message has one authority, of which the host field is only one spelling; a filter that changed it would leave
    // the other (RFC 9113 §8.3.1). A rewrite changes both.
    let reserved: BTreeSet<&str> =
        named.filter(|name| is_reserved_header(name) || *name == HOST).map(HeaderName::as_str).collect();
    if reserved.is_empty() {
        return Ok(modifier);
    }
    let names = reserved.into_iter().collect::<Vec<_>>().join(", ");
    Err(format!("not a route's to change: {names}"))
}

fn header_value(value: &str) -> Result<HeaderValue, String> {
    value.parse::<HeaderValue>().map_err(|e| format!("{value:?}: {e}"))
}
