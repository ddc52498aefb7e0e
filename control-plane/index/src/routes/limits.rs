//! Whether an answer has room for a rule. One that has none for it refuses the route as a whole, so that the last good
//! version stays in force: a proxy would refuse the service's whole answer, with everybody else's routes in it.

use weft_model::bounds::{
    BACKENDS_MAX, FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX, FILTERS_MAX, MATCH_FIELDS_MAX, MATCHES_MAX,
    MODIFIED_HEADERS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX,
};
use weft_model::route::{HeaderModifier, HttpFilter, HttpMatch, PathMatch, PathModifier, Redirect, Rewrite};

use super::RuleEntry;
use crate::read::{at_most, plain};

type At = Result<(), (&'static str, String)>;

fn at(field: &'static str, fits: Result<(), String>) -> At {
    fits.map_err(|message| (field, message))
}

/// Whether a rule fits; else which of its fields does not, and why.
pub(super) fn check(entry: &RuleEntry) -> At {
    let rule = &entry.rule;
    at("name", plain(rule.name.as_deref().unwrap_or_default(), NAME_BYTES_MAX))?;
    at("matches", at_most(rule.matches.len(), MATCHES_MAX))?;
    rule.matches.iter().try_for_each(check_match)?;
    at("filters", check_filters(&rule.filters))?;
    at("backendRefs", at_most(entry.backends.len(), BACKENDS_MAX))?;
    entry.backends.iter().try_for_each(|backend| at("backendRefs", check_filters(&backend.filters)))
}

fn check_match(matched: &HttpMatch) -> At {
    if let Some(PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::GrpcMethod(path)) = &matched.path {
        at("matches", plain(path, PATH_BYTES_MAX).map_err(|why| format!("path: {why}")))?;
    }
    let pair = |kind: &str, name: &str, value: &str| {
        let name_fits = plain(name, FIELD_NAME_BYTES_MAX);
        let name_fits = if name.is_empty() { Err("the name is empty".to_owned()) } else { name_fits };
        name_fits.and_then(|()| plain(value, FIELD_VALUE_BYTES_MAX)).map_err(|why| format!("{kind}: {why}"))
    };
    at("matches", at_most(matched.headers.len(), MATCH_FIELDS_MAX).map_err(|why| format!("headers: {why}")))?;
    at("matches", at_most(matched.query.len(), MATCH_FIELDS_MAX).map_err(|why| format!("queryParams: {why}")))?;
    matched.headers.iter().try_for_each(|h| at("matches", pair("headers", h.name.as_str(), &h.value)))?;
    matched.query.iter().try_for_each(|q| at("matches", pair("queryParams", &q.name, &q.value)))
}

fn check_filters(filters: &[HttpFilter]) -> Result<(), String> {
    at_most(filters.len(), FILTERS_MAX).map_err(|why| format!("filters: {why}"))?;
    filters.iter().try_for_each(|filter| match filter {
        HttpFilter::RequestHeaders(modifier) | HttpFilter::ResponseHeaders(modifier) => check_modifier(modifier),
        HttpFilter::Rewrite(Rewrite { path, .. }) | HttpFilter::Redirect(Redirect { path, .. }) => match path {
            Some(PathModifier::Full(path) | PathModifier::Prefix(path)) => {
                plain(path, PATH_BYTES_MAX).map_err(|why| format!("filters: path: {why}"))
            }
            None => Ok(()),
        },
    })
}

fn check_modifier(modifier: &HeaderModifier) -> Result<(), String> {
    let HeaderModifier { set, add, remove } = modifier;
    [set.len(), add.len(), remove.len()].into_iter().try_for_each(|count| at_most(count, MODIFIED_HEADERS_MAX))?;
    let names = set.iter().chain(add).map(|(name, _)| name).chain(remove);
    names.into_iter().try_for_each(|name| plain(name.as_str(), FIELD_NAME_BYTES_MAX))?;
    for (_, value) in set.iter().chain(add) {
        if value.len() > FIELD_VALUE_BYTES_MAX {
            return Err(format!("a value of {} bytes is longer than {FIELD_VALUE_BYTES_MAX}", value.len()));
        }
    }
    Ok(())
}
