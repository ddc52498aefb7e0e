use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status, Streaming};
use weft_index::{IndexConfig, Object};
use weft_model::WorkloadName;
use weft_model::resources::{Resource, ResourceKey, Update};
use weft_model::version::Skew;
use weft_proto::convert::{Hello, Request};
use weft_proto::proxy::v1 as wire;
use weft_proto::proxy::v1::mesh_client::MeshClient;
use weft_proto::proxy::v1::{WatchRequest, WatchResponse};
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_runtime::task::Tasks;
use weft_tls::PeerIdentity;
use weft_tls::testing::TestCa;

use super::MeshService;
use crate::hub::{Hub, HubConfig};
use crate::metrics::Metrics;
use crate::serve::identity::PeerCertificate;
use crate::source::{Event, Seen};

/// A connection in memory, from somebody.
struct Pipe(DuplexStream, PeerCertificate);

impl Connected for Pipe {
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
        self.1.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct World {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    connections: mpsc::Sender<Result<Pipe, std::io::Error>>,
    signal: DrainSignal,
}

impl World {
    fn new(stream_age: Duration) -> Self {
        let config = HubConfig::new(IndexConfig::default(), Duration::from_secs(60));
        let metrics = Metrics::new();
        let hub = Arc::new(Hub::new(config, Arc::clone(&metrics)));
        let (connections, incoming) = mpsc::channel(4);
        let (signal, drain) = Drain::new();
        let tasks = Tasks::new();
        let service = MeshService {
            hub: Arc::clone(&hub),
            tasks: tasks.clone(),
            drain,
            stream_age,
            clock: WallClock::system(),
            metrics: Arc::clone(&metrics),
        };
        tasks.spawn("server", async move {
            let incoming = ReceiverStream::new(incoming);
            Server::builder().add_service(service.into_server()).serve_with_incoming(incoming).await.unwrap();
        });
        hub.publish_anchors(vec![vec![1]]);
        let world = Self { hub, metrics, tasks, connections, signal };
        world.workload("web-1", "10.0.0.1");
        world
    }

    fn workload(&self, name: &str, address: &str) {
        let value = json!({"metadata": {"name": name, "namespace": "shop"},
            "spec": {"address": address, "serviceAccount": "web"}});
        let object = Object::Workload(serde_json::from_value(value).unwrap());
        self.hub.take(&Seen { events: vec![Event::Apply(Box::new(object))], ..Seen::default() });
    }

    async fn channel(&self, account: Option<&str>) -> Channel {
        let ca = TestCa::new("anchor");
        let peer = account.map(|account| PeerIdentity {
            id: format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap(),
            anchor: ca.bundle().anchors()[0].id(),
            not_after: ca.bundle().anchors()[0].not_after(),
        });
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.connections.send(Ok(Pipe(theirs, PeerCertificate(peer)))).await.unwrap();
        let mut ours = Some(ours);
        let connect = tower::service_fn(move |_uri| {
            let io = ours.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("once"));
            async move { io }
        });
        Endpoint::from_static("http://control").connect_with_connector(connect).await.unwrap()
    }

    async fn watch(&self, account: Option<&str>, first: Request) -> Result<Stream, Status> {
        let channel = self.channel(account).await;
        let (requests, sending) = mpsc::channel(64);
        requests.send(first.into()).await.unwrap();
        let responses = MeshClient::new(channel).watch(ReceiverStream::new(sending)).await?.into_inner();
        Ok(Stream { requests, responses })
    }
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn say(&self, request: Request) {
        self.requests.send(request.into()).await.unwrap();
    }

    async fn hear(&mut self) -> Update {
        self.responses.message().await.unwrap().unwrap().try_into().unwrap()
    }
}

