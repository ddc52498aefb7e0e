//! Any valid model value.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, Balancing, ConnectTimeout, DefaultAuthorization, Ejection,
    MtlsMode, OperationMatch, PathPattern, PeerMatch, RetryBudget, RetryPolicy,
};
use weft_model::resources::{
    Destination, EgressMode, EndpointsDelta, InboundPort, InboundSpec, Lifecycle, MeshSpec, Resource, ResourceKey,
    ServiceSpec, TelemetrySpec, Update, WorkloadDestination,
};
use weft_model::route::{
    Backend, BackendTarget, HeaderMatch, HeaderModifier, HttpFilter, HttpMatch, HttpRoute, HttpRule, PathMatch,
    PathModifier, QueryMatch, REDIRECT_CODES, Redirect, Rewrite, Timeouts, UrlScheme,
};
use weft_model::{AppProtocol, EndpointAddr, EndpointSpec, Health, PolicyId, ServiceKey, SpiffeId, WorkloadName};

use crate::convert::{Hello, Request};

fn label() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,10}[a-z0-9]"
}

fn arc(s: impl Strategy<Value = String>) -> impl Strategy<Value = Arc<str>> {
    s.prop_map(Arc::from)
}

fn path() -> impl Strategy<Value = Arc<str>> {
    arc("/[a-z/%ü.]{0,12}")
}

fn ms(min: u64) -> impl Strategy<Value = Duration> {
    (min..86_400_000u64).prop_map(Duration::from_millis)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..224, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<[u16; 7]>().prop_map(|[a, b, c, d, e, f, g]| IpAddr::from([0xfd00, a, b, c, d, e, f, g])),
    ]
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    (ip(), 1u16..).prop_map(SocketAddr::from)
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    (label(), label(), 1u16..).prop_map(|(ns, name, port)| ServiceKey::new(&ns, &name, port))
}

fn workload_name() -> impl Strategy<Value = WorkloadName> {
    (label(), label()).prop_map(|(ns, name)| WorkloadName::new(&ns, &name))
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    let td = || "cluster.local".parse().unwrap();
    (label(), label()).prop_map(move |(ns, sa)| SpiffeId::new(&td(), &ns, &sa).unwrap())
}

fn policy_id() -> impl Strategy<Value = PolicyId> {
    ("[A-Z][A-Za-z]{0,10}", prop_oneof![Just(String::new()), label()], label())
        .prop_map(|(kind, ns, name)| PolicyId::new(&kind, &ns, &name))
}

fn protocol() -> impl Strategy<Value = AppProtocol> {
    use AppProtocol::{Grpc, Http, Http2, Opaque, Undeclared};
    prop::sample::select(vec![Grpc, Http, Http2, Opaque, Undeclared])
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST, Method::from_bytes(b"PURGE").unwrap()])
}

fn endpoint() -> impl Strategy<Value = EndpointSpec> {
    let health = prop::sample::select(vec![Health::Ready, Health::ServingTerminating]);
    (addr(), option::of(identity()), option::of(workload_name()), option::of(arc(label())), 1u32..1_000_000, health)
        .prop_map(|(addr, identity, workload, zone, weight, health)| EndpointSpec {
            addr: EndpointAddr(addr),
            identity,
            workload,
            zone,
            weight,
            health,
        })
}

fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![
        Just(Destination::NotFound),
        Just(Destination::PortNotFound),
        service_key().prop_map(Destination::Service),
        (endpoint(), protocol(), option::of(service_key())).prop_map(|(endpoint, protocol, service)| {
            Destination::Workload(WorkloadDestination { endpoint, protocol, service })
        }),
    ]
}

fn ejection() -> impl Strategy<Value = Ejection> {
    (1u32.., ms(1), ms(1), 0u8..=100, 0u8..=100).prop_map(|(consecutive_failures, a, b, out, panic_percent)| Ejection {
        consecutive_failures,
        base: a.min(b),
        max: a.max(b),
        max_ejected_percent: out,
        panic_percent,
    })
}

