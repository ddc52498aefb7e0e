//! Whatever was written, a proxy takes what it is told: no resource makes an answer that the wire refuses, which would
//! cost everybody else what stands in that answer too.

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_index::{Index, IndexConfig, Object};
use weft_model::resources::{Resource, ResourceKey, Update};
use weft_model::{ServiceKey, WorkloadName};
use weft_proto::proxy::v1::WatchResponse;

fn text() -> impl Strategy<Value = String> {
    let long = [63usize, 64, 253, 254, 256, 257, 1_024, 1_025, 4_096, 4_097];
    let texts =
        ["", "a", "A", "a.b", "a_b", "-", "a\nb", "a\u{7}", "é", "host", "te", "Keep-Alive", "weft-x", "/", "//"];
    prop_oneof![
        3 => prop::sample::select(texts.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(long.to_vec()).prop_map(|len| "a".repeat(len)),
    ]
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["web", "v1", "a.b"][..])
}

fn path() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("/{text}"))
}

fn duration() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["0s", "1ms", "25h", "99999h", "99999h99999h"][..])
}

fn address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &["10.0.0.1", "10.0.0.2", "192.0.2.1", "::ffff:10.0.0.3", "fd00::1", "0.0.0.0", "x", "fe80::1"][..],
    )
}

fn number() -> impl Strategy<Value = u32> {
    prop::sample::select(&[0, 1, 80, 599, 600, 1_000_001, u32::MAX][..])
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3usize, 1 => prop::sample::select(&[16, 17, 64, 65, 129, 513][..])]
}

fn many(count: usize, item: impl Fn(usize) -> Value) -> Value {
    Value::Array((0..count).map(item).collect())
}

fn of(kind: &str, meta: &Value, spec: &Value) -> Option<Object> {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec});
    // What its own type refuses never comes to the index.
    match kind {
        "AuthorizationPolicy" => serde_json::from_value(value).ok().map(Object::AuthorizationPolicy),
        "HTTPRoute" => serde_json::from_value(value).ok().map(Object::HttpRoute),
        "MeshPolicy" => serde_json::from_value(value).ok().map(Object::MeshPolicy),
        "Service" => serde_json::from_value(value).ok().map(Object::Service),
        "TrafficPolicy" => serde_json::from_value(value).ok().map(Object::TrafficPolicy),
        _ => serde_json::from_value(value).ok().map(Object::Workload),
    }
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "shop", "labels": {"app": "web"}})
}

