//! Routes, as they are meant. What cannot be honoured is never left out quietly: a rule with a filter that is not known answers 500
//! (Gateway API on filters), a match that is not known matches nothing, and both are told.

use std::sync::Arc;

use ::http::HeaderName;
use weft_model::PolicyId;
use weft_model::bounds::{RULES_MAX, WEIGHT_MAX};
use weft_model::policy::RetryPolicy;
use weft_model::route::{FiltersOf, HeaderMatch, HttpFilter, HttpMatch, HttpRule, Timeouts};

use crate::object::{Kind, Name};
use crate::problem::{Problem, Reason};
use crate::read::{Read, at_most, port};

mod filters;
pub(crate) mod grpc;
pub(crate) mod http;
mod limits;
mod written;

/// A route, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub(crate) kind: Kind,
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

/// A route as it was written, whichever kind it is.
struct WrittenRoute<'a> {
    kind: Kind,
    name: &'a Name,
    created: i64,
    has_hostnames: bool,
    parents: Vec<written::ParentRef<'a>>,
}

/// A rule as it was written, with what only its kind can read.
struct WrittenRule<'a> {
    name: Option<&'a str>,
    matches: Vec<At<HttpMatch>>,
    filters: Vec<written::Filter<'a>>,
    backends: Vec<written::BackendRef<'a>>,
    is_sticky: bool,
    timeouts: Timeouts,
    retry: Option<RetryPolicy>,
}

/// Something of a match, or which of its fields is not understood, and why.
type At<T> = Result<T, (&'static str, String)>;

/// Headers that a match asks for, each with whether it is to be matched exactly, its name and its value. Of a name that stands there
/// twice the first counts (Gateway API, `HTTPHeaderMatch` and `GRPCHeaderMatch`).
fn header_matches<'a>(written: impl Iterator<Item = (bool, &'a str, &'a str)>) -> At<Vec<HeaderMatch>> {
    let mut headers = Vec::<HeaderMatch>::new();
    for (is_exact, name, value) in written {
        if !is_exact {
            return Err(("headers", "RegularExpression is not supported".to_owned()));
        }
        let parsed = name.parse::<HeaderName>().map_err(|e| ("headers", format!("{name}: {e}")))?;
        if headers.iter().all(|have| have.name != parsed) {
            headers.push(HeaderMatch { name: parsed, value: Arc::from(value) });
        }
    }
    Ok(headers)
}

/// Reads a route of any kind, with `understood` for what is its kind's own.
fn read<'a, R>(
    route: &WrittenRoute<'_>,
    written: &'a [R],
    mut understood: impl FnMut(&'a R, &str, &mut Vec<Problem>) -> WrittenRule<'a>,
) -> Read<RouteEntry> {
    let mut problems = Vec::new();
    let parents = parents(route, &mut problems);
    if route.has_hostnames {
        let message = "not looked at: a Service is chosen by address, never by Host";
        problems.push(Problem::notice("spec.hostnames", message));
    }
    if let Err(message) = at_most(written.len(), RULES_MAX) {
        problems.push(Problem::refused("spec.rules", message));
        return Read { entry: None, problems };
    }
    let mut rules = Vec::new();
    let mut fits = true;
    for (i, written) in written.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        let written = understood(written, &field, &mut problems);
        let Some(rule) = rule((route.name, &parents), written, &field, &mut problems) else { continue };
        if let Err((at, message)) = limits::check(&rule) {
            problems.push(Problem::refused(format!("{field}.{at}"), message));
            fits = false;
        }
        rules.push(rule);
    }
    if !fits {
        return Read { entry: None, problems };
    }
    let WrittenRoute { kind, name, created, .. } = *route;
    let id = PolicyId::new(kind.as_str(), &name.namespace, &name.name);
    Read { entry: Some(RouteEntry { kind, name: name.clone(), id, created, parents, rules }), problems }
}

fn parents(route: &WrittenRoute<'_>, problems: &mut Vec<Problem>) -> Vec<Parent> {
    let mut parents = Vec::new();
    for (i, parent) in route.parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{i}]");
        let group = parent.group.unwrap_or("gateway.networking.k8s.io");
        let kind = parent.kind.unwrap_or("Gateway");
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
        let namespace = parent.namespace.unwrap_or(&route.name.namespace);
        let section = parent.section.map(Arc::from);
        parents.push(Parent { service: Name::new(namespace, parent.name), port: number, section, field });
    }
    if parents.is_empty() {
        problems.push(Problem::refused("spec.parentRefs", "no Service is named, so the route is attached to nothing"));
    }
    parents
}

