use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tonic::Code;
use weft_index::{IndexConfig, Object};
use weft_model::{ServiceKey, SpiffeId, TrustDomain, WorkloadName};
use weft_proto::convert::Hello;
use weft_proto::replica::v1::FollowRequest;
use weft_proto::replica::v1::replica_client::ReplicaClient;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_runtime::task::Tasks;
use weft_tls::testing::{ManualTime, TestCa};

use super::ReplicaService;
use crate::ca::{Authority, Settings};
use crate::hub::{Hub, HubConfig};
use crate::metrics::Metrics;
use crate::replica::{self, Replica};
use crate::serve::identity::{IdentityService, TokenReviewer};
use crate::serve::mesh::{DEFAULT_STREAM_AGE, MeshService};
use crate::serve::{ControlServer, router};
use crate::source::{Event, Seen};
use crate::token::JoinTokens;

const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// One replica, served over TLS on an address of loopback.
struct Running {
    hub: Arc<Hub>,
    addr: SocketAddr,
    link: Replica,
    tasks: Tasks,
    signal: DrainSignal,
    _files: tempfile::TempDir,
}

impl Running {
    fn start(name: &str, listener: TcpListener, ca: &TestCa) -> Self {
        let addr = listener.local_addr().unwrap();
        let config = HubConfig::new(IndexConfig::default(), Duration::from_secs(60));
        let config = HubConfig { replicated: true, release_grace: Duration::ZERO, ..config };
        let hub = Arc::new(Hub::new(config, Metrics::new()));
        hub.publish_anchors(vec![vec![1]]);
        let (signal, drain) = Drain::new();
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let tls = ca.mesh(CONTROL_PLANE, &ManualTime::new());
        let link = Replica {
            name: Arc::from(name),
            service: ServiceKey::new("weft-system", replica::SERVICE, replica::PORT),
            hub: Arc::clone(&hub),
            tls: tls.clone(),
            tasks: tasks.clone(),
            drain: drain.clone(),
        };
        let mesh = MeshService {
            hub: Arc::clone(&hub),
            tasks: tasks.clone(),
            drain: drain.clone(),
            metrics: Arc::clone(&metrics),
            stream_age: DEFAULT_STREAM_AGE,
            clock: WallClock::system(),
        };
        let service = ReplicaService {
            name: Arc::from(name),
            identity: CONTROL_PLANE.parse().unwrap(),
            hub: Arc::clone(&hub),
            tasks: tasks.clone(),
            drain: drain.clone(),
        };
        let files = tempfile::TempDir::new().unwrap();
        let router = router(mesh, identity(files.path()), service, Arc::clone(&metrics));
        let server = ControlServer { tls, tasks: tasks.clone(), drain, metrics };
        tasks.spawn("serve", async move { Box::pin(server.serve(vec![listener], router)).await.unwrap() });
        Self { hub, addr, link, tasks, signal, _files: files }
    }

    /// Learns where both are, and begins to listen to the other.
    fn join(&self, port: u16, addrs: &[SocketAddr]) {
        let mut objects = vec![service(port)];
        objects.extend(addrs.iter().map(workload));
        let events = objects.into_iter().map(|object| Event::Apply(Box::new(object))).collect();
        self.hub.take(&Seen { events, ..Seen::default() });
        self.tasks.spawn("replicas", self.link.clone().follow_all());
    }

    /// What the admin page says of the others: address, name and whether they are heard.
    fn others(&self) -> Vec<(String, String, bool)> {
        let peers = self.hub.report().replicas;
        peers.into_iter().map(|peer| (peer.address, peer.name, peer.heard)).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut news = self.hub.news();
        let waiting = async {
            while !holds(self) {
                news.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what} never came"));
    }
}

fn identity(files: &std::path::Path) -> IdentityService {
    let clock = WallClock::system();
    let settings = Settings::new(TrustDomain::default());
    IdentityService {
        authority: Arc::new(Authority::open(files, settings, clock.unix_seconds()).unwrap()),
        tokens: Arc::new(JoinTokens::open(files, TrustDomain::default(), clock.unix_seconds()).unwrap()),
        workload_exists: Arc::new(|_| true),
        reviewer: TokenReviewer::Absent,
        trust_domain: TrustDomain::default(),
        clock,
    }
}

fn service(port: u16) -> Object {
    let value = json!({"metadata": {"name": replica::SERVICE, "namespace": "weft-system"},
        "spec": {"selector": {"app": "control"}, "ports": [{"port": replica::PORT, "targetPort": port}]}});
    Object::Service(serde_json::from_value(value).unwrap())
}

fn workload(addr: &SocketAddr) -> Object {
    let name = format!("w{}", addr.ip().to_string().replace('.', "-"));
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": {"name": name, "namespace": "weft-system", "labels": {"app": "control"}},
        "spec": {"address": addr.ip(), "serviceAccount": "web", "terminating": false}});
    Object::Workload(serde_json::from_value(value).unwrap())
}

