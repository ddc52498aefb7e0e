use proptest::prelude::*;
use prost::Message as _;
use weft_model::ServiceKey;
use weft_model::policy::{BackendPolicy, Ejection};
use weft_model::resources::{EndpointsDelta, ResourceKey, ServiceSpec, Update};

use super::{Hello, Request};
use crate::proxy::v1 as wire;

mod any;

fn decoded(update: &Update) -> Update {
    let bytes = wire::WatchResponse::from(update).encode_to_vec();
    Update::try_from(wire::WatchResponse::decode(&*bytes).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_sent_is_what_arrives(update in any::update()) {
        prop_assert_eq!(decoded(&update), update);
    }

    #[test]
    fn what_a_proxy_says_arrives(request in any::request()) {
        let bytes = wire::WatchRequest::from(request.clone()).encode_to_vec();
        prop_assert_eq!(Request::try_from(wire::WatchRequest::decode(&*bytes).unwrap()).unwrap(), request);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(response) = wire::WatchResponse::decode(&*bytes) {
            let _ignored = Update::try_from(response);
        }
        if let Ok(request) = wire::WatchRequest::decode(&*bytes) {
            let _ignored = Request::try_from(request);
        }
    }

    /// Bytes that begin as a message reach much deeper than arbitrary ones.
    #[test]
    fn damaged_messages_never_panic(update in any::update(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = wire::WatchResponse::from(&update).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(response) = wire::WatchResponse::decode(&*bytes)
            && let Ok(believed) = Update::try_from(response)
        {
            prop_assert_eq!(decoded(&believed), believed);
        }
    }
}

/// Changes one valid message and says what must be found wrong with it.
fn refused<W>(
    mut message: W,
    spoil: impl FnOnce(&mut W),
    want: &str,
    convert: impl FnOnce(W) -> Result<(), super::Invalid>,
) {
    spoil(&mut message);
    let error = convert(message).unwrap_err().to_string();
    assert!(error.starts_with(want), "{error:?} does not begin with {want:?}");
}

fn key() -> wire::ServiceKey {
    wire::ServiceKey { namespace: "shop".to_owned(), name: "order".to_owned(), port: 80 }
}

fn service() -> wire::Service {
    let pair = || wire::NameValue { name: "x-a".to_owned(), value: "1".to_owned() };
    let modifier = wire::HeaderModifier { set: vec![pair()], add: vec![pair()], remove: vec!["x-b".to_owned()] };
    let filter = wire::HttpFilter { kind: Some(wire::http_filter::Kind::RequestHeaders(modifier)) };
    let prefix = wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix("/a".to_owned())) };
    let rule = wire::HttpRule {
        matches: vec![wire::HttpMatch {
            path: Some(prefix),
            headers: vec![pair()],
            query: vec![pair()],
            ..Default::default()
        }],
        filters: vec![filter],
        backends: vec![wire::Backend { service: Some(key()), weight: 1, filters: Vec::new() }],
        ..Default::default()
    };
    let id = wire::PolicyId { kind: "HTTPRoute".to_owned(), namespace: "shop".to_owned(), name: "r".to_owned() };
    let mut service = wire::Service::from(&ServiceSpec::plain(ServiceKey::new("shop", "order", 80)));
    service.http_routes = vec![wire::HttpRoute { id: Some(id), created: 1, rules: vec![rule] }];
    service
}

type Spoil<W> = fn(&mut W);