/// A rule; `None` where it can match nothing.
fn rule(route: Owner<'_>, written: WrittenRule<'_>, field: &str, problems: &mut Vec<Problem>) -> Option<RuleEntry> {
    let mut matches = Vec::new();
    let is_for_all = written.matches.is_empty();
    for (i, alternative) in written.matches.into_iter().enumerate() {
        match alternative {
            Ok(read) => matches.push(read),
            Err((at, message)) => problems
                .push(Problem::refused(format!("{field}.matches[{i}].{at}"), format!("{message}; it matches nothing"))),
        }
    }
    if matches.is_empty() && !is_for_all {
        problems.push(Problem::refused(field, "none of its matches is understood; the rule is left out"));
        return None;
    }
    let name = written.name.filter(|name| !name.is_empty()).map(Arc::from);
    let (timeouts, retry) = (written.timeouts, written.retry);
    let mut rule = HttpRule { name, matches, filters: Vec::new(), backends: Vec::new(), timeouts, retry };
    let broken_before = problems.len();
    rule.filters = filters::read(&written.filters, FiltersOf::Rule(rule.only_prefix()), field, problems);
    let broken = problems.len() > broken_before;
    if written.is_sticky {
        problems.push(Problem::refused(format!("{field}.sessionPersistence"), "not supported; requests are spread"));
    }
    // A rule without backends answers 500, which is what a filter that we cannot honour calls for.
    if broken {
        rule.filters.clear();
        return Some(RuleEntry { rule, backends: Vec::new() });
    }
    let redirects = rule.filters.iter().any(|filter| matches!(filter, HttpFilter::Redirect(_)));
    let whose = FiltersOf::Backend { prefix: rule.only_prefix(), rule: &rule.filters };
    let backends = backends(route, &written.backends, whose, field, problems);
    match (redirects, backends.is_empty()) {
        (false, true) => {
            let message = "no backend: its requests are answered 500";
            problems.push(Problem::notice(format!("{field}.backendRefs"), message));
        }
        (true, false) => {
            let message = "never asked: the rule redirects";
            problems.push(Problem::notice(format!("{field}.backendRefs"), message));
        }
        (true, true) | (false, false) => {}
    }
    Some(RuleEntry { rule, backends })
}

/// A route, as its backends see it: who it is, and what it is attached to.
type Owner<'a> = (&'a Name, &'a [Parent]);

fn backends(
    route: Owner<'_>,
    written: &[written::BackendRef<'_>],
    whose: FiltersOf<'_>,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<BackendEntry> {
    let mut backends = Vec::new();
    for (i, backend) in written.iter().enumerate() {
        let field = format!("{field}.backendRefs[{i}]");
        let before = problems.len();
        let filters = filters::read(&backend.filters, whose, &field, problems);
        let broken = problems.len() > before;
        let target = match backend_target(route, backend) {
            Ok(target) => Some(target),
            Err((reason, message)) => {
                let message = format!("{message}; its share is answered 500");
                problems.push(Problem::unresolved(&*field, message).because(reason));
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
    backend: &written::BackendRef<'_>,
) -> Result<(Name, u16), (Reason, String)> {
    let group = backend.group.unwrap_or_default();
    let kind = backend.kind.unwrap_or("Service");
    if !group.is_empty() || kind != "Service" {
        let message = format!("{kind} is not a kind of backend that is known; only Service is");
        return Err((Reason::InvalidKind, message));
    }
    let namespace = backend.namespace.unwrap_or(&route.namespace);
    let target = Name::new(namespace, backend.name);
    // Who may attach to a Service of another namespace may send there what it would get anyway (GEP-1426, consumer routes).
    if *namespace != *route.namespace && !parents.iter().any(|parent| parent.service == target) {
        let message = format!("no ReferenceGrant lets a route of {} refer to namespace {namespace}", route.namespace);
        return Err((Reason::RefNotPermitted, message));
    }
    let number =
        backend.port.and_then(port).ok_or_else(|| (Reason::BackendNotFound, "a Service needs a port".to_owned()))?;
    Ok((target, number))
}
