use std::time::Duration;

use serde_json::{Value, json};
use weft_index::{IndexConfig, Object, ObjectKey};
use weft_model::resources::{Destination, EndpointsDelta, InboundSpec, Lifecycle, Resource, ResourceKey, Update};
use weft_model::{ServiceKey, SpiffeId, WorkloadName};
use weft_proto::convert::{Hello, Request};

use super::{Connected, Hub, HubConfig, Refused, ResourceReport};
use crate::metrics::Metrics;
use crate::source::{Event, Seen};

struct World {
    hub: Hub,
}

impl World {
    fn new() -> Self {
        Self::with_grace(Duration::ZERO)
    }

    fn with_grace(release_grace: Duration) -> Self {
        Self::with(HubConfig { release_grace, ..HubConfig::new(IndexConfig::default(), Duration::from_secs(60)) })
    }

    fn with(config: HubConfig) -> Self {
        let hub = Hub::new(config, Metrics::new());
        hub.publish_anchors(vec![vec![1]]);
        let world = Self { hub };
        world.apply(&[service("web"), workload("web-1", "10.0.0.1", false), workload("web-2", "10.0.0.2", false)]);
        world
    }

    fn apply(&self, objects: &[Object]) {
        let events = objects.iter().map(|object| Event::Apply(Box::new(object.clone()))).collect();
        self.hub.take(&Seen { events, ..Seen::default() });
    }

    fn delete(&self, key: ObjectKey) {
        self.hub.take(&Seen { events: vec![Event::Delete(key)], ..Seen::default() });
    }

    fn connect(&self, name: &str) -> Connected {
        self.hub.connect(&hello(name), &identity("web")).unwrap()
    }

    fn ask(&self, proxy: &Connected, key: ResourceKey) {
        self.hub.request(proxy.id, Request::Subscribe(key)).unwrap();
    }

    fn ack(&self, proxy: &Connected, update: &Update) {
        let ack = Request::Ack { key: update.key.clone(), version: update.version };
        self.hub.request(proxy.id, ack).unwrap();
    }

    fn next(&self, proxy: &Connected) -> Option<Update> {
        self.hub.next(proxy.id).map(|update| (*update).clone())
    }

    /// Takes everything that is due and acknowledges it.
    fn follow(&self, proxy: &Connected) -> Vec<Update> {
        let mut taken = Vec::new();
        while let Some(update) = self.next(proxy) {
            self.ack(proxy, &update);
            taken.push(update);
        }
        taken
    }

    fn report(&self, kind: &str, name: &str) -> ResourceReport {
        let report = self.hub.report();
        report.resources.into_iter().find(|r| r.kind == kind && r.name == name).unwrap()
    }
}

fn service(name: &str) -> Object {
    let value = json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}});
    Object::Service(serde_json::from_value(value).unwrap())
}

fn workload(name: &str, address: &str, terminating: bool) -> Object {
    workload_with(name, &json!({"address": address, "serviceAccount": "web", "terminating": terminating}))
}

fn workload_with(name: &str, spec: &Value) -> Object {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}}, "spec": spec});
    Object::Workload(serde_json::from_value(value).unwrap())
}

fn policy(seconds: u32) -> Object {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "connectTimeout": format!("{seconds}s")}});
    Object::TrafficPolicy(serde_json::from_value(value).unwrap())
}

fn hello(name: &str) -> Hello {
    Hello {
        workload: WorkloadName::new("shop", name),
        uid: String::new(),
        addresses: Vec::new(),
        version: "0.1.0".to_owned(),
    }
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new(&weft_model::TrustDomain::default(), "shop", account).unwrap()
}

fn web() -> ServiceKey {
    ServiceKey::new("shop", "web", 80)
}

fn endpoints(update: &Update) -> &EndpointsDelta {
    let Resource::Endpoints(delta) = &update.resource else { panic!("{update:?}") };
    delta
}

fn inbound(update: &Update) -> &InboundSpec {
    let Resource::Inbound(spec) = &update.resource else { panic!("{update:?}") };
    spec
}

#[test]
fn what_is_asked_for_is_answered_and_changes_follow() {
    let world = World::new();
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Destination("10.96.0.1:80".parse().unwrap()));
    world.ask(&proxy, ResourceKey::Endpoints(web()));
    let first = world.follow(&proxy);
    assert_eq!(first[0].resource, Resource::Destination(Destination::Service(web())));
    assert!(endpoints(&first[1]).reset && endpoints(&first[1]).upserted.len() == 2);
    assert!(first.iter().all(|update| update.version > 0));

    world.apply(&[workload("web-3", "10.0.0.3", false)]);
    let second = world.follow(&proxy);
    assert_eq!(second.len(), 1, "what did not change is not sent");
    assert_eq!((endpoints(&second[0]).reset, endpoints(&second[0]).upserted.len()), (false, 1));
    assert!(second[0].version > first[1].version);

    world.apply(&[workload("web-3", "10.0.0.3", false)]);
    assert!(world.follow(&proxy).is_empty());
}

