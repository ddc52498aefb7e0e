//! What is known, as JSON for `/config`. Nothing secret is in it: of trust anchors only who they are, of headers that
//! routes set only the names.

use serde_json::{Value, json};
use weft_model::resources::{InboundSpec, ServiceSpec};
use weft_model::route::{BackendTarget, HttpFilter, HttpRule, PathMatch};
use weft_proxy_core::snapshot::EndpointSet;

use super::cache::{Cache, Entry, Known};
use super::service::{Backend, Inbound, Mesh, Service};

/// All that readers see, in a stable order.
pub(super) fn dump(cache: &Cache) -> Value {
    let destinations = cache.destinations.get();
    let mut entries: Vec<_> = destinations.iter().collect();
    entries.sort_by_key(|(addr, _)| **addr);
    let now = cache.now();
    let shown = |(addr, entry): &(&std::net::SocketAddr, &Entry)| {
        let found = entry.found.as_ref().map(found);
        json!({ "address": addr.to_string(), "idle_ms": millis(entry.used.idle(now)), "found": found })
    };
    let mut services: Vec<&Service> = entries.iter().filter_map(|(_, entry)| service_of(entry)).collect();
    services.sort_by_key(|service| service.key());
    services.dedup_by_key(|service| service.key());
    json!({
        "connected": cache.stats.connected.get() == 1,
        "mesh": cache.mesh.get().map(|mesh| self::mesh(&mesh)),
        "inbound": cache.inbound.get().map(|inbound| self::inbound(&inbound)),
        "destinations": entries.iter().map(shown).collect::<Vec<_>>(),
        "services": services.into_iter().map(service).collect::<Vec<_>>(),
    })
}

fn service_of(entry: &Entry) -> Option<&Service> {
    match &entry.found {
        Some(Known::Service(service)) => Some(service),
        _ => None,
    }
}

fn found(found: &Known) -> Value {
    match found {
        Known::NotFound => json!("not-found"),
        Known::PortNotFound => json!("port-not-found"),
        Known::Service(service) => json!({ "service": service.key().to_string() }),
        Known::Workload(workload) => {
            let snapshot = workload.snapshot();
            json!({
                "workload": endpoints(&snapshot.endpoints),
                "protocol": format!("{:?}", snapshot.destination.protocol),
                "service": snapshot.destination.service.as_ref().map(ToString::to_string),
            })
        }
    }
}

fn mesh(mesh: &Mesh) -> Value {
    let anchors: Vec<_> = mesh.trust.anchors().iter().map(|anchor| anchor.id().to_string()).collect();
    json!({
        "trust_anchors": anchors,
        "networks": mesh.spec.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "egress": format!("{:?}", mesh.spec.egress),
        "telemetry": {
            "access_log": mesh.spec.telemetry.access_log,
            "trace_per_million": mesh.spec.telemetry.trace_per_million,
            "otlp_endpoint": mesh.spec.telemetry.otlp_endpoint.as_deref(),
        },
    })
}

