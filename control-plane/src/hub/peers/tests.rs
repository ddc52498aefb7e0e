use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use weft_index::{IndexConfig, Object};
use weft_model::resources::{Lifecycle, Resource, ResourceKey, Update};
use weft_model::{ServiceKey, SpiffeId, TrustDomain, WorkloadName};
use weft_proto::convert::{Hello, Request};

use crate::ca::Acknowledgements;
use crate::hub::{Connected, Facts, Hub, HubConfig, ResourceReport};
use crate::metrics::Metrics;
use crate::source::{Event, Seen};

/// Two replicas that see the same cluster, and what each was told by the other.
struct Pair {
    hubs: [Hub; 2],
    told: [Facts; 2],
}

impl Pair {
    /// Each waits for the other, and has not heard it.
    fn new() -> Self {
        let config = HubConfig::new(IndexConfig::default(), Duration::from_secs(60));
        let config = HubConfig { release_grace: Duration::ZERO, replicated: true, ..config };
        let hub = || Hub::new(config.clone(), Metrics::new());
        let pair = Self { hubs: [hub(), hub()], told: [Facts::default(), Facts::default()] };
        pair.anchors(&[1]);
        let replica = |address: &str| workload("weft-system", address, "weft-control-plane", false);
        pair.apply(&[service("weft-system", "weft-control-plane", 14010), service("shop", "web", 80)]);
        pair.apply(&[replica("10.1.0.1"), replica("10.1.0.2")]);
        pair.apply(&[web("10.0.0.1", false), web("10.0.0.2", false)]);
        for (own, hub) in pair.hubs.iter().enumerate() {
            assert_eq!(hub.find_peers(&replicas()).len(), 2, "ourselves and the other");
            hub.peer_is_self(addr(own));
            assert_eq!(hub.find_peers(&replicas()).into_iter().collect::<Vec<_>>(), [addr(1 - own)]);
        }
        pair
    }

    fn apply(&self, objects: &[Object]) {
        for hub in &self.hubs {
            let events = objects.iter().map(|object| Event::Apply(Box::new(object.clone()))).collect();
            hub.take(&Seen { events, ..Seen::default() });
        }
    }

    fn anchors(&self, anchors: &[u8]) {
        self.hubs.iter().for_each(|hub| hub.publish_anchors(anchors.iter().map(|anchor| vec![*anchor]).collect()));
    }

    /// Lets one of them tell the other what is new.
    fn tell(&mut self, speaker: usize) {
        let facts = self.hubs[speaker].facts();
        let said = facts.since(&self.told[speaker]);
        self.hubs[1 - speaker].peer_says(addr(speaker), "other", facts.bundle, said, true);
        self.told[speaker] = facts;
    }

    fn connect(&self, hub: usize, address: &str) -> Connected {
        let workload = WorkloadName::new("shop", &name(address));
        let hello = Hello { workload, uid: String::new(), addresses: Vec::new(), version: "0.1.0".to_owned() };
        self.hubs[hub].connect(&hello, &SpiffeId::new(&TrustDomain::default(), "shop", "web").unwrap()).unwrap()
    }

    fn ask(&self, hub: usize, proxy: &Connected, key: ResourceKey) {
        self.hubs[hub].request(proxy.id, Request::Subscribe(key)).unwrap();
    }

    /// Takes everything that is due and acknowledges it.
    fn follow(&self, hub: usize, proxy: &Connected) -> Vec<Update> {
        let due = || self.hubs[hub].next(proxy.id);
        let updates = std::iter::from_fn(due).map(|update| {
            let ack = Request::Ack { key: update.key.clone(), version: update.version };
            self.hubs[hub].request(proxy.id, ack).unwrap();
            (*update).clone()
        });
        updates.collect()
    }

    fn lifecycle(&self, hub: usize, proxy: &Connected) -> Option<Lifecycle> {
        let last = self.follow(hub, proxy).pop()?;
        let Resource::Inbound(inbound) = last.resource else { panic!("{last:?}") };
        Some(inbound.lifecycle)
    }

    fn policy(&self, hub: usize) -> ResourceReport {
        self.hubs[hub].report().resources.into_iter().find(|resource| resource.kind == "TrafficPolicy").unwrap()
    }

