//! HTTPRoute resources, as they are meant. What cannot be honoured is never left out quietly: a rule with a filter that is not
//! known answers 500 (Gateway API on filters), a match that is not known matches nothing, and both are told.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::experimental::httproutes as api;
use http::Method;
use weft_crds::parse_duration;
use weft_model::PolicyId;
use weft_model::bounds::{DEADLINE_MAX, KNOB_MAX, RULES_MAX, WEIGHT_MAX};
use weft_model::policy::RetryPolicy;
use weft_model::route::{HeaderMatch, HttpFilter, HttpMatch, HttpRule, PathMatch, QueryMatch, Timeouts};

use crate::object::{Kind, Name};
use crate::problem::Problem;
use crate::read::{Read, at_most, created, port};

mod filters;
mod limits;

/// How long "no deadline" (`0s`) is where a wider default must not apply instead: longer than anything lives.
const NO_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What Gateway API leaves to implementations: further attempts and the pause before them.
const RETRY_ATTEMPTS: u32 = 2;
const RETRY_BACKOFF: Duration = Duration::from_millis(25);

/// An HTTPRoute, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub(crate) name: Name,
    pub(crate) id: PolicyId,
    pub(crate) created: i64,
    pub(crate) parents: Vec<Parent>,
    pub(crate) rules: Vec<RuleEntry>,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) service: Name,
    pub(crate) port: Option<u16>,
    pub(crate) section: Option<Arc<str>>,
    /// Its field in the resource.
    pub(crate) field: String,
}

/// A rule whose backends were not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleEntry {
    /// Everything but the backends.
    pub(crate) rule: HttpRule,
    pub(crate) backends: Vec<BackendEntry>,
}

/// A backend that was not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendEntry {
    /// The Service and its port; `None` where the reference cannot resolve whatever exists.
    pub(crate) target: Option<(Name, u16)>,
    pub(crate) weight: u32,
    pub(crate) filters: Vec<HttpFilter>,
    /// Its field in the resource.
    pub(crate) field: String,
}

impl RouteEntry {
    /// Whether it lies in another namespace than the Service, and so concerns only the clients of its own.
    pub(crate) fn is_consumer_of(&self, service: &Name) -> bool {
        self.name.namespace != service.namespace
    }
}

/// Reads an HTTPRoute.
pub(crate) fn read(name: &Name, route: &api::HttpRoute) -> Read<RouteEntry> {
    let mut problems = Vec::new();
    let parents = parents(name, route, &mut problems);
    if route.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()) {
        let message = "not looked at: a Service is chosen by address, never by Host";
        problems.push(Problem::notice("spec.hostnames", message));
    }
    let written = route.spec.rules.as_deref().unwrap_or_default();
    if let Err(message) = at_most(written.len(), RULES_MAX) {
        problems.push(Problem::refused("spec.rules", message));
        return Read { entry: None, problems };
    }
    let mut rules = Vec::new();
    let mut fits = true;
    for (i, written) in written.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        let Some(rule) = rule((name, &parents), written, &field, &mut problems) else { continue };
        if let Err((at, message)) = limits::check(&rule) {
            problems.push(Problem::refused(format!("{field}.{at}"), message));
            fits = false;
        }
        rules.push(rule);
    }
    if !fits {
        return Read { entry: None, problems };
    }
    let id = PolicyId::new(Kind::HttpRoute.as_str(), &name.namespace, &name.name);
    let created = created(&route.metadata);
    Read { entry: Some(RouteEntry { name: name.clone(), id, created, parents, rules }), problems }
}

fn parents(name: &Name, route: &api::HttpRoute, problems: &mut Vec<Problem>) -> Vec<Parent> {
    let mut parents = Vec::new();
    for (i, parent) in route.spec.parent_refs.iter().flatten().enumerate() {
        let field = format!("spec.parentRefs[{i}]");
        let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if !group.is_empty() || kind != "Service" {
            problems.push(Problem::notice(field, format!("{kind} is for another controller; only Service is ours")));
            continue;
        }
        let number = match parent.port.map(port) {
            None => None,
            Some(Some(number)) => Some(number),
            Some(None) => {
                problems.push(Problem::refused(format!("{field}.port"), "not a port; this parent is left out"));
                continue;
            }
        };
        let namespace = parent.namespace.as_deref().unwrap_or(&name.namespace);
        let section = parent.section_name.as_deref().map(Arc::from);
        parents.push(Parent { service: Name::new(namespace, &parent.name), port: number, section, field });
    }
    if parents.is_empty() {
        problems.push(Problem::refused("spec.parentRefs", "no Service is named, so the route is attached to nothing"));
    }
    parents
}

