//! From routes as data to candidates in order of precedence.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use weft_model::policy::PolicyId;
use weft_model::resources::ServiceSpec;
use weft_model::route::{
    Backend, BackendTarget, HeaderMatch, HttpFilter, HttpMatch, HttpRule, PathMatch, QueryMatch, Timeouts,
};
use weft_model::service::ServiceKey;

use super::index::{PathIndex, PathKey};
use super::matching::{grpc_method_is, header_equals, query_equals};
use super::rule::{Filters, Rule, RuleBackend, Weights};
use super::url::Redirect;
use super::{HttpRoutes, RequestView};

/// One match of one rule, without its path: the index has found that already.
#[derive(Debug)]
pub(super) struct Candidate {
    method: Option<Method>,
    grpc_method: Option<Arc<str>>,
    headers: Box<[HeaderMatch]>,
    query: Box<[QueryMatch]>,
    /// Its place among the rules.
    pub(super) rule: usize,
}

impl Candidate {
    pub(super) fn matches(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.grpc_method.as_ref().is_none_or(|method| grpc_method_is(request.path, method))
            && self.headers.iter().all(|header| header_equals(request.headers, &header.name, &header.value))
            && self.query.iter().all(|param| query_equals(request.query.unwrap_or_default(), &param.name, &param.value))
    }
}

pub(super) fn compile(spec: &ServiceSpec) -> HttpRoutes {
    let mut backends = Backends::default();
    let mut rules: Vec<Arc<Rule>> = Vec::new();
    let mut keyed: Vec<(Key<'_>, Candidate)> = Vec::new();
    for route in &spec.http_routes {
        for rule in &route.rules {
            let everything = [HttpMatch::default()];
            let matches: &[HttpMatch] = if rule.matches.is_empty() { &everything } else { &rule.matches };
            for one in matches {
                keyed.push((Key::of(route.created, &route.id, one), Candidate::of(one, rules.len())));
            }
            rules.push(Arc::new(compile_rule(spec, &route.id, rule, &mut backends)));
        }
    }
    // The sort is stable: what is left equal stays in the order of rules and of matches within a rule.
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let index = PathIndex::build(keyed.iter().map(|(key, _)| &key.path));
    let fallback = spec.http_routes.is_empty().then(|| Arc::new(service_itself(spec, &mut backends)));
    HttpRoutes {
        candidates: keyed.into_iter().map(|(_, candidate)| candidate).collect(),
        index,
        rules: rules.into(),
        fallback,
        backend_keys: backends.keys.into(),
    }
}

/// What orders matches: Gateway API, `HTTPRouteRule.matches`. The smallest key wins. Matches of different paths that
/// could both hold differ in kind or length; among the rest any order of paths will do.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    path: PathKey,
    method: Reverse<bool>,
    /// The characters of a gRPC method without a service, which GRPCRoute counts after those of the service.
    grpc_method: Reverse<usize>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    /// Compared as `{namespace}/{name}`, for which the whole id stands: the kind is the same for all.
    route: &'a str,
}

impl<'a> Key<'a> {
    fn of(created: i64, route: &'a PolicyId, one: &HttpMatch) -> Self {
        let path = match &one.path {
            Some(PathMatch::Exact(path)) => PathKey::exact(path),
            Some(PathMatch::Prefix(path)) => PathKey::prefix(path),
            Some(PathMatch::GrpcMethod(_)) | None => PathKey::prefix("/"),
        };
        Self {
            path,
            method: Reverse(one.method.is_some()),
            grpc_method: Reverse(grpc_method(one).map_or(0, |method| method.len())),
            headers: Reverse(one.headers.len()),
            query: Reverse(one.query.len()),
            created,
            route: route.as_str(),
        }
    }
}

impl Candidate {
    fn of(one: &HttpMatch, rule: usize) -> Self {
        Self {
            method: one.method.clone(),
            grpc_method: grpc_method(one).cloned(),
            headers: one.headers.clone().into(),
            query: one.query.clone().into(),
            rule,
        }
    }
}

fn grpc_method(one: &HttpMatch) -> Option<&Arc<str>> {
    match &one.path {
        Some(PathMatch::GrpcMethod(method)) => Some(method),
        Some(PathMatch::Exact(_) | PathMatch::Prefix(_)) | None => None,
    }
}

/// Gives each service port one number.
#[derive(Default)]
struct Backends {
    numbers: BTreeMap<ServiceKey, usize>,
    keys: Vec<ServiceKey>,
}

impl Backends {
    fn number(&mut self, key: &ServiceKey) -> usize {
        if let Some(&number) = self.numbers.get(key) {
            return number;
        }
        let number = self.keys.len();
        self.keys.push(key.clone());
        self.numbers.insert(key.clone(), number);
        number
    }
}

fn compile_rule(spec: &ServiceSpec, route: &PolicyId, rule: &HttpRule, backends: &mut Backends) -> Rule {
    // Who replaces a prefix has one: what came over the wire was looked at.
    let prefix = rule.only_prefix().unwrap_or("/");
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        HttpFilter::Redirect(redirect) => Some(Redirect::compile(redirect, prefix)),
        HttpFilter::RequestHeaders(_) | HttpFilter::ResponseHeaders(_) | HttpFilter::Rewrite(_) => None,
    });
    let weights = Weights::of(rule.backends.iter().map(|backend| backend.weight));
    Rule {
        route: Some(route.clone()),
        name: rule.name.clone(),
        filters: Filters::compile(&rule.filters, prefix),
        redirect,
        backends: rule.backends.iter().map(|backend| compile_backend(backend, prefix, backends)).collect(),
        weights,
        timeouts: Timeouts {
            request: rule.timeouts.request.or(spec.timeouts.request),
            backend_request: rule.timeouts.backend_request.or(spec.timeouts.backend_request),
        },
        retry: rule.retry.clone().or_else(|| spec.retry.clone()),
    }
}

fn compile_backend(backend: &Backend, prefix: &str, backends: &mut Backends) -> RuleBackend {
    RuleBackend {
        target: match &backend.target {
            BackendTarget::Invalid => None,
            BackendTarget::Service(key) => Some(backends.number(key)),
        },
        weight: backend.weight,
        filters: Arc::new(Filters::compile(&backend.filters, prefix)),
    }
}

fn service_itself(spec: &ServiceSpec, backends: &mut Backends) -> Rule {
    let target = Some(backends.number(&spec.key));
    Rule {
        route: None,
        name: None,
        filters: Filters::default(),
        redirect: None,
        backends: [RuleBackend { target, weight: 1, filters: Arc::default() }].into(),
        weights: Weights::of([1].into_iter()),
        timeouts: spec.timeouts,
        retry: spec.retry.clone(),
    }
}