#[test]
fn a_slow_proxy_gets_the_newest_once() {
    let world = World::new();
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Endpoints(web()));
    world.follow(&proxy);
    for i in 3..100 {
        world.apply(&[workload("web-3", &format!("10.0.0.{i}"), false)]);
    }
    let updates = world.follow(&proxy);
    assert_eq!(updates.len(), 1);
    let delta = endpoints(&updates[0]);
    assert_eq!(delta.upserted.iter().map(|e| e.addr.to_string()).collect::<Vec<_>>(), ["10.0.0.99:8080"]);
}

#[test]
fn only_what_was_proven_is_served() {
    let world = World::new();
    world.apply(&[
        workload_with("uid", &json!({"address": "10.0.0.9", "serviceAccount": "web", "uid": "u-1"})),
        workload_with("db-1", &json!({"address": "10.0.0.8", "serviceAccount": "db"})),
    ]);
    let refused = |hello: Hello| world.hub.connect(&hello, &identity("web")).unwrap_err();
    assert!(matches!(refused(hello("nobody")), Refused::Unknown(_)));
    assert!(matches!(refused(hello("db-1")), Refused::Identity { .. }));
    assert_eq!(refused(hello("uid")), Refused::Uid);
    let at = |ips: &[&str]| Hello { addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(), ..hello("web-1") };
    assert!(matches!(refused(at(&["10.0.0.7"])), Refused::Address { owner: None, .. }));
    assert!(matches!(refused(at(&["10.0.0.1", "10.0.0.2"])), Refused::Address { owner: Some(_), .. }));
    assert!(world.hub.connect(&at(&["10.0.0.1", "fd00::1"]), &identity("web")).is_ok());
    assert!(world.hub.connect(&Hello { uid: "u-1".to_owned(), ..hello("uid") }, &identity("web")).is_ok());
}

#[test]
fn status_counts_acknowledgements_of_that_very_version() {
    let world = World::new();
    let (one, two) = (world.connect("web-1"), world.connect("web-2"));
    for proxy in [&one, &two] {
        world.ask(proxy, ResourceKey::Service(web()));
        world.ask(proxy, ResourceKey::Endpoints(web()));
        world.follow(proxy);
    }
    world.apply(&[policy(3)]);
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "0/2 proxies");
    world.follow(&one);
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "1/2 proxies");
    let stale = Request::Ack { key: ResourceKey::Service(web()), version: u64::MAX };
    world.hub.request(two.id, stale).unwrap();
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "1/2 proxies", "what was never sent is not acknowledged");
    world.follow(&two);
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "2/2 proxies");
    world.apply(&[workload("web-3", "10.0.0.3", false)]);
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "2/2 proxies", "a later change takes nothing back");
    world.hub.disconnect(two.id, 0);
    assert_eq!(world.report("TrafficPolicy", "p").proxies, "1/1 proxies");
}

#[test]
fn a_refusal_reaches_the_status_and_the_next_answer_is_whole() {
    let world = World::new();
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Endpoints(web()));
    world.follow(&proxy);
    world.apply(&[policy(3)]);
    let update = world.next(&proxy).unwrap();
    let nack = Request::Nack { key: update.key.clone(), version: update.version, reason: "bad field".to_owned() };
    world.hub.request(proxy.id, nack).unwrap();
    let report = world.report("TrafficPolicy", "p");
    assert_eq!((report.proxies.as_str(), report.refused_by.len()), ("0/1 proxies", 1));
    assert_eq!(report.refused_by[0].reason, "bad field");
    assert!(world.next(&proxy).is_none(), "the same is not sent again");
    world.apply(&[policy(4)]);
    let updates = world.follow(&proxy);
    assert!(endpoints(&updates[0]).reset);
    let report = world.report("TrafficPolicy", "p");
    assert_eq!((report.proxies.as_str(), report.refused_by.len()), ("1/1 proxies", 0));
}

#[test]
fn a_terminating_workload_is_released_when_nobody_holds_it() {
    let world = World::new();
    let (leaving, client) = (world.connect("web-1"), world.connect("web-2"));
    world.ask(&leaving, ResourceKey::Inbound);
    world.ask(&client, ResourceKey::Endpoints(web()));
    world.follow(&leaving);
    world.follow(&client);
    world.apply(&[workload("web-1", "10.0.0.1", true)]);
    let told = world.follow(&leaving);
    assert_eq!(inbound(&told[0]).lifecycle, Lifecycle::Terminating);
    let update = world.next(&client).unwrap();
    assert_eq!(endpoints(&update).removed.len(), 1);
    assert!(world.next(&leaving).is_none(), "it was sent, not yet acknowledged");
    world.ack(&client, &update);
    assert_eq!(inbound(&world.follow(&leaving)[0]).lifecycle, Lifecycle::Released);
}