/// Two addresses with the same port: replicas are the endpoints of one Service.
fn listeners() -> [TcpListener; 2] {
    for _ in 0..64 {
        let first = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 1), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)) {
            for listener in [&first, &second] {
                listener.set_nonblocking(true).unwrap();
            }
            return [first, second];
        }
    }
    panic!("no port is free at both addresses");
}

#[tokio::test]
async fn replicas_find_each_other_and_tell_of_their_proxies() {
    let ca = TestCa::new("anchor");
    let [first, second] = listeners();
    let (first, second) = (Running::start("one", first, &ca), Running::start("two", second, &ca));
    let addrs = [first.addr, second.addr];
    for running in [&first, &second] {
        running.join(first.addr.port(), &addrs);
    }
    let two = (second.addr.to_string(), "two".to_owned(), true);
    first.until("the other replica, and only that", |first| first.others() == [two.clone()]).await;
    second
        .until("the other replica", |second| second.others().iter().all(|(_, name, heard)| name == "one" && *heard))
        .await;

    // Workloads of both addresses are known, and one of them has a proxy, with the second replica.
    assert_eq!(first.hub.without_anchors(0).pending, 2);
    let workload = WorkloadName::new("weft-system", "w127-0-0-2");
    let hello = Hello { workload, uid: String::new(), addresses: Vec::new(), version: "0.1.0".to_owned() };
    let identity = SpiffeId::new(&TrustDomain::default(), "weft-system", "web").unwrap();
    let proxy = second.hub.connect(&hello, &identity).unwrap();
    let key = weft_model::resources::ResourceKey::Mesh;
    second.hub.request(proxy.id, weft_proto::convert::Request::Subscribe(key.clone())).unwrap();
    let version = second.hub.next(proxy.id).unwrap().version;
    second.hub.request(proxy.id, weft_proto::convert::Request::Ack { key, version }).unwrap();
    first.until("its acknowledgement", |first| first.hub.without_anchors(0).pending == 1).await;

    // One ends: what it said is forgotten, and it is looked for again.
    second.signal.drain(Duration::ZERO).await;
    first.until("the end of the other", |first| first.others().iter().all(|(_, _, heard)| !heard)).await;
    assert_eq!(first.hub.without_anchors(0).replicas, 1);
    first.signal.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn whoever_is_no_replica_is_told_nothing() {
    let ca = TestCa::new("anchor");
    let [listener, _other] = listeners();
    let running = Running::start("one", listener, &ca);
    let time = ManualTime::new();
    let meshed = ca.mesh("spiffe://cluster.local/ns/shop/sa/web", &time);
    let stranger = weft_tls::MeshTls::with_time(TrustDomain::default(), Arc::new(time));
    stranger.publish_bundle(ca.bundle()).unwrap();
    for (tls, code) in [(stranger, Code::Unauthenticated), (meshed, Code::PermissionDenied)] {
        let channel = replica::channel(&tls, running.addr).await.unwrap();
        let refused = ReplicaClient::new(channel).follow(FollowRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let own = ca.mesh(CONTROL_PLANE, &ManualTime::new());
    let channel = replica::channel(&own, running.addr).await.unwrap();
    let mut said = ReplicaClient::new(channel).follow(FollowRequest {}).await.unwrap().into_inner();
    let first = said.message().await.unwrap().unwrap();
    assert_eq!((first.replica.as_str(), first.complete), ("one", true));
    let names: BTreeSet<_> = first.facts.iter().map(|fact| format!("{fact:?}")).collect();
    assert!(names.is_empty(), "it has no proxies: {names:?}");
    running.signal.drain(Duration::ZERO).await;
}
