//! A service port as a client sees it.

use weft_model::resources::ServiceSpec;
use weft_model::route::{Backend, BackendTarget, HttpRoute, HttpRule};
use weft_model::{AppProtocol, ServiceKey};

use super::precedence;
use crate::object::{Kind, Name};
use crate::policies::traffic::TrafficEntry;
use crate::routes::{BackendEntry, RouteEntry, RuleEntry};
use crate::services::ServiceEntry;

/// What is said about a service port.
pub(crate) struct ServiceParts<'a> {
    pub(crate) key: ServiceKey,
    pub(crate) protocol: AppProtocol,
    pub(crate) client_ip_affinity: bool,
    pub(crate) traffic: Option<&'a TrafficEntry>,
    /// Routes that apply, in order of precedence.
    pub(crate) routes: Vec<&'a RouteEntry>,
}

/// Puts a service port together; `exists` tells whether a Service has a port.
pub(crate) fn service_spec(parts: ServiceParts<'_>, exists: impl Fn(&Name, u16) -> bool) -> ServiceSpec {
    let mut spec = ServiceSpec::plain(parts.key);
    spec.protocol = parts.protocol;
    spec.client_ip_affinity = parts.client_ip_affinity;
    if let Some(traffic) = parts.traffic {
        spec.policy = Some(traffic.id.clone());
        spec.retry.clone_from(&traffic.retry);
        spec.retry_budget = traffic.budget;
        spec.timeouts = traffic.timeouts;
    }
    spec.http_routes = parts
        .routes
        .into_iter()
        .map(|route| HttpRoute {
            id: route.id.clone(),
            created: route.created,
            rules: route.rules.iter().map(|entry| rule(entry, &exists)).collect(),
        })
        .collect();
    spec
}

fn rule(entry: &RuleEntry, exists: &impl Fn(&Name, u16) -> bool) -> HttpRule {
    let backends = entry.backends.iter().map(|backend| Backend {
        target: target(backend, exists),
        weight: backend.weight,
        filters: backend.filters.clone(),
    });
    HttpRule { backends: backends.collect(), ..entry.rule.clone() }
}

fn target(backend: &BackendEntry, exists: &impl Fn(&Name, u16) -> bool) -> BackendTarget {
    match &backend.target {
        Some((service, port)) if exists(service, *port) => {
            BackendTarget::Service(ServiceKey::new(&service.namespace, &service.name, *port))
        }
        _ => BackendTarget::Invalid,
    }
}

/// The routes of a service port that clients of a namespace get, in order of precedence.
///
/// Those of the client's own namespace (consumer routes), where there are any, stand in place of those of the Service's
/// (producer routes): GEP-1426. `client` is `None` for what everybody gets.
pub(crate) fn attached_routes<'a>(
    client: Option<&str>,
    service: &ServiceEntry,
    port: u16,
    candidates: impl Iterator<Item = &'a RouteEntry>,
) -> Vec<&'a RouteEntry> {
    let mut producers = Vec::new();
    let mut consumers = Vec::new();
    for route in candidates {
        if !is_attached(route, service, port) {
            continue;
        }
        if !route.is_consumer_of(&service.name) {
            producers.push(route);
        } else if client == Some(&*route.name.namespace) {
            consumers.push(route);
        }
    }
    let mut routes = if consumers.is_empty() { producers } else { consumers };
    // Routes of one kind apply to a port, those of the most specific (GEP-1294, "Route types").
    if routes.iter().any(|route| route.kind == Kind::GrpcRoute) {
        routes.retain(|route| route.kind == Kind::GrpcRoute);
    }
    routes.sort_by(|a, b| precedence(a.created, &a.id).cmp(&precedence(b.created, &b.id)));
    routes
}

fn is_attached(route: &RouteEntry, service: &ServiceEntry, port: u16) -> bool {
    route
        .parents
        .iter()
        .filter(|parent| parent.service == service.name)
        .any(|parent| service.ports_meant(parent.port, parent.section.as_deref()).any(|(number, _)| number == port))
}

/// The policy in force for a service port: one for that very port before one for the whole Service, then the older.
pub(crate) fn traffic_for<'a>(
    service: &ServiceEntry,
    port: u16,
    candidates: impl Iterator<Item = &'a TrafficEntry>,
) -> Option<&'a TrafficEntry> {
    let name = service.ports.get(&port)?.name.as_deref();
    let specific = |policy: &TrafficEntry| {
        let targets = policy.targets.iter().filter(|target| target.service == service.name);
        let sections = targets.filter(|t| t.section.as_deref().is_none_or(|section| Some(section) == name));
        sections.map(|t| t.section.is_some()).max()
    };
    candidates
        .filter_map(|policy| specific(policy).map(|specific| (!specific, policy)))
        .min_by(|(a_wide, a), (b_wide, b)| {
            (a_wide, precedence(a.created, &a.id)).cmp(&(b_wide, precedence(b.created, &b.id)))
        })
        .map(|(_, policy)| policy)
}