fn endpoints() -> impl Strategy<Value = EndpointsDelta> {
    let policy = (ms(1), ms(1), option::of(ejection()), ms(1)).prop_map(|(default_rtt, decay, ejection, connect)| {
        let balancing = Balancing { default_rtt, decay };
        BackendPolicy { balancing, ejection, connect_timeout: ConnectTimeout(connect) }
    });
    (any::<bool>(), btree_map(addr(), endpoint(), 0..6), vec(addr(), 0..4), policy).prop_map(
        |(reset, upserted, mut removed, policy)| {
            removed.retain(|addr| !upserted.contains_key(addr));
            let named = |(addr, spec)| EndpointSpec { addr: EndpointAddr(addr), ..spec };
            EndpointsDelta { reset, upserted: upserted.into_iter().map(named).collect(), removed, policy }
        },
    )
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    (vec(100u16..600, 0..4), vec(0u16..=16, 0..4), any::<bool>(), 0u32..=100, ms(0), any::<bool>()).prop_map(
        |(status_codes, grpc_codes, on_reset, attempts, backoff, non_idempotent)| RetryPolicy {
            status_codes,
            grpc_codes,
            on_reset,
            attempts,
            backoff,
            non_idempotent,
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (option::of(ms(1)), option::of(ms(1))).prop_map(|(request, backend_request)| Timeouts { request, backend_request })
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        arc("[A-Za-z]{1,8}").prop_map(PathMatch::GrpcMethod),
    ];
    let headers = btree_map("x-[a-z]{1,4}", arc("[ -~ü]{0,8}"), 0..3).prop_map(|m| {
        m.into_iter().map(|(n, value)| HeaderMatch { name: HeaderName::try_from(n).unwrap(), value }).collect()
    });
    let query = btree_map(arc("[ -~ü]{1,4}"), arc("[ -~ü]{0,8}"), 0..3)
        .prop_map(|m| m.into_iter().map(|(name, value)| QueryMatch { name, value }).collect());
    (option::of(path), option::of(method()), headers, query).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method,
        headers,
        query,
    })
}

fn filter() -> impl Strategy<Value = HttpFilter> {
    let name = || "x-[a-z]{1,4}".prop_map(|n| HeaderName::try_from(n).unwrap());
    let pair = move || (name(), "[!-~]{0,8}".prop_map(|v| HeaderValue::try_from(v).unwrap()));
    (vec(pair(), 0..3), vec(pair(), 0..3), vec(name(), 0..3), any::<bool>()).prop_map(|(set, add, remove, request)| {
        let modifier = HeaderModifier { set, add, remove };
        if request { HttpFilter::RequestHeaders(modifier) } else { HttpFilter::ResponseHeaders(modifier) }
    })
}

/// A filter that may stand in a list once; no prefix is replaced, so that it fits every rule.
fn url_filter() -> impl Strategy<Value = HttpFilter> {
    let path = || option::of(arc("/([a-z0-9~]{1,4}/){0,3}").prop_map(PathModifier::Full));
    let host = || option::of(arc(label()));
    let scheme = option::of(prop_oneof![Just(UrlScheme::Http), Just(UrlScheme::Https)]);
    let redirect = (scheme, host(), path(), option::of(1u16..), 0..REDIRECT_CODES.len());
    prop_oneof![
        (host(), path()).prop_map(|(hostname, path)| HttpFilter::Rewrite(Rewrite { hostname, path })),
        redirect.prop_map(|(scheme, hostname, path, port, code)| {
            HttpFilter::Redirect(Redirect { scheme, hostname, path, port, status: REDIRECT_CODES[code] })
        }),
    ]
}

