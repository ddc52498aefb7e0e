//! Filters of rules and of backends. Gateway API's generated types differ only in their names.

use std::collections::BTreeSet;

use gateway_api::experimental::httproutes as api;
use http::header::HOST;
use http::{HeaderName, HeaderValue};
use weft_model::route::{HeaderModifier, HttpFilter, is_reserved_header};

use crate::problem::Problem;

/// A filter, whichever of the generated types it had.
struct Written<'a> {
    kind: String,
    request: Option<Modifier<'a>>,
    response: Option<Modifier<'a>>,
}

/// A header modifier, whichever of the generated types it had.
#[derive(Default)]
struct Modifier<'a> {
    set: Vec<(&'a str, &'a str)>,
    add: Vec<(&'a str, &'a str)>,
    remove: Vec<&'a str>,
}

macro_rules! modifier {
    ($written:expr) => {
        $written.as_ref().map(|m| Modifier {
            set: m.set.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
            add: m.add.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
            remove: m.remove.iter().flatten().map(String::as_str).collect(),
        })
    };
}

macro_rules! written {
    ($filter:expr) => {
        Written {
            kind: format!("{:?}", $filter.r#type),
            request: modifier!($filter.request_header_modifier),
            response: modifier!($filter.response_header_modifier),
        }
    };
}

/// The filters of a rule; each that cannot be honoured adds a problem.
pub(super) fn rule_filters(
    filters: &[api::HttpRouteRulesFilters],
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<HttpFilter> {
    all(filters.iter().map(|f| written!(f)), field, "the rule answers 500", problems)
}

/// The filters of a backend; each that cannot be honoured adds a problem.
pub(super) fn backend_filters(
    filters: &[api::HttpRouteRulesBackendRefsFilters],
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<HttpFilter> {
    all(filters.iter().map(|f| written!(f)), field, "its share is answered 500", problems)
}

fn all<'a>(
    filters: impl Iterator<Item = Written<'a>>,
    field: &str,
    consequence: &str,
    problems: &mut Vec<Problem>,
) -> Vec<HttpFilter> {
    let mut read = Vec::new();
    for (i, filter) in filters.enumerate() {
        match one(&filter) {
            Ok(filter) => read.push(filter),
            Err(message) => {
                problems.push(Problem::refused(format!("{field}.filters[{i}]"), format!("{message}; {consequence}")));
            }
        }
    }
    read
}

fn one(filter: &Written<'_>) -> Result<HttpFilter, String> {
    match (filter.kind.as_str(), &filter.request, &filter.response) {
        ("RequestHeaderModifier", Some(modifier), _) => header_modifier(modifier).map(HttpFilter::RequestHeaders),
        ("ResponseHeaderModifier", _, Some(modifier)) => header_modifier(modifier).map(HttpFilter::ResponseHeaders),
        ("RequestHeaderModifier" | "ResponseHeaderModifier", _, _) => {
            Err("the filter of its type is missing".to_owned())
        }
        (kind, _, _) => Err(format!("{kind} is not supported")),
    }
}

fn header_modifier(written: &Modifier<'_>) -> Result<HeaderModifier, String> {
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
    // the other (RFC 9113 §8.3.1).
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