    fn pending(&self, hub: usize) -> (usize, usize) {
        let Acknowledgements { pending, replicas } = self.hubs[hub].without_anchors(0);
        (pending, replicas)
    }
}

fn addr(hub: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, if hub == 0 { 1 } else { 2 }], 14_010))
}

fn replicas() -> ServiceKey {
    ServiceKey::new("weft-system", "weft-control-plane", 14_010)
}

fn web_port() -> ServiceKey {
    ServiceKey::new("shop", "web", 80)
}

fn name(address: &str) -> String {
    format!("w{}", address.replace('.', "-"))
}

fn service(namespace: &str, name: &str, port: u16) -> Object {
    let value = json!({"metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]}});
    Object::Service(serde_json::from_value(value).unwrap())
}

fn workload(namespace: &str, address: &str, app: &str, terminating: bool) -> Object {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": {"name": name(address), "namespace": namespace, "labels": {"app": app}},
        "spec": {"address": address, "serviceAccount": app, "terminating": terminating}});
    Object::Workload(serde_json::from_value(value).unwrap())
}

fn web(address: &str, terminating: bool) -> Object {
    workload("shop", address, "web", terminating)
}

fn policy(generation: i64) -> Object {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop", "generation": generation},
        "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "connectTimeout": format!("{generation}s")}});
    Object::TrafficPolicy(serde_json::from_value(value).unwrap())
}

#[test]
fn proxies_of_all_replicas_count() {
    let mut pair = Pair::new();
    pair.apply(&[policy(1)]);
    let proxies = [pair.connect(0, "10.0.0.1"), pair.connect(1, "10.0.0.2")];
    for (hub, proxy) in proxies.iter().enumerate() {
        pair.ask(hub, proxy, ResourceKey::Endpoints(web_port()));
        pair.ask(hub, proxy, ResourceKey::Service(web_port()));
    }
    pair.follow(0, &proxies[0]);
    assert_eq!(pair.policy(0).proxies, "1/1 proxies", "nothing was heard of the other");
    pair.tell(1);
    assert_eq!(pair.policy(0).proxies, "1/2 proxies", "the other one's has not acknowledged it");
    pair.follow(1, &proxies[1]);
    pair.tell(1);
    assert_eq!(pair.policy(0).proxies, "2/2 proxies");

    // One replica is behind: what its proxy runs is another version.
    let newer = Event::Apply(Box::new(policy(2)));
    pair.hubs[0].take(&Seen { events: vec![newer], ..Seen::default() });
    pair.follow(0, &proxies[0]);
    assert_eq!(pair.policy(0).proxies, "1/2 proxies");
    pair.hubs[0].peer_lost(addr(1));
    assert_eq!(pair.policy(0).proxies, "1/1 proxies");
}

#[test]
fn what_a_proxy_of_another_replica_refused_is_told() {
    let mut pair = Pair::new();
    pair.apply(&[policy(1)]);
    let proxy = pair.connect(1, "10.0.0.2");
    pair.ask(1, &proxy, ResourceKey::Service(web_port()));
    let update = pair.hubs[1].next(proxy.id).unwrap();
    let nack = Request::Nack { key: update.key.clone(), version: update.version, reason: "too odd".to_owned() };
    pair.hubs[1].request(proxy.id, nack).unwrap();
    pair.tell(1);
    let report = pair.policy(0);
    assert_eq!((report.proxies.as_str(), report.refused_by.len()), ("0/1 proxies", 1));
    assert_eq!(report.refused_by[0].reason, "too odd");
}

#[test]
fn who_goes_waits_for_proxies_of_all_replicas() {
    let mut pair = Pair::new();
    let leaving = pair.connect(0, "10.0.0.1");
    pair.ask(0, &leaving, ResourceKey::Inbound);
    let holder = pair.connect(1, "10.0.0.2");
    pair.ask(1, &holder, ResourceKey::Endpoints(web_port()));
    pair.follow(1, &holder);
    pair.tell(1);

    pair.apply(&[web("10.0.0.1", true)]);
    assert_eq!(pair.lifecycle(0, &leaving), Some(Lifecycle::Terminating), "none of our own proxies sends to it");
    pair.tell(1);
    assert_eq!(pair.lifecycle(0, &leaving), None, "one of the other's does");
    pair.follow(1, &holder);
    pair.tell(1);
    assert_eq!(pair.lifecycle(0, &leaving), Some(Lifecycle::Released));
}