#[test]
fn a_service_that_is_wrong_is_refused_by_field() {
    let rule = "http_routes[0].rules[0]";
    let cases: [(Spoil<wire::Service>, String); 14] = [
        (|s| s.key = None, "key: is missing".into()),
        (|s| s.key.as_mut().unwrap().port = 70_000, "key.port: 70000 is not from 1 to 65535".into()),
        (|s| s.protocol = 99, "protocol: 99 is not a value of AppProtocol".into()),
        (|s| s.retry_budget.as_mut().unwrap().percent = 101, "retry_budget.percent: 101".into()),
        (|s| s.timeouts.as_mut().unwrap().request_ms = u64::MAX, "timeouts.request_ms: 18446744073709551615".into()),
        (|s| s.http_routes[0].id = None, "http_routes[0].id: is missing".into()),
        (|s| s.http_routes = vec![s.http_routes[0].clone(); 257], "http_routes: 257 items are more than 256".into()),
        (
            |s| s.http_routes[0].rules[0].matches[0].headers[0].name = "a b".to_owned(),
            format!("{rule}.matches[0].headers[0].name: \"a b\" is not the name of a header"),
        ),
        (
            |s| {
                let headers = &mut s.http_routes[0].rules[0].matches[0].headers;
                headers.push(wire::NameValue { name: "X-A".to_owned(), value: String::new() });
            },
            format!("{rule}.matches[0].headers[1]: x-a stands here twice"),
        ),
        (
            |s| s.http_routes[0].rules[0].matches[0].path = Some(wire::PathMatch { kind: None }),
            format!("{rule}.matches[0].path.kind: is missing"),
        ),
        (
            |s| {
                let kind = wire::path_match::Kind::Prefix("a".to_owned());
                s.http_routes[0].rules[0].matches[0].path = Some(wire::PathMatch { kind: Some(kind) });
            },
            format!("{rule}.matches[0].path.prefix: \"a\" is not a path"),
        ),
        (
            |s| s.http_routes[0].rules[0].filters[0].kind = None,
            format!("{rule}.filters[0].kind: is missing, or is of a kind"),
        ),
        (
            |s| {
                let remove = vec!["Transfer-Encoding".to_owned()];
                let modifier = wire::HeaderModifier { remove, ..Default::default() };
                let kind = wire::http_filter::Kind::ResponseHeaders(modifier);
                s.http_routes[0].rules[0].filters[0].kind = Some(kind);
            },
            format!("{rule}.filters[0].response_headers.remove[0]: header \"transfer-encoding\" belongs to"),
        ),
        (
            |s| s.http_routes[0].rules[0].backends[0].weight = 1_000_001,
            format!("{rule}.backends[0].weight: 1000001 is not from 0 to 1000000"),
        ),
    ];
    for (spoil, want) in cases {
        refused(service(), spoil, &want, |s| ServiceSpec::try_from(s).map(|_| ()));
    }
}

#[test]
fn headers_that_weft_vouches_for_cannot_be_set() {
    for name in ["weft-client-id", "Weft-Error", "Connection", "content-length"] {
        let spoil = |s: &mut wire::Service| {
            let set = vec![wire::NameValue { name: name.to_owned(), value: "x".to_owned() }];
            let kind = wire::http_filter::Kind::RequestHeaders(wire::HeaderModifier { set, ..Default::default() });
            s.http_routes[0].rules[0].filters[0].kind = Some(kind);
        };
        let want = "http_routes[0].rules[0].filters[0].request_headers.set[0].name: header";
        refused(service(), spoil, want, |s| ServiceSpec::try_from(s).map(|_| ()));
    }
}

fn endpoints() -> wire::Endpoints {
    let policy = BackendPolicy { ejection: Some(Ejection::default()), ..Default::default() };
    let endpoint = |addr: &str| wire::Endpoint { addr: addr.to_owned(), weight: 1, ..Default::default() };
    wire::Endpoints {
        reset: true,
        upserted: vec![endpoint("10.0.0.1:80"), endpoint("[fd00::1]:80")],
        removed: vec!["10.0.0.3:80".to_owned()],
        policy: Some((&policy).into()),
    }
}

