//! A proxy's HTTP in one thread: real sockets to both sides, no control plane, no redirect.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use weft_model::policy::{BackendPolicy, DefaultAuthorization, MtlsMode};
use weft_model::probes::Probes;
use weft_model::resources::{EgressMode, EndpointsDelta, InboundSpec, Lifecycle, MeshSpec, ServiceSpec, TelemetrySpec};
use weft_model::{
    ClientAddr, EndpointAddr, EndpointSpec, Health, OriginalDst, ServiceKey, SpiffeId, TrustDomain, WorkloadName,
};
use weft_proxy_core::limit::Concurrency;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_runtime::task::Tasks;
use weft_tls::MeshTls;
use weft_tls::testing::{ManualTime, TestCa};

use crate::connect::pool::Pool;
use crate::connect::{Dialer, Handoff};
use crate::discovery::by_hand::ByHand;
use crate::discovery::testing::service;
use crate::discovery::{Discovery, Service};
use crate::forward::http::{Gate, Http, Http1End, Session, serve_http1, serve_http2};
use crate::forward::opaque::tunnel;
use crate::io::Io;
use crate::probe::Detours;
use crate::record::Telemetry;
use crate::resolve::Target;

/// Longer than anything here takes; what hangs fails by name.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test as a worker runs its stories.
pub(super) async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(async { timeout(PATIENCE, test).await.expect("the test hangs") }).await
}

/// One proxy's HTTP and what it tells.
pub(super) struct World {
    pub(super) http: Rc<Http>,
    pub(super) telemetry: Telemetry,
    /// Told to all sessions.
    pub(super) draining: DrainSignal,
    drain: Drain,
    /// What the outbound story hands to our own inbound story.
    pub(super) handed: Cell<Option<mpsc::Receiver<Handoff>>>,
    _hand: ByHand,
}