fn inbound(inbound: &Inbound) -> Value {
    let InboundSpec { workload, ports, mtls, default_authorization, default_policy, authz, lifecycle } = &inbound.spec;
    let ports: Vec<_> = ports
        .iter()
        .map(|port| {
            json!({
                "port": port.port,
                "protocol": format!("{:?}", port.protocol),
                "mtls": format!("{:?}", port.mtls),
                "service": port.service.as_ref().map(ToString::to_string),
                "probe_paths": port.probe_paths.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
                "scrape_paths": port.scrape_paths.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
            })
        })
        .collect();
    let policies: Vec<_> = authz
        .iter()
        .map(|policy| {
            json!({
                "policy": policy.id.as_str(),
                "action": format!("{:?}", policy.action),
                "ports": policy.ports,
                "rules": policy.rules.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "workload": workload.to_string(),
        "lifecycle": format!("{lifecycle:?}"),
        "mtls": format!("{mtls:?}"),
        "default_authorization": format!("{default_authorization:?}"),
        "default_policy": default_policy.as_ref().map(ToString::to_string),
        "ports": ports,
        "authorization": policies,
    })
}

fn service(service: &Service) -> Value {
    let snapshot = service.snapshot();
    let ServiceSpec { protocol, http_routes, timeouts, retry, retry_budget, client_ip_affinity, policy, key: _ } =
        &snapshot.spec;
    let routes: Vec<_> = http_routes
        .iter()
        .map(|route| json!({ "route": route.id.as_str(), "rules": route.rules.iter().map(rule).collect::<Vec<_>>() }))
        .collect();
    let mut backends: Vec<&Backend> = snapshot.backends.iter().map(AsRef::as_ref).collect();
    if backends.iter().all(|backend| backend.key() != service.key()) {
        backends.push(&snapshot.own);
    }
    json!({
        "service": service.key().to_string(),
        "protocol": format!("{protocol:?}"),
        "policy": policy.as_ref().map(ToString::to_string),
        "timeouts": format!("{timeouts:?}"),
        "retry": retry.as_ref().map(|retry| format!("{retry:?}")),
        "retry_budget": format!("{retry_budget:?}"),
        "client_ip_affinity": client_ip_affinity,
        "routes": routes,
        "backends": backends.into_iter().map(backend).collect::<Vec<_>>(),
    })
}

fn rule(rule: &HttpRule) -> Value {
    let path = |path: &Option<PathMatch>| path.as_ref().map(|path| format!("{path:?}"));
    let matches: Vec<_> = rule
        .matches
        .iter()
        .map(|one| {
            json!({
                "path": path(&one.path),
                "method": one.method.as_ref().map(http::Method::as_str),
                // A value that is matched may be a key that opens something.
                "headers": one.headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(),
                "query": one.query.iter().map(|param| param.name.as_ref()).collect::<Vec<&str>>(),
            })
        })
        .collect();
    let backends: Vec<_> = rule
        .backends
        .iter()
        .map(|backend| {
            let target = match &backend.target {
                BackendTarget::Invalid => None,
                BackendTarget::Service(key) => Some(key.to_string()),
            };
            json!({ "service": target, "weight": backend.weight, "filters": filters(&backend.filters) })
        })
        .collect();
    json!({
        "name": rule.name.as_deref(),
        "matches": matches,
        "filters": filters(&rule.filters),
        "backends": backends,
        "timeouts": format!("{:?}", rule.timeouts),
        "retry": rule.retry.as_ref().map(|retry| format!("{retry:?}")),
    })
}

fn filters(filters: &[HttpFilter]) -> Vec<Value> {
    let names = |pairs: &[(http::HeaderName, http::HeaderValue)]| -> Vec<String> {
        pairs.iter().map(|(name, _)| name.as_str().to_owned()).collect()
    };
    let shown = |filter: &HttpFilter| {
        let (kind, modifier) = match filter {
            HttpFilter::RequestHeaders(modifier) => ("request-headers", modifier),
            HttpFilter::ResponseHeaders(modifier) => ("response-headers", modifier),
            HttpFilter::Rewrite(rewrite) => return json!({ "kind": "rewrite", "as": format!("{rewrite:?}") }),
            HttpFilter::Redirect(redirect) => return json!({ "kind": "redirect", "to": format!("{redirect:?}") }),
        };
        let remove: Vec<_> = modifier.remove.iter().map(http::HeaderName::as_str).collect();
        json!({ "kind": kind, "set": names(&modifier.set), "add": names(&modifier.add), "remove": remove })
    };
    filters.iter().map(shown).collect()
}

fn backend(backend: &Backend) -> Value {
    json!({ "service": backend.key().to_string(), "endpoints": endpoints(&backend.endpoints()) })
}

fn endpoints(set: &EndpointSet) -> Value {
    let shown = |endpoint: &std::sync::Arc<weft_proxy_core::endpoint::Endpoint>| {
        let spec = endpoint.spec();
        json!({
            "address": spec.addr.to_string(),
            "identity": spec.identity.as_ref().map(ToString::to_string),
            "workload": spec.workload.as_ref().map(ToString::to_string),
            "zone": spec.zone.as_deref(),
            "weight": spec.weight,
            "health": format!("{:?}", spec.health),
            "in_flight": endpoint.in_flight(),
            "ejected": endpoint.is_ejected(),
        })
    };
    json!({ "policy": format!("{:?}", set.policy()), "all": set.endpoints().iter().map(shown).collect::<Vec<_>>() })
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