#[test]
fn a_holder_that_is_away_is_waited_for_and_one_that_comes_back_is_not() {
    let world = World::new();
    let (leaving, client) = (world.connect("web-1"), world.connect("web-2"));
    world.ask(&leaving, ResourceKey::Inbound);
    world.ask(&client, ResourceKey::Endpoints(web()));
    world.follow(&leaving);
    world.follow(&client);
    world.apply(&[workload("web-1", "10.0.0.1", true)]);
    world.follow(&leaving);
    world.hub.disconnect(client.id, 0);
    assert!(world.next(&leaving).is_none(), "it goes on with what it had");
    let again = world.connect("web-2");
    world.ask(&again, ResourceKey::Endpoints(web()));
    world.follow(&again);
    assert_eq!(inbound(&world.follow(&leaving)[0]).lifecycle, Lifecycle::Released);
}

#[test]
fn a_deleted_workload_drains_too() {
    let world = World::new();
    let leaving = world.connect("web-1");
    world.ask(&leaving, ResourceKey::Inbound);
    world.follow(&leaving);
    world.delete(ObjectKey::new(weft_index::Kind::Workload, "shop", "web-1"));
    let told = world.follow(&leaving);
    assert_eq!(inbound(told.last().unwrap()).lifecycle, Lifecycle::Released, "nobody held it");
    assert_eq!(inbound(&told[0]).ports.len(), 1, "what it had stays");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_released_right_after_a_start() {
    let world = World::with_grace(Duration::from_secs(5));
    let leaving = world.connect("web-1");
    world.ask(&leaving, ResourceKey::Inbound);
    world.apply(&[workload("web-1", "10.0.0.1", true)]);
    assert_eq!(inbound(world.follow(&leaving).last().unwrap()).lifecycle, Lifecycle::Terminating);
    tokio::time::advance(Duration::from_secs(5)).await;
    world.hub.tick(0);
    assert_eq!(inbound(world.follow(&leaving).last().unwrap()).lifecycle, Lifecycle::Released);
}

#[tokio::test(start_paused = true)]
async fn anchors_wait_for_everybody_who_may_come_back() {
    let world = World::new();
    assert_eq!(world.hub.without_anchors(0).pending, 2, "who was there before the start may come back");
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Mesh);
    assert_eq!(world.hub.without_anchors(0).pending, 2);
    world.follow(&proxy);
    assert_eq!(world.hub.without_anchors(0).pending, 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(world.hub.without_anchors(0).pending, 0, "no certificate from before is valid any more");

    world.hub.publish_anchors(vec![vec![1], vec![2]]);
    assert_eq!(world.hub.without_anchors(0).pending, 1);
    world.hub.disconnect(proxy.id, 1_000);
    assert_eq!(world.hub.without_anchors(1_060).pending, 1);
    assert_eq!(world.hub.without_anchors(1_061).pending, 0, "its certificate has expired");
}

#[tokio::test(start_paused = true)]
async fn beside_other_replicas_anchors_wait_for_whoever_was_never_here() {
    let config = HubConfig::new(IndexConfig::default(), Duration::from_secs(60));
    let world = World::with(HubConfig { replicated: true, ..config });
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(world.hub.without_anchors(3_600).pending, 2);
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Mesh);
    world.follow(&proxy);
    assert_eq!(world.hub.without_anchors(3_600).pending, 1, "the other one may be served by another replica");
}

#[test]
fn subscriptions_are_bounded() {
    let world = World::new();
    let proxy = world.connect("web-1");
    let ask = |port: u16, host: u8| {
        let key = ResourceKey::Destination(std::net::SocketAddr::from(([10, 1, 0, host], port)));
        world.hub.request(proxy.id, Request::Subscribe(key))
    };
    let refused =
        (0..).find_map(|i: u32| ask(u16::try_from(i % 60_000).unwrap() + 1, u8::try_from(i / 60_000).unwrap()).err());
    assert_eq!(refused, Some(Refused::TooMany));
}

#[test]
fn unsubscribing_forgets() {
    let world = World::new();
    let proxy = world.connect("web-1");
    world.ask(&proxy, ResourceKey::Endpoints(web()));
    world.hub.request(proxy.id, Request::Unsubscribe(ResourceKey::Endpoints(web()))).unwrap();
    assert!(world.next(&proxy).is_none());
    world.apply(&[workload("web-3", "10.0.0.3", false)]);
    assert!(world.next(&proxy).is_none());
    assert!(world.hub.state().answers.is_empty());
    world.ask(&proxy, ResourceKey::Endpoints(web()));
    assert!(endpoints(&world.next(&proxy).unwrap()).reset);
}

#[test]
fn a_file_that_cannot_be_read_shows_in_the_status_of_its_resource() {
    let world = World::new();
    let text =
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {name: web-1, namespace: shop}\nspec: {adress: x}\n";
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("w.yaml"), text).unwrap();
    let mut scanner = crate::source::directory::Scanner::new(dir.path(), None);
    world.hub.take(&scanner.scan(tokio::time::Instant::now()));
    let report = world.report("Workload", "web-1");
    assert!(!report.accepted && report.version > 0);
    assert!(report.problems[0].message.contains("w.yaml:4: "), "{report:?}");
    assert!(report.problems[0].message.contains("last good version"), "{report:?}");
}
