//! Whatever the order of changes: answers are those of an index built at once, every answer that changed was announced,
//! and who follows the deltas has the whole set.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_model::resources::{Destination, EndpointsDelta, InboundSpec, MeshSpec, ServiceSpec};
use weft_model::{EndpointSpec, ServiceKey, WorkloadName};

use super::fixtures::{
    index, key, mk_dual_pod, mk_node, mk_pod, mk_policy, mk_policy_in, mk_route_in, mk_service_with, mk_slice,
    mk_workload_with,
};
use crate::{Affected, Index, Object, ObjectKey, ObjectStatus};

const APPS: [&str; 3] = ["a", "b", "c"];
const WORKLOADS: [&str; 4] = ["w0", "w1", "w2", "w3"];

#[derive(Clone, Debug)]
enum Change {
    Apply(Box<Object>),
    Delete(ObjectKey),
}

fn app() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&APPS)
}

fn object() -> impl Strategy<Value = Object> {
    let service = (app(), 0..5u8, any::<bool>(), app(), any::<bool>(), 0..4u8);
    let service = service.prop_map(|(name, ip, named, selects, two, reach)| {
        let target = if named { json!("web") } else { json!(8080) };
        let mut ports = vec![json!({"name": "p", "port": 80, "targetPort": target})];
        ports.extend(two.then(|| json!({"name": "q", "port": 81, "appProtocol": "grpc"})));
        let ip = ["None", "10.96.0.1", "10.96.0.2", "192.0.2.96", "fd96::1"][usize::from(ip)];
        let mut more = json!({"selector": {"app": selects}});
        match reach {
            0 => more["trafficDistribution"] = json!("PreferSameNode"),
            1 => more["trafficDistribution"] = json!("PreferSameZone"),
            2 => more["internalTrafficPolicy"] = json!("Local"),
            _ => {}
        }
        mk_service_with(name, ip, Value::Array(ports), more)
    });
    let workload = (0..4usize, app(), 0..4u8, any::<bool>(), any::<bool>(), 8080..8083u16).prop_map(
        |(name, app, ip, terminating, ready, port)| {
            let more = json!({"terminating": terminating, "ready": ready, "ports": [{"name": "web", "port": port}]});
            let ip = ["10.0.0.1", "10.0.0.2", "192.0.2.3", "fd00::4"][usize::from(ip)];
            mk_workload_with(WORKLOADS[name], app, ip, more)
        },
    );
    // Some are called as Workloads are, some lie where a Workload or a slice's endpoint does, some nowhere.
    let pod = (0..4usize, app(), 0..4u8, any::<bool>(), 0..3u8).prop_map(|(name, app, ip, host, node)| {
        let (ip, other) =
            [("10.0.0.1", "fd00::1"), ("10.0.0.3", ""), ("192.0.2.3", "fd00::4"), ("", "")][usize::from(ip)];
        let node = ["n1", "n2", ""][usize::from(node)];
        mk_dual_pod(WORKLOADS[name], app, (ip, other), json!({"hostNetwork": host, "nodeName": node}))
    });
    let node = (1..3u8, 0..3usize).prop_map(|(name, zone)| mk_node(&format!("n{name}"), ["a", "b", ""][zone]));
    let slice = (app(), app(), 1..6u8, 0..3usize).prop_map(|(name, service, host, zone)| {
        let mut endpoint = json!({"addresses": [format!("192.0.2.{host}")], "nodeName": "n2"});
        if zone < 2 {
            let zone = ["a", "b"][zone];
            endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        }
        mk_slice(name, service, "p", 8080, json!([endpoint]))
    });
    let route = (app(), app(), app(), any::<bool>()).prop_map(|(name, parent, backend, foreign)| {
        let parents = json!([{"group": "", "kind": "Service", "namespace": "shop", "name": parent}]);
        let rules = json!([{"backendRefs": [{"name": backend, "port": 81}]}]);
        mk_route_in(if foreign { "client" } else { "shop" }, name, parents, rules)
    });
    let target = |service: &str| json!([{"kind": "Service", "name": service}]);
    let traffic = (app(), app(), 1..4u8).prop_map(move |(name, service, seconds)| {
        let spec = json!({"targetRefs": target(service), "connectTimeout": format!("{seconds}s")});
        mk_policy("TrafficPolicy", name, spec)
    });
    let authz = (app(), app(), 0..3u8).prop_map(move |(name, app, scope)| {
        let spec = match scope {
            0 => json!({"action": "Deny"}),
            1 => json!({"action": "Deny", "selector": {"matchLabels": {"app": app}}}),
            _ => json!({"action": "Deny", "targetRefs": target(app)}),
        };
        mk_policy("AuthorizationPolicy", name, spec)
    });
    let mesh = (app(), 0..3u8, any::<bool>(), any::<bool>()).prop_map(|(name, scope, strict, overridable)| {
        let mut spec = json!({"mtls": {"mode": if strict { "Strict" } else { "Permissive" }}, "overridable": overridable,
            "protocols": [{"port": if strict { 8080 } else { 8081 }, "protocol": "Http"}]});
        if scope == 0 && overridable {
            spec["networks"] = json!(["192.0.2.0/30"]);
        }
        if scope == 2 {
            spec["selector"] = json!({"matchLabels": {"app": name}});
        }
        mk_policy_in("MeshPolicy", if scope == 0 { "weft-system" } else { "shop" }, name, spec)
    });
    let objects = prop_oneof![service, workload, pod, slice, route, traffic, authz, mesh];
    prop_oneof![9 => objects, 1 => node]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => object().prop_map(|object| Change::Apply(Box::new(object))),
        1 => object().prop_map(|object| Change::Delete(object.key())),
    ]
}

