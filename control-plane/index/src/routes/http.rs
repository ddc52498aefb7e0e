//! HTTPRoute.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::experimental::httproutes as api;
use http::Method;
use weft_crds::parse_duration;
use weft_model::bounds::{DEADLINE_MAX, KNOB_MAX};
use weft_model::policy::RetryPolicy;
use weft_model::route::{HttpMatch, PathMatch, QueryMatch, Timeouts};

use super::{At, RouteEntry, WrittenRoute, WrittenRule, header_matches, written};
use crate::object::{Kind, Name};
use crate::problem::Problem;
use crate::read::{Read, created};

/// How long "no deadline" (`0s`) is where a wider default must not apply instead: longer than anything lives.
const NO_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What Gateway API leaves to implementations: further attempts and the pause before them.
const RETRY_ATTEMPTS: u32 = 2;
const RETRY_BACKOFF: Duration = Duration::from_millis(25);

/// Reads an HTTPRoute.
pub(crate) fn read(name: &Name, route: &api::HttpRoute) -> Read<RouteEntry> {
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    let route = WrittenRoute {
        kind: Kind::HttpRoute,
        name,
        created: created(&route.metadata),
        has_hostnames: route.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()),
        parents: written::http_parents(route),
    };
    super::read(&route, rules, |rule, field, problems| {
        let (filters, backends) = written::http_rule(rule);
        WrittenRule {
            name: rule.name.as_deref(),
            matches: rule.matches.iter().flatten().map(http_match).collect(),
            filters,
            backends,
            is_sticky: rule.session_persistence.is_some(),
            timeouts: timeouts(rule.timeouts.as_ref(), field, problems),
            retry: rule.retry.as_ref().and_then(|retry| retry_policy(retry, &format!("{field}.retry"), problems)),
        }
    })
}

fn http_match(written: &api::HttpRouteRulesMatches) -> At<HttpMatch> {
    let headers = header_matches(written.headers.iter().flatten().map(|header| {
        let is_exact = matches!(header.r#type, None | Some(api::HttpRouteRulesMatchesHeadersType::Exact));
        (is_exact, header.name.as_str(), header.value.as_str())
    }))?;
    let mut query = Vec::<QueryMatch>::new();
    for param in written.query_params.iter().flatten() {
        if !matches!(param.r#type, None | Some(api::HttpRouteRulesMatchesQueryParamsType::Exact)) {
            return Err(("queryParams", "RegularExpression is not supported".to_owned()));
        }
        if query.iter().all(|have| *have.name != *param.name) {
            query.push(QueryMatch { name: Arc::from(param.name.as_str()), value: Arc::from(param.value.as_str()) });
        }
    }
    let path = written.path.as_ref().map(path_match).transpose()?;
    Ok(HttpMatch { path, method: written.method.as_ref().map(method), headers, query })
}

fn path_match(written: &api::HttpRouteRulesMatchesPath) -> At<PathMatch> {
    let value = written.value.as_deref().unwrap_or("/");
    let refused = |why: &str| Err(("path", format!("{value:?} {why}")));
    if !value.starts_with('/') {
        return refused("does not begin with '/'");
    }
    if value.contains("//") || value.split('/').any(|s| s == "." || s == "..") || value.contains(['?', '#']) {
        return refused("is not a plain path");
    }
    match written.r#type {
        Some(api::HttpRouteRulesMatchesPathType::Exact) => Ok(PathMatch::Exact(Arc::from(value))),
        None | Some(api::HttpRouteRulesMatchesPathType::PathPrefix) => Ok(PathMatch::Prefix(Arc::from(value))),
        Some(api::HttpRouteRulesMatchesPathType::RegularExpression) => refused("RegularExpression is not supported"),
    }
}

fn method(written: &api::HttpRouteRulesMatchesMethod) -> Method {
    use api::HttpRouteRulesMatchesMethod as M;
    match written {
        M::Get => Method::GET,
        M::Head => Method::HEAD,
        M::Post => Method::POST,
        M::Put => Method::PUT,
        M::Delete => Method::DELETE,
        M::Connect => Method::CONNECT,
        M::Options => Method::OPTIONS,
        M::Trace => Method::TRACE,
        M::Patch => Method::PATCH,
    }
}

fn timeouts(written: Option<&api::HttpRouteRulesTimeouts>, field: &str, problems: &mut Vec<Problem>) -> Timeouts {
    let Some(written) = written else { return Timeouts::default() };
    let mut read = |text: Option<&str>, name: &str| match text.map(parse_duration) {
        None => None,
        Some(Ok(Duration::ZERO)) => Some(NO_DEADLINE),
        Some(Ok(duration)) if duration > DEADLINE_MAX => {
            let message = format!("longer than {} h; it is left out", DEADLINE_MAX.as_secs() / 3_600);
            problems.push(Problem::refused(format!("{field}.timeouts.{name}"), message));
            None
        }
        Some(Ok(duration)) => Some(duration),
        Some(Err(error)) => {
            problems.push(Problem::refused(format!("{field}.timeouts.{name}"), format!("{error}; it is left out")));
            None
        }
    };
    let request = read(written.request.as_deref(), "request");
    let backend_request = read(written.backend_request.as_deref(), "backendRequest");
    if let (Some(request), Some(attempt)) = (request, backend_request)
        && attempt > request
        && attempt != NO_DEADLINE
    {
        let message = "longer than request, so it never ends an attempt";
        problems.push(Problem::refused(format!("{field}.timeouts.backendRequest"), message));
    }
    Timeouts { request, backend_request }
}

fn retry_policy(written: &api::HttpRouteRulesRetry, field: &str, problems: &mut Vec<Problem>) -> Option<RetryPolicy> {
    let mut status_codes = Vec::new();
    for (i, code) in written.codes.iter().flatten().enumerate() {
        match u16::try_from(*code).ok().filter(|code| (400..=599).contains(code)) {
            Some(code) => status_codes.push(code),
            None => problems.push(Problem::refused(format!("{field}.codes[{i}]"), "not within 400 to 599; left out")),
        }
    }
    let backoff = match written.backoff.as_deref().map(parse_duration) {
        None => RETRY_BACKOFF,
        Some(Ok(backoff)) if backoff <= KNOB_MAX => backoff,
        Some(Ok(_)) => {
            problems.push(Problem::refused(format!("{field}.backoff"), "must be at most 24h; 25ms is taken"));
            RETRY_BACKOFF
        }
        Some(Err(error)) => {
            problems.push(Problem::refused(format!("{field}.backoff"), error.to_string()));
            RETRY_BACKOFF
        }
    };
    let attempts = match written.attempts {
        None => RETRY_ATTEMPTS,
        Some(attempts) => match u32::try_from(attempts).ok().filter(|attempts| *attempts <= 10) {
            Some(attempts) => attempts,
            None => {
                problems.push(Problem::refused(format!("{field}.attempts"), "not within 0 to 10; 2 are made"));
                RETRY_ATTEMPTS
            }
        },
    };
    status_codes.sort_unstable();
    status_codes.dedup();
    (attempts > 0).then_some(RetryPolicy {
        status_codes,
        grpc_codes: Vec::new(),
        on_reset: true,
        attempts,
        backoff,
        non_idempotent: false,
    })
}