/// What a world differs in.
pub(super) struct Setting {
    pub(super) tls: MeshTls,
    pub(super) inbound: InboundSpec,
    pub(super) requests_max: u32,
    pub(super) probes: Probes,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            tls: MeshTls::new(TrustDomain::default()),
            inbound: inbound(),
            requests_max: 10_000,
            probes: Probes::default(),
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Setting::default())
    }

    pub(super) fn with(setting: Setting) -> Self {
        let Setting { tls, inbound, requests_max, probes } = setting;
        let own = own();
        let (telemetry, _exporter) = Telemetry::new(own.clone(), WallClock::system());
        let (tasks, recorder) = (Tasks::new(), telemetry.recorder());
        let (handed, handoffs) = mpsc::channel(2_000);
        let (discovery, hand) = discovery(inbound);
        let http = Http {
            dialer: Dialer { mark: None, tls, own: handed, recorder: recorder.clone() },
            pool: Pool::new(tasks.clone()),
            recorder,
            requests: Concurrency::new(requests_max),
            discovery,
            detours: Detours::new(&probes, 14003),
            own,
            tasks,
        };
        let (draining, drain) = Drain::new();
        Self { http: Rc::new(http), telemetry, draining, drain, handed: Cell::new(Some(handoffs)), _hand: hand }
    }

    /// A session that our application opened.
    pub(super) fn outbound(&self, target: Target) -> Session {
        self.session(target, Gate::Outbound, SocketAddr::from(([127, 0, 0, 1], 80)))
    }

    /// A session towards our application; `peer` is the proxy that opened it.
    pub(super) fn inbound(&self, app: SocketAddr, peer: Option<SpiffeId>) -> Session {
        self.session(Target::Application(OriginalDst(app)), Gate::Inbound { peer }, app)
    }

    fn session(&self, target: Target, gate: Gate, dst: SocketAddr) -> Session {
        Session {
            client: ClientAddr(SocketAddr::from(([127, 0, 0, 1], 40_000))),
            dst: OriginalDst(dst),
            target,
            gate,
            drain: self.drain.clone(),
            released: self.drain.clone(),
            farewell: Rc::default(),
        }
    }

    /// Serves HTTP/1 on one new connection; the result is the client's end.
    pub(super) async fn http1(&self, session: Session) -> TcpStream {
        let (client, io) = pair().await;
        self.serve(io.into(), session);
        client
    }

    /// Serves HTTP/1 on this connection.
    pub(super) fn serve(&self, io: Io, session: Session) {
        let http = Rc::clone(&self.http);
        spawn_local(async move { serve_and_tunnel(&http, io, &session).await });
    }

    /// Serves HTTP/2 on one new connection.
    pub(super) async fn http2(&self, session: Session) -> SendRequest<Bytes> {
        let (client, io) = pair().await;
        self.serve2(io.into(), session);
        client_of(client).await
    }

    /// Serves HTTP/2 on this connection.
    pub(super) fn serve2(&self, io: Io, session: Session) {
        let http = Rc::clone(&self.http);
        spawn_local(async move { serve_http2(&http, io, session).await });
    }

    /// Serves what comes to a listener as the inbound story does with a verified peer.
    pub(super) async fn listen_inbound(&self, app: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (http, session) = (Rc::clone(&self.http), self.inbound(app, None));
        spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (http, mut session) = (Rc::clone(&http), session.clone());
                spawn_local(async move {
                    let Ok(raw) = Io::from(tcp).into_raw() else { return };
                    let Ok((tls, peer, alpn)) = http.dialer.tls.accept(raw).await else { return };
                    session.gate = Gate::Inbound { peer: Some(peer.id) };
                    match alpn {
                        weft_tls::Alpn::H2 => serve_http2(&http, tls.into(), session).await,
                        _ => serve_and_tunnel(&http, tls.into(), &session).await,
                    }
                });
            }
        });
        addr
    }

    /// Samples of a family that have all these labels, added up.
    pub(super) fn count(&self, family: &str, labels: &[&str]) -> u64 {
        let mut text = String::new();
        self.telemetry.write(&mut text);
        let sample = |line: &&str| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        text.lines().filter(sample).map(value).sum()
    }

    /// Requests that ended for this reason; empty: that ended well.
    pub(super) fn ended(&self, reason: &str) -> u64 {
        self.count("weft_requests_total", &[&format!("reason=\"{reason}\"")])
    }

    /// Waits until no request is in flight.
    pub(super) async fn until_settled(&self) {
        // What was just sent may not have arrived yet.
        tokio::time::sleep(Duration::from_millis(5)).await;
        while self.http.requests.inside() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Waits until so many requests have ended for this reason.
    pub(super) async fn until_ended(&self, reason: &str, n: u64) {
        while self.ended(reason) < n {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(self.ended(reason), n, "{reason}");
    }
}

pub(super) async fn serve_and_tunnel(http: &Rc<Http>, io: Io, session: &Session) {
    if let Http1End::Tunnel { client, upstream } = serve_http1(http, io, session).await {
        tunnel(client, upstream, std::pin::pin!(std::future::pending())).await;
    }
}

pub(super) fn own() -> WorkloadName {
    WorkloadName::new("shop", "own-1")
}

pub(super) fn inbound() -> InboundSpec {
    InboundSpec {
        workload: own(),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        default_authorization: DefaultAuthorization::Allow,
        default_policy: None,
        authz: Vec::new(),
        lifecycle: Lifecycle::Serving,
    }
}

fn discovery(inbound: InboundSpec) -> (Discovery, ByHand) {
    thread_local! {
        static ANCHOR: Vec<u8> = TestCa::new("discovery").anchor_der().to_vec();
    }
    let mesh = MeshSpec {
        trust_anchors: vec![ANCHOR.with(Clone::clone)],
        networks: Vec::new(),
        egress: EgressMode::Allow,
        telemetry: TelemetrySpec::default(),
    };
    let (discovery, hand) = Discovery::by_hand();
    hand.mesh(mesh);
    hand.inbound(inbound);
    (discovery, hand)
}

pub(super) fn passthrough(addr: SocketAddr) -> Target {
    Target::Passthrough(OriginalDst(addr))
}

pub(super) fn key() -> ServiceKey {
    ServiceKey::new("shop", "order", 80)
}

pub(super) fn spec() -> ServiceSpec {
    ServiceSpec::plain(key())
}

pub(super) fn endpoint(addr: SocketAddr) -> EndpointSpec {
    EndpointSpec {
        addr: EndpointAddr(addr),
        identity: None,
        workload: None,
        zone: None,
        weight: 1,
        health: Health::Ready,
    }
}

pub(super) fn service_of(spec: ServiceSpec, endpoints: Vec<EndpointSpec>, policy: BackendPolicy) -> Arc<Service> {
    let delta = EndpointsDelta { reset: true, upserted: endpoints, removed: Vec::new(), policy };
    service(spec, &[(key(), delta)])
}

/// A plain service with these endpoints.
pub(super) fn to(addrs: &[SocketAddr]) -> Target {
    with_spec(spec(), addrs)
}

pub(super) fn with_spec(spec: ServiceSpec, addrs: &[SocketAddr]) -> Target {
    Target::Service(service_of(spec, addrs.iter().copied().map(endpoint).collect(), BackendPolicy::default()))
}

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", account).unwrap()
}