/// Every answer that this world can give.
#[derive(Debug, PartialEq)]
struct Answers {
    destinations: BTreeMap<SocketAddr, Destination>,
    services: BTreeMap<(&'static str, ServiceKey), ServiceSpec>,
    endpoints: BTreeMap<ServiceKey, Vec<EndpointSpec>>,
    /// Those that a client on node `n1` gets.
    near: BTreeMap<ServiceKey, Vec<EndpointSpec>>,
    policies: BTreeMap<ServiceKey, weft_model::policy::BackendPolicy>,
    inbound: BTreeMap<&'static str, Option<InboundSpec>>,
    mesh: MeshSpec,
}

fn keys() -> Vec<ServiceKey> {
    APPS.iter().flat_map(|app| [key(app, 80), key(app, 81)]).collect()
}

fn answers(index: &Index) -> Answers {
    let hosts =
        (1..6u8).flat_map(|host| [[10, 0, 0, host], [10, 96, 0, host], [192, 0, 2, host], [192, 0, 2, 95 + host]]);
    let four = hosts.map(std::net::IpAddr::from);
    let six = ["fd00::1", "fd00::4", "fd96::1"].map(|ip| ip.parse().unwrap());
    let addrs = four.chain(six).flat_map(|ip| [80, 81, 8080, 8081].map(|port| SocketAddr::new(ip, port)));
    let both = keys().into_iter().flat_map(|key| [("shop", key.clone()), ("client", key)]);
    Answers {
        destinations: addrs.map(|addr| (addr, index.destination(addr))).collect(),
        services: both.map(|(ns, key)| ((ns, key.clone()), index.service(ns, &key))).collect(),
        endpoints: keys().into_iter().map(|key| (key.clone(), index.endpoints(&key, None).upserted)).collect(),
        near: keys().into_iter().map(|key| (key.clone(), near(index, &key, None).upserted)).collect(),
        policies: keys().into_iter().map(|key| (key.clone(), index.endpoints(&key, None).policy)).collect(),
        inbound: WORKLOADS.iter().map(|name| (*name, index.inbound(&WorkloadName::new("shop", name)))).collect(),
        mesh: index.mesh(vec![vec![0]]),
    }
}

fn near(index: &Index, key: &ServiceKey, since: Option<u64>) -> EndpointsDelta {
    index.endpoints_of(&WorkloadName::new("shop", "client"), key, since)
}

/// A pod that calls others, and stays where it is.
fn client() -> Object {
    mk_pod("client", "client", "10.0.1.1", json!({"nodeName": "n1"}))
}

fn statuses(index: &Index) -> BTreeMap<ObjectKey, ObjectStatus> {
    let status = |key: &ObjectKey| ObjectStatus { version: 0, ..index.status(key).unwrap() };
    index.keys().map(|key| (key.clone(), status(&key))).collect()
}

/// Panics about an answer that changed without being announced.
fn announced(before: &Answers, after: &Answers, affected: &std::collections::BTreeSet<Affected>) {
    let has = |key: Affected| assert!(affected.contains(&key), "{key} changed; announced were {affected:?}");
    for (addr, destination) in &after.destinations {
        if before.destinations[addr] != *destination {
            has(Affected::Destination(addr.ip()));
        }
    }
    for (at, spec) in &after.services {
        if before.services[at] != *spec {
            has(Affected::Service(at.1.clone()));
        }
    }
    for (key, endpoints) in &after.endpoints {
        let near = before.near[key] != after.near[key];
        if near || before.endpoints[key] != *endpoints || before.policies[key] != after.policies[key] {
            has(Affected::Endpoints(key.clone()));
        }
    }
    for (name, spec) in &after.inbound {
        let everywhere = affected.contains(&Affected::InboundEverywhere);
        if before.inbound[name] != *spec
            && !everywhere
            && !affected.contains(&Affected::InboundOfNamespace("shop".into()))
        {
            has(Affected::Inbound(WorkloadName::new("shop", name)));
        }
    }
    if before.mesh != after.mesh {
        has(Affected::Mesh);
    }
}

/// A subscriber that only ever sees deltas.
#[derive(Default)]
struct Follower {
    seen: Option<u64>,
    endpoints: BTreeMap<SocketAddr, EndpointSpec>,
}

impl Follower {
    fn follow(&mut self, delta: EndpointsDelta, version: u64) {
        if delta.reset {
            self.endpoints.clear();
        }
        for addr in delta.removed {
            self.endpoints.remove(&addr);
        }
        self.endpoints.extend(delta.upserted.into_iter().map(|e| (e.addr.0, e)));
        self.seen = Some(version);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn changes_add_up(changes in prop::collection::vec(change(), 1..40)) {
        let mut index = index(&[client()]);
        let mut world = BTreeMap::from([(client().key(), Box::new(client()))]);
        let mut follower = Follower::default();
        let mut near_follower = Follower::default();
        let mut before = answers(&index);
        for change in changes {
            let changes = match &change {
                Change::Apply(object) => {
                    world.insert(object.key(), object.clone());
                    index.apply(object)
                }
                Change::Delete(key) => {
                    world.remove(key);
                    index.delete(key)
                }
            };
            let after = answers(&index);
            announced(&before, &after, &changes.affected);
            if changes.affected.contains(&Affected::Endpoints(key("a", 80))) {
                follower.follow(index.endpoints(&key("a", 80), follower.seen), changes.version);
                near_follower.follow(near(&index, &key("a", 80), near_follower.seen), changes.version);
            }
            before = after;
        }
        prop_assert_eq!(&follower.endpoints.into_values().collect::<Vec<_>>(), &before.endpoints[&key("a", 80)]);
        prop_assert_eq!(&near_follower.endpoints.into_values().collect::<Vec<_>>(), &before.near[&key("a", 80)]);

        let mut fresh = super::fixtures::index(&[]);
        fresh.reset(world.values().map(|object| &**object));
        prop_assert_eq!(&before, &answers(&fresh));
        prop_assert_eq!(statuses(&index), statuses(&fresh));

        index.reset([]);
        prop_assert_eq!(answers(&index), answers(&super::fixtures::index(&[])));
    }
}