/// Filters of a rule.
fn filters() -> impl Strategy<Value = Vec<HttpFilter>> {
    (vec(filter(), 0..2), option::of(url_filter())).prop_map(|(mut filters, more)| {
        filters.extend(more);
        filters
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let target = option::of(service_key()).prop_map(|k| k.map_or(BackendTarget::Invalid, BackendTarget::Service));
    (target, 0u32..1_000_000, vec(filter(), 0..2)).prop_map(|(target, weight, filters)| Backend {
        target,
        weight,
        filters,
    })
}

fn route() -> impl Strategy<Value = HttpRoute> {
    let name = option::of(arc(label()));
    let rule = (name, vec(http_match(), 0..3), filters(), vec(backend(), 0..3), timeouts(), option::of(retry()))
        .prop_map(|(name, matches, filters, backends, timeouts, retry)| HttpRule {
            name,
            matches,
            filters,
            backends,
            timeouts,
            retry,
        });
    (policy_id(), any::<i64>(), vec(rule, 0..3)).prop_map(|(id, created, rules)| HttpRoute { id, created, rules })
}

fn service() -> impl Strategy<Value = ServiceSpec> {
    let budget =
        (0u8..=100, 0u32..1_000_000).prop_map(|(percent, min_per_second)| RetryBudget { percent, min_per_second });
    let more = (budget, any::<bool>(), option::of(policy_id()));
    (service_key(), protocol(), vec(route(), 0..3), timeouts(), option::of(retry()), more).prop_map(
        |(key, protocol, http_routes, timeouts, retry, (retry_budget, client_ip_affinity, policy))| ServiceSpec {
            key,
            protocol,
            http_routes,
            timeouts,
            retry,
            retry_budget,
            client_ip_affinity,
            policy,
        },
    )
}

fn mtls() -> impl Strategy<Value = MtlsMode> {
    prop::sample::select(vec![MtlsMode::Permissive, MtlsMode::Strict])
}

fn authz() -> impl Strategy<Value = AuthzPolicy> {
    let peer = prop_oneof![
        Just(PeerMatch::Authenticated),
        identity().prop_map(PeerMatch::Identity),
        arc(label()).prop_map(PeerMatch::Namespace),
    ];
    let pattern = prop_oneof![path().prop_map(PathPattern::Exact), path().prop_map(PathPattern::Prefix)];
    let operation = (vec(1u16.., 0..3), vec(method(), 0..3), vec(pattern, 0..3))
        .prop_map(|(ports, methods, paths)| OperationMatch { ports, methods, paths });
    let rule = (vec(peer, 0..3), vec(operation, 0..3)).prop_map(|(from, to)| AuthzRule { from, to });
    let action = prop::sample::select(vec![AuthzAction::Allow, AuthzAction::Audit, AuthzAction::Deny]);
    (policy_id(), action, vec(1u16.., 0..3), vec(rule, 0..3)).prop_map(|(id, action, ports, rules)| AuthzPolicy {
        id,
        action,
        ports,
        rules,
    })
}

fn inbound() -> impl Strategy<Value = InboundSpec> {
    use DefaultAuthorization::{Allow, Authenticated, Deny};
    use Lifecycle::{Released, Serving, Terminating};
    let port = (protocol(), mtls(), option::of(service_key()), vec(path(), 0..3), vec(path(), 0..3));
    let ports = btree_map(1u16.., port, 0..4).prop_map(|m| {
        let port = |(port, (protocol, mtls, service, probe_paths, scrape_paths))| InboundPort {
            port,
            protocol,
            mtls,
            service,
            probe_paths,
            scrape_paths,
        };
        m.into_iter().map(port).collect()
    });
    let default = (prop::sample::select(vec![Allow, Authenticated, Deny]), option::of(policy_id()));
    let lifecycle = prop::sample::select(vec![Released, Serving, Terminating]);
    (workload_name(), ports, mtls(), default, vec(authz(), 0..3), lifecycle).prop_map(
        |(workload, ports, mtls, (default_authorization, default_policy), authz, lifecycle)| InboundSpec {
            workload,
            ports,
            mtls,
            default_authorization,
            default_policy,
            authz,
            lifecycle,
        },
    )
}

fn mesh() -> impl Strategy<Value = MeshSpec> {
    let network = (ip(), 8u8..=32).prop_map(|(ip, bits)| IpNet::new(ip, bits).unwrap().trunc());
    let telemetry = (any::<bool>(), 0u32..=1_000_000, option::of(arc("http://[a-z]{1,8}:4317"))).prop_map(
        |(access_log, trace_per_million, otlp_endpoint)| TelemetrySpec { access_log, trace_per_million, otlp_endpoint },
    );
    let egress = prop::sample::select(vec![EgressMode::Allow, EgressMode::MeshOnly]);
    (vec(vec(any::<u8>(), 1..9), 1..4), vec(network, 0..4), egress, telemetry).prop_map(
        |(trust_anchors, networks, egress, telemetry)| MeshSpec { trust_anchors, networks, egress, telemetry },
    )
}

fn resource_key() -> impl Strategy<Value = ResourceKey> {
    prop_oneof![
        (ip(), any::<u16>()).prop_map(|addr| ResourceKey::Destination(addr.into())),
        service_key().prop_map(ResourceKey::Endpoints),
        service_key().prop_map(ResourceKey::Service),
        Just(ResourceKey::Inbound),
        Just(ResourceKey::Mesh),
    ]
}

pub(super) fn update() -> impl Strategy<Value = Update> {
    let answer = prop_oneof![
        (addr(), destination()).prop_map(|(a, d)| (ResourceKey::Destination(a), Resource::Destination(d))),
        (service_key(), endpoints()).prop_map(|(k, e)| (ResourceKey::Endpoints(k), Resource::Endpoints(e))),
        inbound().prop_map(|i| (ResourceKey::Inbound, Resource::Inbound(i))),
        mesh().prop_map(|m| (ResourceKey::Mesh, Resource::Mesh(m))),
        service().prop_map(|s| (ResourceKey::Service(s.key.clone()), Resource::Service(s))),
    ];
    (answer, any::<u64>()).prop_map(|((key, resource), version)| Update { key, version, resource })
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (workload_name(), "[ -~]{0,36}", vec(ip(), 0..3), "[0-9.]{0,8}").prop_map(
            |(workload, uid, addresses, version)| Request::Hello(Hello { workload, uid, addresses, version })
        ),
        resource_key().prop_map(Request::Subscribe),
        resource_key().prop_map(Request::Unsubscribe),
        (resource_key(), any::<u64>()).prop_map(|(key, version)| Request::Ack { key, version }),
        (resource_key(), any::<u64>(), "[ -~ü]{0,99}").prop_map(|(key, version, reason)| Request::Nack {
            key,
            version,
            reason
        }),
    ]
}