/// Two proxies of one mesh, and a target through both to the application.
pub(super) async fn chain(app: SocketAddr) -> (World, World, Target) {
    let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
    let near = World::with(Setting { tls: ca.mesh(id("web").as_str(), &time), ..Setting::default() });
    let far = World::with(Setting { tls: ca.mesh(id("order").as_str(), &time), ..Setting::default() });
    let addr = far.listen_inbound(app).await;
    let endpoint = EndpointSpec { identity: Some(id("order")), ..endpoint(addr) };
    let target = Target::Service(service_of(spec(), vec![endpoint], BackendPolicy::default()));
    (near, far, target)
}

/// Two ends of a TCP connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0;
    (near, far)
}

/// A server and how many connections it was opened.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    connections: Rc<Cell<usize>>,
}

impl Server {
    /// Runs `script` for each connection; it is told which one it is, from 0.
    pub(super) async fn start<F: Future<Output = ()> + 'static>(
        script: impl Fn(TcpStream, usize) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { addr: listener.local_addr().unwrap(), connections: Rc::default() };
        let connections = Rc::clone(&server.connections);
        spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let n = connections.get();
                connections.set(n + 1);
                spawn_local(script(io, n));
            }
        });
        server
    }

    /// Answers each request on each connection by `answer`, which is given its head.
    pub(super) async fn answering(answer: impl Fn(&str) -> String + Clone + 'static) -> Self {
        Self::start(move |mut io, _| {
            let answer = answer.clone();
            async move {
                while let Some(head) = read_head(&mut io).await {
                    io.write_all(answer(&head).as_bytes()).await.unwrap();
                }
            }
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }
}

/// An address at which nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Reads up to and with the empty line, byte by byte; `None` at the end.
pub(super) async fn read_head(io: &mut TcpStream) -> Option<String> {
    read_until(io, "\r\n\r\n").await
}

/// Reads up to and with `end`; `None` where the connection ends or breaks before its first byte.
pub(super) async fn read_until(io: &mut (impl AsyncRead + Unpin), end: &str) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        match io.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) if text.is_empty() => return None,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    Some(String::from_utf8(text).unwrap())
}

pub(super) async fn read_exactly(io: &mut TcpStream, n: usize) -> String {
    let mut bytes = vec![0; n];
    io.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Everything up to an orderly end, or the error.
pub(super) async fn read_to_end(io: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    io.read_to_string(&mut text).await.map(|_| text)
}

/// Writes `text` and reads all up to the end.
pub(super) async fn say(mut io: TcpStream, text: &str) -> String {
    io.write_all(text.as_bytes()).await.unwrap();
    read_to_end(&mut io).await.unwrap()
}

/// An HTTP/2 client.
pub(super) async fn client_of(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    send
}

/// An HTTP/2 server; `script` runs for each request.
pub(super) async fn h2_server<F: Future<Output = ()> + 'static>(
    script: impl Fn(http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F + Clone + 'static,
) -> Server {
    Server::start(move |io, _| {
        let script = script.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(io).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(script(request, respond));
            }
        }
    })
    .await
}

pub(super) fn h2_request(method: &str) -> http::Request<()> {
    http::Request::builder().method(method).uri("http://shop.example/x").body(()).unwrap()
}

/// The whole body and the trailers.
pub(super) async fn h2_body(mut stream: h2::RecvStream) -> Result<(Vec<u8>, Option<http::HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, stream.trailers().await?))
}

/// Sends all of a body at the pace of its reader.
pub(super) async fn h2_send(stream: &mut h2::SendStream<Bytes>, mut body: Bytes, end: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(granted) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(h2::Reason::STREAM_CLOSED.into());
        };
        stream.send_data(body.split_to(granted?.min(body.len())), false)?;
    }
    if end { stream.send_data(Bytes::new(), true) } else { Ok(()) }
}