/// A rule; `None` where it can match nothing.
fn rule(
    route: Owner<'_>,
    written: &api::HttpRouteRules,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<RuleEntry> {
    let mut matches = Vec::new();
    let alternatives = written.matches.as_deref().unwrap_or_default();
    for (i, alternative) in alternatives.iter().enumerate() {
        match http_match(alternative) {
            Ok(read) => matches.push(read),
            Err((at, message)) => problems
                .push(Problem::refused(format!("{field}.matches[{i}].{at}"), format!("{message}; it matches nothing"))),
        }
    }
    if matches.is_empty() && !alternatives.is_empty() {
        problems.push(Problem::refused(field, "none of its matches is understood; the rule is left out"));
        return None;
    }
    let broken_before = problems.len();
    let filters = filters::rule_filters(written.filters.as_deref().unwrap_or_default(), field, problems);
    let broken = problems.len() > broken_before;
    if written.session_persistence.is_some() {
        problems.push(Problem::refused(format!("{field}.sessionPersistence"), "not supported; requests are spread"));
    }
    let timeouts = timeouts(written.timeouts.as_ref(), field, problems);
    let retry = written.retry.as_ref().and_then(|retry| retry_policy(retry, &format!("{field}.retry"), problems));
    // A rule without backends answers 500, which is what a filter that we cannot honour calls for.
    let backends = if broken { Vec::new() } else { backends(route, written, field, problems) };
    if !broken && backends.is_empty() {
        let message = "no backend: its requests are answered 500";
        problems.push(Problem::notice(format!("{field}.backendRefs"), message));
    }
    let name = written.name.as_deref().filter(|name| !name.is_empty()).map(Arc::from);
    let filters = if broken { Vec::new() } else { filters };
    Some(RuleEntry { rule: HttpRule { name, matches, filters, backends: Vec::new(), timeouts, retry }, backends })
}

type At<T> = Result<T, (&'static str, String)>;

fn http_match(written: &api::HttpRouteRulesMatches) -> At<HttpMatch> {
    let mut headers = Vec::<HeaderMatch>::new();
    for header in written.headers.iter().flatten() {
        if !matches!(header.r#type, None | Some(api::HttpRouteRulesMatchesHeadersType::Exact)) {
            return Err(("headers", "RegularExpression is not supported".to_owned()));
        }
        let name = header.name.parse::<http::HeaderName>().map_err(|e| ("headers", format!("{}: {e}", header.name)))?;
        // Of a name that stands there twice the first counts (Gateway API, HTTPHeaderMatch).
        if headers.iter().all(|have| have.name != name) {
            headers.push(HeaderMatch { name, value: Arc::from(header.value.as_str()) });
        }
    }
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

/// A route, as its backends see it: who it is, and what it is attached to.
type Owner<'a> = (&'a Name, &'a [Parent]);

fn backends(
    route: Owner<'_>,
    written: &api::HttpRouteRules,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<BackendEntry> {
    let mut backends = Vec::new();
    for (i, backend) in written.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{i}]");
        let before = problems.len();
        let filters = filters::backend_filters(backend.filters.as_deref().unwrap_or_default(), &field, problems);
        let broken = problems.len() > before;
        let target = match backend_target(route, backend) {
            Ok(target) => Some(target),
            Err(message) => {
                problems.push(Problem::unresolved(&*field, format!("{message}; its share is answered 500")));
                None
            }
        };
        let weight = backend.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0).min(WEIGHT_MAX));
        if backend.weight.is_some_and(|written| i64::from(written) != i64::from(weight)) {
            let message = format!("not within 0 to {WEIGHT_MAX}; {weight} is taken");
            problems.push(Problem::refused(format!("{field}.weight"), message));
        }
        let target = if broken { None } else { target };
        let filters = if broken { Vec::new() } else { filters };
        backends.push(BackendEntry { target, weight, filters, field });
    }
    backends
}

fn backend_target(
    (route, parents): Owner<'_>,
    backend: &api::HttpRouteRulesBackendRefs,
) -> Result<(Name, u16), String> {
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    if !group.is_empty() || kind != "Service" {
        return Err(format!("{kind} is not a kind of backend that is known; only Service is"));
    }
    let namespace = backend.namespace.as_deref().unwrap_or(&route.namespace);
    let target = Name::new(namespace, &backend.name);
    // Who may attach to a Service of another namespace may send there what it would get anyway (GEP-1426, consumer routes).
    if *namespace != *route.namespace && !parents.iter().any(|parent| parent.service == target) {
        return Err(format!("no ReferenceGrant lets a route of {} refer to namespace {namespace}", route.namespace));
    }
    let number = backend.port.and_then(port).ok_or_else(|| "a Service needs a port".to_owned())?;
    Ok((target, number))
}
