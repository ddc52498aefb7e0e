//! Many proxies and many services while endpoints come and go: a change costs what it concerns, not what there is.

use std::time::Duration;

use serde_json::json;
use weft_index::{IndexConfig, Object};
use weft_model::resources::{Resource, ResourceKey, Update};
use weft_model::{ServiceKey, SpiffeId, TrustDomain, WorkloadName};
use weft_proto::convert::{Hello, Request};

use super::{Connected, Hub, HubConfig};
use crate::metrics::Metrics;
use crate::source::{Event, Seen};

const PROXIES: usize = 200;
const SERVICES: usize = 200;
/// Services that one proxy talks to: its own number and the next ones.
const ASKED: usize = 10;

struct Fleet {
    hub: Hub,
    metrics: std::sync::Arc<Metrics>,
    proxies: Vec<Connected>,
}

impl Fleet {
    /// One workload for each service and a proxy beside it, each asking for a destination, the service and the endpoints
    /// of [`ASKED`] services.
    fn start() -> Self {
        let index = IndexConfig { networks: vec!["10.0.0.0/8".parse().unwrap()], ..IndexConfig::default() };
        let config = HubConfig { release_grace: Duration::ZERO, ..HubConfig::new(index, Duration::from_secs(60)) };
        let metrics = Metrics::new();
        let hub = Hub::new(config, std::sync::Arc::clone(&metrics));
        hub.publish_anchors(vec![vec![1]]);
        let services = (0..SERVICES).map(service);
        take(&hub, services.chain((0..PROXIES).map(|i| workload(&format!("w{i}"), i, &address(1, i)))));
        let mut fleet = Self { hub, metrics, proxies: Vec::new() };
        fleet.connect();
        fleet
    }

    fn connect(&mut self) {
        self.proxies = (0..PROXIES)
            .map(|i| {
                let workload = WorkloadName::new("shop", &format!("w{i}"));
                let hello = Hello { workload, uid: String::new(), addresses: Vec::new(), version: "0.1.0".to_owned() };
                self.hub.connect(&hello, &identity(i)).unwrap()
            })
            .collect();
        for (i, proxy) in self.proxies.iter().enumerate() {
            let services = (i..i + ASKED).map(|service| service % SERVICES);
            let keys = services.flat_map(|service| {
                let destination = format!("{}:80", address(96, service)).parse().unwrap();
                let key = key(service);
                [ResourceKey::Destination(destination), ResourceKey::Service(key.clone()), ResourceKey::Endpoints(key)]
            });
            for key in keys.chain([ResourceKey::Inbound, ResourceKey::Mesh]) {
                self.hub.request(proxy.id, Request::Subscribe(key)).unwrap();
            }
        }
    }

    fn computed(&self) -> u64 {
        self.metrics.answers_computed.get()
    }

    /// Everybody takes and acknowledges what is due: by proxy.
    fn settle(&self) -> Vec<Vec<Update>> {
        let follow = |proxy: &Connected| {
            let mut taken = Vec::new();
            while let Some(update) = self.hub.next(proxy.id) {
                let ack = Request::Ack { key: update.key.clone(), version: update.version };
                self.hub.request(proxy.id, ack).unwrap();
                taken.push((*update).clone());
            }
            taken
        };
        self.proxies.iter().map(follow).collect()
    }
}

fn take(hub: &Hub, objects: impl Iterator<Item = Object>) {
    let events = objects.map(|object| Event::Apply(Box::new(object))).collect();
    hub.take(&Seen { events, ..Seen::default() });
}

fn address(net: u8, host: usize) -> String {
    format!("10.{net}.{}.{}", host / 250, host % 250 + 1)
}

fn key(service: usize) -> ServiceKey {
    ServiceKey::new("shop", &format!("s{service}"), 80)
}

fn identity(i: usize) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", &format!("a{i}")).unwrap()
}

fn service(i: usize) -> Object {
    let value = json!({"metadata": {"name": format!("s{i}"), "namespace": "shop"}, "spec": {
        "clusterIP": address(96, i), "selector": {"app": format!("s{i}")}, "ports": [{"port": 80, "targetPort": 8080}]}});
    Object::Service(serde_json::from_value(value).unwrap())
}