#[test]
fn endpoints_that_are_wrong_are_refused_by_field() {
    let cases: [(Spoil<wire::Endpoints>, &str); 12] = [
        (|e| e.upserted[1].addr = "10.0.0.1:80".to_owned(), "upserted[1]: 10.0.0.1:80 stands here twice"),
        (|e| e.upserted[1].addr = "[::ffff:10.0.0.1]:80".to_owned(), "upserted[1]: 10.0.0.1:80 stands here twice"),
        (|e| e.removed[0] = "10.0.0.1:80".to_owned(), "removed[0]: 10.0.0.1:80 stands here twice"),
        (|e| e.upserted[0].addr = "0.0.0.0:80".to_owned(), "upserted[0].addr: \"0.0.0.0:80\" is not an address"),
        (|e| e.upserted[0].addr = "224.0.0.1:80".to_owned(), "upserted[0].addr: \"224.0.0.1:80\" is not"),
        (|e| e.upserted[0].addr = "[fe80::1%2]:80".to_owned(), "upserted[0].addr: \"[fe80::1%2]:80\" is not"),
        (|e| e.upserted[0].addr = "10.0.0.1:0".to_owned(), "upserted[0].addr: 0 is not from 1 to 65535"),
        (|e| e.upserted[0].addr = "order:80".to_owned(), "upserted[0].addr: \"order:80\" is not"),
        (|e| e.upserted[0].weight = 0, "upserted[0].weight: 0 is not from 1"),
        (|e| e.upserted[0].identity = "spiffe://x".to_owned(), "upserted[0].identity: \"spiffe://x\" is not spiffe://"),
        (|e| e.policy = None, "policy: is missing"),
        (|e| e.policy.as_mut().unwrap().ejection.as_mut().unwrap().max_ms = 1, "policy.ejection.max_ms: 1 is not from"),
    ];
    for (spoil, want) in cases {
        refused(endpoints(), spoil, want, |e| EndpointsDelta::try_from(e).map(|_| ()));
    }
}

fn inbound() -> wire::WatchResponse {
    let id = wire::PolicyId {
        kind: "AuthorizationPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: "only-storefront".to_owned(),
    };
    let peer = wire::PeerMatch { kind: Some(wire::peer_match::Kind::Namespace("shop".to_owned())) };
    let rule = wire::AuthzRule { from: vec![peer], to: vec![wire::OperationMatch::default()] };
    let policy = wire::AuthzPolicy { id: Some(id), action: 1, ports: vec![80], rules: vec![rule] };
    let workload = wire::WorkloadName { namespace: "shop".to_owned(), name: "order-1".to_owned() };
    let inbound = wire::Inbound {
        workload: Some(workload),
        ports: vec![wire::InboundPort { port: 80, ..Default::default() }],
        authz: vec![policy],
        ..Default::default()
    };
    wire::WatchResponse {
        key: Some((&ResourceKey::Inbound).into()),
        version: 1,
        resource: Some(wire::watch_response::Resource::Inbound(inbound)),
    }
}

#[test]
fn what_could_weaken_a_policy_is_refused() {
    let cases: [(Spoil<wire::Inbound>, &str); 12] = [
        (|i| i.mtls = 2, "inbound.mtls: 2 is not a value of MtlsMode"),
        (|i| i.default_authorization = 3, "inbound.default_authorization: 3 is not a value of"),
        (|i| i.lifecycle = -1, "inbound.lifecycle: -1 is not a value of Lifecycle"),
        (|i| i.ports[0].mtls = 7, "inbound.ports[0].mtls: 7 is not a value of MtlsMode"),
        (|i| i.ports.push(i.ports[0].clone()), "inbound.ports[1]: 80 stands here twice"),
        (
            |i| i.ports[0].probe_paths = vec!["healthz".to_owned()],
            "inbound.ports[0].probe_paths[0]: \"healthz\" is not",
        ),
        (|i| i.ports[0].scrape_paths = vec!["m".to_owned()], "inbound.ports[0].scrape_paths[0]: \"m\" is not"),
        (|i| i.authz[0].action = 0, "inbound.authz[0].action: 0 is not a value of AuthzAction"),
        (|i| i.authz[0].action = 4, "inbound.authz[0].action: 4 is not a value of AuthzAction"),
        (|i| i.authz[0].rules[0].from[0].kind = None, "inbound.authz[0].rules[0].from[0].kind: is missing"),
        (
            |i| i.authz[0].rules[0].to[0].paths = vec![wire::PathMatch { kind: None }],
            "inbound.authz[0].rules[0].to[0].paths[0].kind: is missing",
        ),
        (
            |i| i.authz[0].rules[0].to[0].methods = vec!["G ET".to_owned()],
            "inbound.authz[0].rules[0].to[0].methods[0]: \"G ET\" is not a method",
        ),
    ];
    for (spoil, want) in cases {
        let spoil = |response: &mut wire::WatchResponse| match &mut response.resource {
            Some(wire::watch_response::Resource::Inbound(inbound)) => spoil(inbound),
            other => panic!("{other:?}"),
        };
        refused(inbound(), spoil, want, |r| Update::try_from(r).map(|_| ()));
    }
}