fn object() -> impl Strategy<Value = Option<Object>> {
    let service = (name(), address()).prop_map(|(name, ip)| {
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        of("Service", &meta(name), &json!({"clusterIP": ip, "selector": {"app": "web"}, "ports": ports}))
    });
    let workload =
        (name(), address(), text(), path(), number(), count()).prop_map(|(name, ip, zone, path, weight, n)| {
            let probes = many(n, |i| json!({"port": 8080, "path": format!("{path}{i}")}));
            let spec =
                json!({"address": ip, "serviceAccount": "web", "zone": zone, "weight": weight, "probes": probes});
            of("Workload", &meta(name), &spec)
        });
    let route = (text(), path(), text(), count(), count(), duration(), number()).prop_map(
        |(name, path, field, matches, headers, time, weight)| {
            let pair = |i: usize| json!({"name": if i == 0 { field.clone() } else { format!("x{i}") }, "value": field});
            let rule = json!({
                "name": name,
                "matches": many(matches, |_| json!({"path": {"type": "Exact", "value": path},
                    "headers": many(headers, pair), "queryParams": many(headers, pair)})),
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": many(headers, pair)}}],
                "backendRefs": [{"name": "a.b", "port": 80}, {"name": "web", "port": 80, "weight": weight & 0x7fff_ffff}],
                "timeouts": {"request": time, "backendRequest": time},
                "retry": {"codes": [weight & 0xffff], "backoff": time},
            });
            let to = |kind: &str, field: &str| json!({"hostname": name, "path": {"type": kind, field: path}});
            let urls = [
                json!({"type": "URLRewrite", "urlRewrite": to("ReplacePrefixMatch", "replacePrefixMatch")}),
                json!({"type": "RequestRedirect", "requestRedirect": to("ReplaceFullPath", "replaceFullPath")}),
            ];
            let urls = urls.map(|filter| json!({"filters": [filter], "backendRefs": [{"name": "web", "port": 80}]}));
            let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
            of("HTTPRoute", &meta("r"), &json!({"parentRefs": parents, "rules": [rule, urls[0], urls[1]]}))
        },
    );
    let traffic = (duration(), duration(), number(), number()).prop_map(|(a, b, n, m)| {
        of("TrafficPolicy", &meta("p"), &json!({"targetRefs": [{"kind": "Service", "name": "web"}],
            "connectTimeout": a, "timeouts": {"request": b}, "ejection": {"base": a, "max": b, "consecutiveFailures": n},
            "retry": {"codes": [n & 0xffff], "attempts": m, "backoff": b}, "retryBudget": {"minPerSecond": m}}))
    });
    let authz = (path(), text(), count(), number()).prop_map(|(path, method, n, port)| {
        let to = json!({"ports": many(n, |_| json!(port & 0xffff)), "methods": [method], "paths": [{"prefix": path}]});
        let from = json!([{"namespaces": many(n.max(1), |i| json!(format!("{method}{i}")))}]);
        of("AuthorizationPolicy", &meta("p"), &json!({"action": "Allow", "rules": [{"from": from, "to": [to]}]}))
    });
    let cidrs = ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::/0", "0.0.0.0/0", "fd00::/8", "x"];
    let urls = ["http://c:4317", "http://c:4317/?q", "http://u@c:4317", "http://c:4317//", "http://:1", "x"];
    let mesh = (prop::sample::select(cidrs.to_vec()), prop::sample::select(urls.to_vec()), number()).prop_map(
        |(net, url, n)| {
            let tracing = json!({"otlpEndpoint": url, "samplePerMillion": n});
            let meta = json!({"name": "m", "namespace": "weft-system"});
            of("MeshPolicy", &meta, &json!({"networks": [net], "telemetry": {"tracing": tracing}}))
        },
    );
    prop_oneof![service, workload, route, traffic, authz, mesh]
}

/// Every answer about the resources that can come up here.
fn answers(index: &Index) -> Vec<Update> {
    let mut answers = vec![(ResourceKey::Mesh, Resource::Mesh(index.mesh(vec![vec![1]])))];
    for name in ["web", "v1", "a.b"] {
        let key = ServiceKey::new("shop", name, 80);
        if name != "a.b" {
            answers.push((ResourceKey::Service(key.clone()), Resource::Service(index.service("shop", &key))));
            answers.push((ResourceKey::Endpoints(key.clone()), Resource::Endpoints(index.endpoints(&key, None))));
        }
        let inbound = index.inbound(&WorkloadName::new("shop", name));
        answers.extend(inbound.map(|spec| (ResourceKey::Inbound, Resource::Inbound(spec))));
    }
    for ip in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "[fd00::1]"] {
        for port in [0, 80, 8080] {
            let addr: std::net::SocketAddr = format!("{ip}:{port}").parse().unwrap();
            answers.push((ResourceKey::Destination(addr), Resource::Destination(index.destination(addr))));
        }
    }
    answers.into_iter().map(|(key, resource)| Update { key, version: 1, resource }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_the_index_answers_is_taken(objects in prop::collection::vec(object(), 1..12)) {
        let mut index = Index::new(IndexConfig::default());
        for object in objects.iter().flatten() {
            index.apply(object);
        }
        for update in answers(&index) {
            let received = Update::try_from(WatchResponse::from(&update));
            prop_assert_eq!(received.as_ref(), Ok(&update), "{:?}", index.keys().map(|k| index.status(&k)).collect::<Vec<_>>());
        }
    }
}