/// A workload of service `i`.
fn workload(name: &str, i: usize, address: &str) -> Object {
    let value = json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": format!("s{i}")}},
        "spec": {"address": address, "serviceAccount": format!("a{i}")}});
    Object::Workload(serde_json::from_value(value).unwrap())
}

#[test]
fn a_change_costs_what_it_concerns() {
    let fleet = Fleet::start();
    let distinct = u64::try_from(3 * SERVICES + PROXIES + 1).unwrap();
    assert!(fleet.computed() <= distinct + 1, "an answer is computed once, not once for each of its {ASKED} askers");
    let first = fleet.settle();
    assert!(first.iter().all(|updates| updates.len() == 3 * ASKED + 2));

    for round in 0..SERVICES {
        let before = fleet.computed();
        take(&fleet.hub, [workload(&format!("new{round}"), round, &address(2, round))].into_iter());
        // The endpoints of its service; nobody asked for its own inbound or its address.
        assert_eq!(fleet.computed() - before, 1, "round {round}");
        let told = fleet.settle();
        let concerned = told.iter().filter(|updates| !updates.is_empty()).count();
        assert_eq!(concerned, ASKED, "those who asked for this service, and nobody else");
        for update in told.iter().flatten() {
            let Resource::Endpoints(delta) = &update.resource else { panic!("{update:?}") };
            assert_eq!((delta.reset, delta.upserted.len(), delta.removed.len()), (false, 1, 0), "only what changed");
        }
    }
    assert_eq!(fleet.hub.state().unsettled.len(), 0, "every change has come to its end");
}

#[test]
fn who_reads_nothing_costs_no_more_for_it() {
    let fleet = Fleet::start();
    fleet.settle();
    for change in 0..2_000 {
        take(&fleet.hub, [workload("restless", change % SERVICES, &address(3, change))].into_iter());
    }
    let state = fleet.hub.state();
    for proxy in state.proxies.values() {
        assert!(proxy.due_len() <= proxy.subscriptions.len());
        assert!(proxy.subscriptions.values().all(|subscription| subscription.owed_len() <= 16));
    }
    assert_eq!(state.answers.len(), 3 * SERVICES + PROXIES + 1, "answers are shared by their askers");
    drop(state);
    let told = fleet.settle();
    assert!(told.iter().all(|updates| updates.len() <= ASKED), "each answer once, the newest");
    assert_eq!(fleet.hub.state().unsettled.len(), 0);
}

#[test]
fn all_come_back_at_once_and_have_everything() {
    let mut fleet = Fleet::start();
    fleet.settle();
    for round in 0..3 {
        let gone: Vec<u64> = fleet.proxies.iter().map(|proxy| proxy.id).collect();
        // Half of them come back before their old stream is seen to be gone.
        let (early, late) = gone.split_at(PROXIES / 2);
        early.iter().for_each(|id| fleet.hub.disconnect(*id, 0));
        take(&fleet.hub, [workload("meanwhile", round, &address(4, round))].into_iter());
        let before = fleet.computed();
        fleet.connect();
        late.iter().for_each(|id| fleet.hub.disconnect(*id, 0));
        let computed = usize::try_from(fleet.computed() - before).unwrap();
        assert!(computed <= 3 * SERVICES + PROXIES + 1, "what all ask for is computed once: {computed}");
        let told = fleet.settle();
        assert!(told.iter().all(|updates| updates.len() == 3 * ASKED + 2), "nobody misses anything");
        let whole = |update: &Update| !matches!(&update.resource, Resource::Endpoints(delta) if !delta.reset);
        assert!(told.iter().flatten().all(whole));
        assert_eq!(fleet.hub.state().proxies.len(), PROXIES);
    }
    let gone: Vec<u64> = fleet.proxies.iter().map(|proxy| proxy.id).collect();
    gone.iter().for_each(|id| fleet.hub.disconnect(*id, 0));
    let state = fleet.hub.state();
    assert_eq!((state.answers.len(), state.proxies.len(), state.unsettled.len()), (0, 0, 0), "nothing stays behind");
}
