//! Resources by a few words each, and an index that holds some.
#![expect(clippy::needless_pass_by_value, reason = "json! at the call reads better without a borrow")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_model::resources::{Destination, InboundSpec, ServiceSpec};
use weft_model::{ServiceKey, WorkloadName};

use crate::{Index, IndexConfig, Kind, Object, ObjectKey, ObjectStatus};

pub(super) fn index(objects: &[Object]) -> Index {
    let config = IndexConfig {
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        reserved_networks: vec!["10.96.0.0/16".parse().unwrap()],
        ..IndexConfig::default()
    };
    let mut index = Index::new(config);
    for object in objects {
        index.apply(object);
    }
    index
}

fn meta(name: &str) -> Value {
    json!({"namespace": "shop", "name": name})
}

/// A Service of namespace `shop` that selects `app=<name>`, port 80 to 8080.
pub(super) fn mk_service(name: &str, ip: &str) -> Object {
    mk_service_with(name, ip, json!([{"name": "http", "port": 80, "targetPort": 8080}]), json!({}))
}

pub(super) fn mk_service_with(name: &str, ip: &str, ports: Value, more: Value) -> Object {
    let mut spec = json!({"clusterIP": ip, "selector": {"app": name}, "ports": ports});
    merge(&mut spec, more);
    Object::Service(Box::new(
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": spec}))
            .unwrap(),
    ))
}

/// A Workload of namespace `shop` with label `app=<app>`.
pub(super) fn mk_workload(name: &str, app: &str, ip: &str) -> Object {
    mk_workload_with(name, app, ip, json!({}))
}

pub(super) fn mk_workload_with(name: &str, app: &str, ip: &str, more: Value) -> Object {
    let mut spec = json!({"address": ip, "serviceAccount": app});
    merge(&mut spec, more);
    let mut meta = meta(name);
    meta["labels"] = json!({"app": app});
    weft("Workload", &meta, &spec)
}

/// A ready Pod of namespace `shop` with label `app=<app>`, with a proxy beside it.
pub(super) fn mk_pod(name: &str, app: &str, ip: &str, more: Value) -> Object {
    let mut spec = json!({
        "serviceAccountName": app,
        "initContainers": [{"name": "weft-proxy", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "ports": [{"name": "web", "containerPort": 8082}]}],
    });
    merge(&mut spec, more);
    let mut meta = meta(name);
    meta["labels"] = json!({"app": app});
    let status = json!({"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]});
    Object::Pod(Box::new(serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()))
}

/// As [`mk_pod`], with a second address of the other family, where it is not empty.
pub(super) fn mk_dual_pod(name: &str, app: &str, (one, other): (&str, &str), more: Value) -> Object {
    let Object::Pod(mut pod) = mk_pod(name, app, one, more) else { panic!("a pod") };
    let ips = [one, other].into_iter().filter(|ip| !ip.is_empty()).map(|ip| json!({"ip": ip}));
    if let Some(status) = &mut pod.status {
        status.pod_ips = Some(serde_json::from_value(ips.collect()).unwrap());
    }
    Object::Pod(pod)
}

/// A Node in a zone, where that is not empty.
pub(super) fn mk_node(name: &str, zone: &str) -> Object {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    Object::Node(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap())
}

pub(super) fn mk_policy(kind: &str, name: &str, spec: Value) -> Object {
    weft(kind, &meta(name), &spec)
}

pub(super) fn mk_policy_in(kind: &str, namespace: &str, name: &str, spec: Value) -> Object {
    weft(kind, &json!({"namespace": namespace, "name": name}), &spec)
}

fn weft(kind: &str, meta: &Value, spec: &Value) -> Object {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec});
    match kind {
        "AuthorizationPolicy" => Object::AuthorizationPolicy(serde_json::from_value(value).unwrap()),
        "MeshPolicy" => Object::MeshPolicy(serde_json::from_value(value).unwrap()),
        "TrafficPolicy" => Object::TrafficPolicy(serde_json::from_value(value).unwrap()),
        "Workload" => Object::Workload(serde_json::from_value(value).unwrap()),
        other => panic!("{other}"),
    }
}

pub(super) fn mk_slice(name: &str, service: &str, port_name: &str, port: u16, endpoints: Value) -> Object {
    Object::EndpointSlice(Box::new(
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": port_name, "port": port}],
            "endpoints": endpoints,
        }))
        .unwrap(),
    ))
}

/// A route of namespace `shop` with these rules, attached to a Service of `shop`.
pub(super) fn mk_route(name: &str, parent: &str, rules: Value) -> Object {
    mk_route_in("shop", name, json!([{"group": "", "kind": "Service", "namespace": "shop", "name": parent}]), rules)
}

pub(super) fn mk_route_in(namespace: &str, name: &str, parents: Value, rules: Value) -> Object {
    Object::HttpRoute(Box::new(
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"parentRefs": parents, "rules": rules},
        }))
        .unwrap(),
    ))
}

pub(super) fn mk_grpc_route(name: &str, parent: &str, rules: Value) -> Object {
    Object::GrpcRoute(Box::new(
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": parent}], "rules": rules},
        }))
        .unwrap(),
    ))
}

fn merge(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else { panic!("two objects") };
    into.extend(more);
}

pub(super) fn key(service: &str, port: u16) -> ServiceKey {
    ServiceKey::new("shop", service, port)
}

pub(super) fn destination(index: &Index, addr: &str) -> Destination {
    index.destination(addr.parse::<SocketAddr>().unwrap())
}

pub(super) fn service(index: &Index, name: &str) -> ServiceSpec {
    index.service("shop", &key(name, 80))
}

/// Address and identity's service account of each endpoint.
pub(super) fn endpoints(index: &Index, service: &str, port: u16) -> BTreeMap<String, String> {
    let delta = index.endpoints(&key(service, port), None);
    assert!(delta.reset && delta.removed.is_empty());
    let account = |id: &weft_model::SpiffeId| id.service_account().to_owned();
    delta
        .upserted
        .iter()
        .map(|e| (e.addr.to_string(), e.identity.as_ref().map_or_else(|| "-".to_owned(), account)))
        .collect()
}

pub(super) fn inbound(index: &Index, workload: &str) -> InboundSpec {
    index.inbound(&WorkloadName::new("shop", workload)).unwrap()
}

pub(super) fn status(index: &Index, kind: Kind, name: &str) -> ObjectStatus {
    index.status(&ObjectKey::new(kind, "shop", name)).unwrap()
}

/// Fields of the problems of a resource.
pub(super) fn fields(status: &ObjectStatus) -> Vec<&str> {
    status.problems.iter().map(|p| p.field.as_str()).collect()
}
