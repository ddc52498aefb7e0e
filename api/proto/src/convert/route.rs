//! Routes: matches, filters, backends.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use weft_model::policy::RetryPolicy;
use weft_model::route::{
    Backend, BackendTarget, FiltersOf, HeaderMatch, HeaderModifier, HttpFilter, HttpMatch, HttpRoute, HttpRule,
    PathMatch, PathModifier, QueryMatch, REDIRECT_CODES, Redirect, Rewrite, Timeouts, UrlScheme, is_reserved_header,
    is_url_path,
};
use weft_model::{PolicyId, ServiceKey};

use super::field::{
    At as _, distinct, dns_name, header_name, list, method, not_longer, optional_text, path, port, range, required,
    shown, text,
};
use super::{Invalid, Problem, bounds};
use crate::proxy::v1 as wire;

impl TryFrom<wire::HttpRoute> for HttpRoute {
    type Error = Invalid;

    fn try_from(route: wire::HttpRoute) -> Result<Self, Invalid> {
        let wire::HttpRoute { id, created, rules } = route;
        Ok(Self {
            id: required(id).and_then(PolicyId::try_from).at("id")?,
            created,
            rules: list(rules, bounds::RULES_MAX, HttpRule::try_from).at("rules")?,
        })
    }
}

impl From<&HttpRoute> for wire::HttpRoute {
    fn from(route: &HttpRoute) -> Self {
        let HttpRoute { id, created, rules } = route;
        Self { id: Some(id.into()), created: *created, rules: rules.iter().map(Into::into).collect() }
    }
}

impl TryFrom<wire::HttpRule> for HttpRule {
    type Error = Invalid;

    fn try_from(rule: wire::HttpRule) -> Result<Self, Invalid> {
        let wire::HttpRule { name, matches, filters, backends, timeouts, retry } = rule;
        let rule = Self {
            name: optional_text(name, bounds::NAME_BYTES_MAX).at("name")?,
            matches: list(matches, bounds::MATCHES_MAX, HttpMatch::try_from).at("matches")?,
            filters: list(filters, bounds::FILTERS_MAX, HttpFilter::try_from).at("filters")?,
            backends: list(backends, bounds::BACKENDS_MAX, Backend::try_from).at("backends")?,
            timeouts: Timeouts::try_from(timeouts.unwrap_or_default()).at("timeouts")?,
            retry: retry.map(RetryPolicy::try_from).transpose().at("retry")?,
        };
        let prefix = rule.only_prefix();
        agree(FiltersOf::Rule(prefix), &rule.filters)?;
        let whose = FiltersOf::Backend { prefix, rule: &rule.filters };
        rule.backends.iter().try_for_each(|backend| agree(whose, &backend.filters)).at("backends")?;
        Ok(rule)
    }
}

/// Refuses filters that cannot be honoured together.
fn agree(whose: FiltersOf<'_>, filters: &[HttpFilter]) -> Result<(), Invalid> {
    match whose.contradiction(filters) {
        Some(why) => Err(Problem::Contradiction(why).into()).at("filters"),
        None => Ok(()),
    }
}