#[test]
fn a_mesh_that_is_wrong_is_refused_by_field() {
    let cases: [(Spoil<wire::MeshConfig>, &str); 8] = [
        (|m| m.trust_anchors.clear(), "mesh.trust_anchors: is missing"),
        (|m| m.trust_anchors[0].clear(), "mesh.trust_anchors[0]: is missing"),
        (|m| m.trust_anchors[0] = vec![0; 20_000], "mesh.trust_anchors[0]: 20000 bytes are more than"),
        (|m| m.networks = vec!["10.0.0.0/33".to_owned()], "mesh.networks[0]: \"10.0.0.0/33\" is not a network"),
        (|m| m.networks = vec!["::ffff:10.0.0.0/104".to_owned()], "mesh.networks[0]:"),
        (|m| m.egress = 2, "mesh.egress: 2 is not a value of EgressMode"),
        (|m| m.telemetry.as_mut().unwrap().trace_per_million = 1_000_001, "mesh.telemetry.trace_per_million: 1000001"),
        (
            |m| m.telemetry.as_mut().unwrap().otlp_endpoint = "http://u:p@c:1".to_owned(),
            "mesh.telemetry.otlp_endpoint: \"http://u:p@c:1\" is not http://host:port",
        ),
    ];
    for (spoil, want) in cases {
        let mut mesh = wire::MeshConfig {
            trust_anchors: vec![vec![1]],
            networks: vec!["10.0.0.0/8".to_owned()],
            telemetry: Some(wire::Telemetry::default()),
            ..Default::default()
        };
        spoil(&mut mesh);
        let response = wire::WatchResponse {
            key: Some((&ResourceKey::Mesh).into()),
            version: 1,
            resource: Some(wire::watch_response::Resource::Mesh(mesh)),
        };
        refused(response, |_| (), want, |r| Update::try_from(r).map(|_| ()));
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let mut response = inbound();
    response.key = Some((&ResourceKey::Mesh).into());
    refused(response, |_| (), "resource: answers inbound", |r| Update::try_from(r).map(|_| ()));

    let other = ServiceKey::new("shop", "user", 80);
    let response = wire::WatchResponse {
        key: Some((&ResourceKey::Service(other)).into()),
        version: 1,
        resource: Some(wire::watch_response::Resource::Service(service())),
    };
    refused(response, |_| (), "service.key: answers shop/order:80", |r| Update::try_from(r).map(|_| ()));
}

#[test]
fn addresses_become_canonical() {
    let kind = wire::resource_key::Kind::Destination("[::ffff:10.0.0.1]:80".to_owned());
    let key = ResourceKey::try_from(wire::ResourceKey { kind: Some(kind) }).unwrap();
    assert_eq!(key, ResourceKey::Destination("10.0.0.1:80".parse().unwrap()));
}

#[test]
fn a_short_deadline_does_not_become_none() {
    let mut spec = ServiceSpec::plain(ServiceKey::new("shop", "order", 80));
    spec.timeouts.request = Some(std::time::Duration::from_micros(1));
    assert_eq!(wire::Service::from(&spec).timeouts.unwrap().request_ms, 1);
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let request = Request::Nack { key: ResourceKey::Mesh, version: 1, reason: "ü\n".repeat(600) };
    let wire = wire::WatchRequest::from(request);
    let Request::Nack { reason, .. } = Request::try_from(wire).unwrap() else { panic!("not a refusal") };
    assert!(reason.len() <= super::bounds::REASON_BYTES_MAX && reason.starts_with("ü ü "), "{reason}");
}

#[test]
fn a_hello_is_validated() {
    let hello = wire::Hello { addresses: vec!["10.0.0.1:80".to_owned()], ..Default::default() };
    assert!(Hello::try_from(hello).unwrap_err().to_string().starts_with("workload: is missing"));
}

#[test]
fn a_request_to_certify_does_not_show_its_token() {
    use crate::identity::v1::{CertifyRequest, certify_request::Proof};
    let proof = Some(Proof::JoinToken("secret".to_owned()));
    let request = CertifyRequest { csr_der: vec![1], identity: "spiffe://x".to_owned(), proof };
    let shown = format!("{request:?} {:?}", request.proof);
    assert!(!shown.contains("secret") && shown.contains("spiffe://x"), "{shown}");
}