#[test]
fn who_goes_waits_for_a_replica_that_is_not_heard_until_it_is_gone() {
    let pair = Pair::new();
    let leaving = pair.connect(0, "10.0.0.1");
    pair.ask(0, &leaving, ResourceKey::Inbound);
    pair.apply(&[web("10.0.0.1", true)]);
    pair.hubs[0].tick(0);
    assert_eq!(pair.lifecycle(0, &leaving), Some(Lifecycle::Terminating));
    pair.apply(&[workload("weft-system", "10.1.0.2", "somebody-else", false)]);
    assert!(pair.hubs[0].find_peers(&replicas()).is_empty());
    assert_eq!(pair.lifecycle(0, &leaving), Some(Lifecycle::Released));
}

#[test]
fn who_came_back_is_not_let_go_by_what_was_said_before() {
    let mut pair = Pair::new();
    pair.apply(&[web("10.0.0.1", true)]);
    pair.tell(1);
    pair.apply(&[web("10.0.0.1", false)]);
    let leaving = pair.connect(0, "10.0.0.1");
    pair.ask(0, &leaving, ResourceKey::Inbound);
    let holder = pair.connect(1, "10.0.0.2");
    pair.ask(1, &holder, ResourceKey::Endpoints(web_port()));
    pair.follow(1, &holder);
    pair.tell(1);
    pair.apply(&[web("10.0.0.1", true)]);
    assert_eq!(pair.lifecycle(0, &leaving), Some(Lifecycle::Terminating));
}

#[test]
fn anchors_wait_for_proxies_of_all_replicas() {
    let mut pair = Pair::new();
    // Replicas are workloads here too, and have no proxies.
    let others = 2;
    assert_eq!(pair.pending(0), (2 + others, 1), "nothing was heard of the other");
    let proxies = [pair.connect(0, "10.0.0.1"), pair.connect(1, "10.0.0.2")];
    for (hub, proxy) in proxies.iter().enumerate() {
        pair.ask(hub, proxy, ResourceKey::Mesh);
        pair.follow(hub, proxy);
    }
    assert_eq!(pair.pending(0), (1 + others, 1));
    pair.tell(1);
    assert_eq!(pair.pending(0), (others, 0));

    pair.anchors(&[1, 2]);
    assert_eq!(pair.pending(0), (2 + others, 1), "the other has not said that it gives them out");
    pair.tell(1);
    pair.follow(0, &proxies[0]);
    assert_eq!(pair.pending(0), (1 + others, 0));
    pair.follow(1, &proxies[1]);
    pair.tell(1);
    assert_eq!(pair.pending(0), (others, 0));
}

#[test]
fn who_changed_replicas_counts_as_it_is_where_it_is() {
    let mut pair = Pair::new();
    let others = 2;
    let here = pair.connect(0, "10.0.0.1");
    pair.ask(0, &here, ResourceKey::Mesh);
    pair.follow(0, &here);
    pair.anchors(&[1, 2]);
    pair.hubs[0].disconnect(here.id, 0);
    let there = pair.connect(1, "10.0.0.1");
    pair.ask(1, &there, ResourceKey::Mesh);
    pair.tell(1);
    assert_eq!(pair.pending(0), (2 + others, 0), "it is there without them");
    pair.follow(1, &there);
    pair.tell(1);
    assert_eq!(pair.pending(0), (1 + others, 0), "that it had not got them here is past");

    // Away again, and gone for good: nobody lets it in any more.
    pair.anchors(&[1, 2, 3]);
    pair.hubs[1].disconnect(there.id, 0);
    pair.tell(1);
    assert_eq!(pair.pending(0), (2 + others, 0));
    pair.apply(&[workload("shop", "10.0.0.9", "web", false)]);
    let gone = weft_index::ObjectKey {
        kind: weft_index::Kind::Workload,
        namespace: "shop".into(),
        name: name("10.0.0.1").into(),
    };
    pair.hubs[0].take(&Seen { events: vec![Event::Delete(gone)], ..Seen::default() });
    assert_eq!(pair.pending(0), (2 + others, 0), "the one that came counts, the one that is gone does not");
}