impl From<&HttpRule> for wire::HttpRule {
    fn from(rule: &HttpRule) -> Self {
        let HttpRule { name, matches, filters, backends, timeouts, retry } = rule;
        Self {
            name: name.as_deref().unwrap_or_default().to_owned(),
            matches: matches.iter().map(Into::into).collect(),
            filters: filters.iter().map(Into::into).collect(),
            backends: backends.iter().map(Into::into).collect(),
            timeouts: Some(timeouts.into()),
            retry: retry.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::HttpMatch> for HttpMatch {
    type Error = Invalid;

    fn try_from(matched: wire::HttpMatch) -> Result<Self, Invalid> {
        let wire::HttpMatch { path, method: verb, headers, query } = matched;
        let headers = list(headers, bounds::MATCH_FIELDS_MAX, |field| {
            let value = text(field.value, bounds::FIELD_VALUE_BYTES_MAX).at("value")?;
            Ok(HeaderMatch { name: header_name(&field.name).at("name")?, value: Arc::from(value) })
        })
        .at("headers")?;
        distinct(&headers, |h: &HeaderMatch| h.name.as_str()).at("headers")?;
        let query = list(query, bounds::MATCH_FIELDS_MAX, |field| {
            let name = required(optional_text(field.name, bounds::FIELD_NAME_BYTES_MAX)?).at("name")?;
            let value = text(field.value, bounds::FIELD_VALUE_BYTES_MAX).at("value")?;
            Ok(QueryMatch { name, value: Arc::from(value) })
        })
        .at("query")?;
        distinct(&query, |q: &QueryMatch| &*q.name).at("query")?;
        Ok(Self {
            path: path.map(PathMatch::try_from).transpose().at("path")?,
            method: if verb.is_empty() { None } else { Some(method(&verb).at("method")?) },
            headers,
            query,
        })
    }
}

impl From<&HttpMatch> for wire::HttpMatch {
    fn from(matched: &HttpMatch) -> Self {
        let HttpMatch { path, method, headers, query } = matched;
        let pair = |name: &str, value: &str| wire::NameValue { name: name.to_owned(), value: value.to_owned() };
        Self {
            path: path.as_ref().map(Into::into),
            method: method.as_ref().map(|m| m.as_str().to_owned()).unwrap_or_default(),
            headers: headers.iter().map(|h| pair(h.name.as_str(), &h.value)).collect(),
            query: query.iter().map(|q| pair(&q.name, &q.value)).collect(),
        }
    }
}

impl TryFrom<wire::PathMatch> for PathMatch {
    type Error = Invalid;

    fn try_from(matched: wire::PathMatch) -> Result<Self, Invalid> {
        use wire::path_match::Kind;
        match required(matched.kind).at("kind")? {
            Kind::Exact(s) => Ok(Self::Exact(path(s).at("exact")?)),
            Kind::Prefix(s) => Ok(Self::Prefix(path(s).at("prefix")?)),
            Kind::GrpcMethod(s) => {
                required(optional_text(s, bounds::PATH_BYTES_MAX)?).at("grpc_method").map(Self::GrpcMethod)
            }
        }
    }
}

impl From<&PathMatch> for wire::PathMatch {
    fn from(matched: &PathMatch) -> Self {
        use wire::path_match::Kind;
        let kind = match matched {
            PathMatch::Exact(s) => Kind::Exact(s.to_string()),
            PathMatch::Prefix(s) => Kind::Prefix(s.to_string()),
            PathMatch::GrpcMethod(s) => Kind::GrpcMethod(s.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::HttpFilter> for HttpFilter {
    type Error = Invalid;

    fn try_from(filter: wire::HttpFilter) -> Result<Self, Invalid> {
        use wire::http_filter::Kind;
        // A filter of a kind that is not known is refused with its rule: leaving it out would change the rule.
        match required(filter.kind).at("kind")? {
            Kind::RequestHeaders(m) => Ok(Self::RequestHeaders(m.try_into().at("request_headers")?)),
            Kind::ResponseHeaders(m) => Ok(Self::ResponseHeaders(m.try_into().at("response_headers")?)),
            Kind::Rewrite(rewrite) => Ok(Self::Rewrite(rewrite.try_into().at("rewrite")?)),
            Kind::Redirect(redirect) => Ok(Self::Redirect(redirect.try_into().at("redirect")?)),
        }
    }
}

impl From<&HttpFilter> for wire::HttpFilter {
    fn from(filter: &HttpFilter) -> Self {
        use wire::http_filter::Kind;
        let kind = match filter {
            HttpFilter::RequestHeaders(m) => Kind::RequestHeaders(m.into()),
            HttpFilter::ResponseHeaders(m) => Kind::ResponseHeaders(m.into()),
            HttpFilter::Rewrite(rewrite) => Kind::Rewrite(rewrite.into()),
            HttpFilter::Redirect(redirect) => Kind::Redirect(redirect.into()),
        };
        Self { kind: Some(kind) }
    }
}

/// A host to name in place of the request's; empty: none.
fn hostname(s: String) -> Result<Option<Arc<str>>, Invalid> {
    if s.is_empty() { Ok(None) } else { dns_name(s).map(Some) }
}

impl TryFrom<wire::Rewrite> for Rewrite {
    type Error = Invalid;

    fn try_from(rewrite: wire::Rewrite) -> Result<Self, Invalid> {
        let wire::Rewrite { hostname: host, path } = rewrite;
        Ok(Self {
            hostname: hostname(host).at("hostname")?,
            path: path.map(PathModifier::try_from).transpose().at("path")?,
        })
    }
}

impl From<&Rewrite> for wire::Rewrite {
    fn from(rewrite: &Rewrite) -> Self {
        let Rewrite { hostname, path } = rewrite;
        Self { hostname: hostname.as_deref().unwrap_or_default().to_owned(), path: path.as_ref().map(Into::into) }
    }
}

impl TryFrom<wire::Redirect> for Redirect {
    type Error = Invalid;

    fn try_from(redirect: wire::Redirect) -> Result<Self, Invalid> {
        let wire::Redirect { scheme, hostname: host, path, port: number, status } = redirect;
        let [min, .., max] = REDIRECT_CODES;
        let status: u16 = range(status, min.into(), max.into()).at("status")?;
        if !REDIRECT_CODES.contains(&status) {
            let value = i32::from(status);
            return Err(Problem::UnknownValue { name: "redirect status", value }.into()).at("status");
        }
        Ok(Self {
            scheme: match scheme.as_str() {
                "" => None,
                "http" => Some(UrlScheme::Http),
                "https" => Some(UrlScheme::Https),
                other => return Err(Problem::Scheme(shown(other, 128)).into()).at("scheme"),
            },
            hostname: hostname(host).at("hostname")?,
            path: path.map(PathModifier::try_from).transpose().at("path")?,
            port: if number == 0 { None } else { Some(port(number).at("port")?) },
            status,
        })
    }
}

impl From<&Redirect> for wire::Redirect {
    fn from(redirect: &Redirect) -> Self {
        let Redirect { scheme, hostname, path, port, status } = redirect;
        Self {
            scheme: scheme.map(UrlScheme::as_str).unwrap_or_default().to_owned(),
            hostname: hostname.as_deref().unwrap_or_default().to_owned(),
            path: path.as_ref().map(Into::into),
            port: port.map_or(0, u32::from),
            status: u32::from(*status),
        }
    }
}

impl TryFrom<wire::PathModifier> for PathModifier {
    type Error = Invalid;

    fn try_from(modifier: wire::PathModifier) -> Result<Self, Invalid> {
        use wire::path_modifier::Kind;
        let replacement = |s: String| {
            not_longer(s.len(), bounds::PATH_BYTES_MAX)?;
            if s.is_empty() || is_url_path(&s) {
                Ok(Arc::from(s))
            } else {
                Err(Invalid::from(Problem::Path(shown(&s, 128))))
            }
        };
        match required(modifier.kind).at("kind")? {
            Kind::Full(s) if s.is_empty() => Err(Problem::Path(s).into()).at("full"),
            Kind::Full(s) => Ok(Self::Full(replacement(s).at("full")?)),
            Kind::Prefix(s) => Ok(Self::Prefix(replacement(s).at("prefix")?)),
        }
    }
}

impl From<&PathModifier> for wire::PathModifier {
    fn from(modifier: &PathModifier) -> Self {
        use wire::path_modifier::Kind;
        let kind = match modifier {
            PathModifier::Full(s) => Kind::Full(s.to_string()),
            PathModifier::Prefix(s) => Kind::Prefix(s.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::HeaderModifier> for HeaderModifier {
    type Error = Invalid;

    fn try_from(modifier: wire::HeaderModifier) -> Result<Self, Invalid> {
        let wire::HeaderModifier { set, add, remove } = modifier;
        Ok(Self {
            set: list(set, bounds::MODIFIED_HEADERS_MAX, header).at("set")?,
            add: list(add, bounds::MODIFIED_HEADERS_MAX, |field| {
                let (name, value) = header(field)?;
                Ok((repeatable(name).at("name")?, value))
            })
            .at("add")?,
            remove: list(remove, bounds::MODIFIED_HEADERS_MAX, |name| repeatable(modifiable(&name)?)).at("remove")?,
        })
    }
}

impl From<&HeaderModifier> for wire::HeaderModifier {
    fn from(modifier: &HeaderModifier) -> Self {
        let HeaderModifier { set, add, remove } = modifier;
        let pair = |(name, value): &(HeaderName, HeaderValue)| wire::NameValue {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        };
        Self {
            set: set.iter().map(pair).collect(),
            add: add.iter().map(pair).collect(),
            remove: remove.iter().map(|name| name.as_str().to_owned()).collect(),
        }
    }
}

fn header(field: wire::NameValue) -> Result<(HeaderName, HeaderValue), Invalid> {
    let wire::NameValue { name, value } = field;
    not_longer(value.len(), bounds::FIELD_VALUE_BYTES_MAX).at("value")?;
    let name = modifiable(&name).at("name")?;
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(_invalid) => Err(Problem::HeaderValue(shown(&value, 128)).into()).at("value"),
    }
}

/// A header that may be added or removed: not the host, of which a message has exactly one. It may be replaced.
fn repeatable(name: HeaderName) -> Result<HeaderName, Invalid> {
    if name == http::header::HOST {
        return Err(Problem::HeaderProtected(name.as_str().to_owned()).into());
    }
    Ok(name)
}

/// A header that configuration may change: none that says where a message ends, and none that Weft vouches for
/// (`weft-*`, semantics 42).
fn modifiable(name: &str) -> Result<HeaderName, Invalid> {
    let name = header_name(name)?;
    if is_reserved_header(&name) {
        return Err(Problem::HeaderProtected(name.as_str().to_owned()).into());
    }
    Ok(name)
}

impl TryFrom<wire::Backend> for Backend {
    type Error = Invalid;

    fn try_from(backend: wire::Backend) -> Result<Self, Invalid> {
        let wire::Backend { service, weight, filters } = backend;
        let target = match service {
            Some(key) => BackendTarget::Service(ServiceKey::try_from(key).at("service")?),
            None => BackendTarget::Invalid,
        };
        Ok(Self {
            target,
            weight: range(weight, 0, bounds::WEIGHT_MAX.into()).at("weight")?,
            filters: list(filters, bounds::FILTERS_MAX, HttpFilter::try_from).at("filters")?,
        })
    }
}

impl From<&Backend> for wire::Backend {
    fn from(backend: &Backend) -> Self {
        let Backend { target, weight, filters } = backend;
        let service = match target {
            BackendTarget::Invalid => None,
            BackendTarget::Service(key) => Some(key.into()),
        };
        Self { service, weight: *weight, filters: filters.iter().map(Into::into).collect() }
    }
}