fn hello(name: &str) -> Request {
    Request::Hello(Hello {
        workload: WorkloadName::new("shop", name),
        uid: String::new(),
        addresses: Vec::new(),
        version: "0.1.0".to_owned(),
    })
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_proxy_is_told_what_it_asked_for_and_its_acknowledgements_count() {
    let world = World::new(LONG);
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    stream.say(Request::Subscribe(ResourceKey::Inbound)).await;
    let first = stream.hear().await;
    assert!(matches!(&first.resource, Resource::Inbound(spec) if spec.workload.to_string() == "shop/web-1"));
    let mut news = world.hub.news();
    stream.say(Request::Ack { key: first.key, version: first.version }).await;
    news.changed().await.unwrap();
    let report = world.hub.report();
    assert_eq!(report.resources[0].proxies, "1/1 proxies");
    assert_eq!(report.connected.len(), 1);

    let key = ResourceKey::Destination("10.0.0.9:80".parse().unwrap());
    stream.say(Request::Subscribe(key.clone())).await;
    assert!(matches!(
        stream.hear().await.resource,
        Resource::Destination(weft_model::resources::Destination::NotFound)
    ));
    world.workload("new", "10.0.0.9");
    let found = stream.hear().await;
    assert!(matches!(found.resource, Resource::Destination(weft_model::resources::Destination::Workload(_))));

    drop(stream);
    while !world.hub.report().connected.is_empty() {
        news.changed().await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_sent_and_costs_no_stream() {
    let world = World::new(LONG);
    let service = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
    let headers = |rule: usize| -> Vec<_> {
        (0..16).map(|i| json!({"name": format!("x-{i}"), "value": format!("{rule}{}", "v".repeat(4_090))})).collect()
    };
    let rule = |i| json!({"matches": [{"headers": headers(i)}], "backendRefs": [{"name": "web", "port": 80}]});
    let route = |rules: usize| {
        json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": (0..rules).map(rule).collect::<Vec<_>>()}})
    };
    let apply = |object| {
        world.hub.take(&Seen { events: vec![Event::Apply(Box::new(object))], ..Seen::default() });
    };
    apply(Object::Service(serde_json::from_value(service).unwrap()));
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    let key = ResourceKey::Service(weft_model::ServiceKey::new("shop", "web", 80));
    stream.say(Request::Subscribe(key.clone())).await;
    assert_eq!(stream.hear().await.key, key);

    apply(Object::HttpRoute(serde_json::from_value(route(64)).unwrap()));
    stream.say(Request::Subscribe(ResourceKey::Mesh)).await;
    assert_eq!(stream.hear().await.key, ResourceKey::Mesh, "the stream goes on with the next");
    let report = world.hub.report();
    let route_report = report.resources.iter().find(|resource| resource.kind == "HTTPRoute").unwrap();
    assert_eq!(route_report.proxies, "0/1 proxies");
    assert!(route_report.refused_by[0].reason.contains("4194304"), "{:?}", route_report.refused_by);

    apply(Object::HttpRoute(serde_json::from_value(route(2)).unwrap()));
    assert_eq!(stream.hear().await.key, key);
}

#[tokio::test]
async fn who_proves_nothing_or_another_identity_is_refused() {
    let world = World::new(LONG);
    for (account, first, code) in [
        (None, hello("web-1"), Code::Unauthenticated),
        (Some("db"), hello("web-1"), Code::PermissionDenied),
        (Some("web"), hello("nobody"), Code::NotFound),
        (Some("web"), Request::Subscribe(ResourceKey::Mesh), Code::FailedPrecondition),
    ] {
        let refused = world.watch(account, first.clone()).await.err().map(|status| status.code());
        assert_eq!(refused, Some(code), "{account:?} {first:?}");
    }
    assert!(world.hub.report().connected.is_empty());
}

#[tokio::test]
async fn garbage_ends_the_stream_with_a_reason() {
    let world = World::new(LONG);
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    let key = wire::ResourceKey { kind: Some(wire::resource_key::Kind::Destination("nowhere".to_owned())) };
    stream.requests.send(WatchRequest { kind: Some(wire::watch_request::Kind::Subscribe(key)) }).await.unwrap();
    let status = stream.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_a_newer_proxy_says_is_passed_over_and_costs_no_stream() {
    let world = World::new(LONG);
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    let of_newer = wire::ResourceKey { kind: None };
    let subscribe = wire::watch_request::Kind::Subscribe(of_newer);
    for kind in [None, Some(subscribe)] {
        stream.requests.send(WatchRequest { kind }).await.unwrap();
    }
    stream.say(Request::Subscribe(ResourceKey::Inbound)).await;
    assert_eq!(stream.hear().await.key, ResourceKey::Inbound);
    assert_eq!(world.metrics.not_understood.get(), 2);
}

#[tokio::test]
async fn a_proxy_of_any_version_is_served_and_counted() {
    let world = World::new(LONG);
    let of = |version: &str| {
        let Request::Hello(hello) = hello("web-1") else { unreachable!() };
        Request::Hello(Hello { version: version.to_owned(), ..hello })
    };
    for (version, skew) in [
        ("0.1.7", Some(Skew::Same)),
        ("0.2.0", Some(Skew::Next)),
        ("0.4.0", Some(Skew::Far)),
        ("1.1.0", Some(Skew::Far)),
        ("built yesterday", None),
    ] {
        let mut stream = world.watch(Some("web"), of(version)).await.unwrap();
        stream.say(Request::Subscribe(ResourceKey::Inbound)).await;
        stream.hear().await;
        assert_eq!(world.metrics.proxies_by_skew(skew).get(), 1, "{version}");
        let mut news = world.hub.news();
        drop(stream);
        while !world.hub.report().connected.is_empty() {
            news.changed().await.unwrap();
        }
        assert_eq!(world.metrics.proxies_by_skew(skew).get(), 0, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_come_is_not_waited_for() {
    let world = World::new(LONG);
    let channel = world.channel(Some("web")).await;
    let (_requests, sending) = mpsc::channel::<WatchRequest>(1);
    let status = MeshClient::new(channel).watch(ReceiverStream::new(sending)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn streams_end_by_age_without_a_fault() {
    let world = World::new(Duration::from_secs(100));
    let begun = tokio::time::Instant::now();
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    assert!(stream.responses.message().await.unwrap().is_none());
    let age = begun.elapsed();
    assert!((80..=121).contains(&age.as_secs()), "{age:?}");
}

#[tokio::test]
async fn a_drain_ends_streams_without_a_fault() {
    let world = World::new(LONG);
    let mut stream = world.watch(Some("web"), hello("web-1")).await.unwrap();
    world.signal.begin();
    assert!(stream.responses.message().await.unwrap().is_none());
    drop((stream, world.connections));
    world.tasks.close();
    world.tasks.wait().await;
}
