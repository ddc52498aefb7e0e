//! Two workloads with a proxy each, in one process: real workers, real sockets on loopback, real mesh TLS. Only what the
//! kernel and the control plane would say is said by the test.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, BackendPolicy, DefaultAuthorization, MtlsMode, PeerMatch,
};
use weft_model::probes::Probes;
use weft_model::resources::{
    EgressMode, EndpointsDelta, InboundPort, InboundSpec, Lifecycle, MeshSpec, ServiceSpec, TelemetrySpec,
};
use weft_model::{
    AppProtocol, EndpointAddr, EndpointSpec, Health, OriginalDst, PolicyId, ServiceKey, SpiffeId, TrustDomain,
    WorkloadName,
};
use weft_proxy_core::limit::Concurrency;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::{Drain, DrainSignal};
use weft_tls::MeshTls;
use weft_tls::testing::{ManualTime, TestCa};

use crate::accept::{Balance, Capture, Limits, LocalAddrs, OriginalDstSource, Side, bind};
use crate::app::worker::{Drains, HANDED_MAX, Seat, Shared, run};
use crate::config::{Config, Ports};
use crate::discovery::Discovery;
use crate::discovery::by_hand::ByHand;
use crate::record::{Event, Telemetry};

pub(super) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(super) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel would remember: by the client's address, or else one answer for all.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    by_client: Mutex<HashMap<SocketAddr, SocketAddr>>,
    others: Mutex<Option<SocketAddr>>,
}

#[expect(clippy::unwrap_in_result, reason = "a poisoned lock is a test that has failed already")]
impl OriginalDstSource for Arc<Remembered> {
    fn original_dst(&self, tcp: &TcpStream) -> io::Result<OriginalDst> {
        let client = tcp.peer_addr()?;
        let known = self.by_client.lock().unwrap().get(&client).copied();
        known.or(*self.others.lock().unwrap()).map(OriginalDst).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A mesh: one authority, one clock.
pub(super) struct World {
    pub(super) ca: TestCa,
    pub(super) time: ManualTime,
}

impl World {
    pub(super) fn new() -> Self {
        Self { ca: TestCa::new("mesh"), time: ManualTime::new() }
    }

    pub(super) fn mesh_spec(&self) -> MeshSpec {
        MeshSpec {
            trust_anchors: vec![self.ca.anchor_der().to_vec()],
            networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            egress: EgressMode::Allow,
            telemetry: TelemetrySpec::default(),
        }
    }
}

/// How a proxy is set up.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) ip: IpAddr,
    pub(super) workers: usize,
    pub(super) connections_max: u32,
    pub(super) requests_max: u32,
}

impl Settings {
    pub(super) fn of(ip: IpAddr) -> Self {
        Self { ip, workers: 1, connections_max: 1_000, requests_max: 1_000 }
    }
}

/// The ends of a proxy, in the hand of the test. Dropped, they cut all.
pub(super) struct Ends {
    pub(super) inbound: DrainSignal,
    pub(super) released: DrainSignal,
    pub(super) outbound: DrainSignal,
}

/// A proxy beside the workload `shop/<name>-1`, of the service account `<name>`.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) told: ByHand,
    pub(super) tls: MeshTls,
    pub(super) telemetry: Telemetry,
    pub(super) inbound: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) remembered: Arc<Remembered>,
    pub(super) balance: Arc<Balance>,
    pub(super) ends: Ends,
    pub(super) workers: Vec<std::thread::JoinHandle<io::Result<()>>>,
}

pub(super) fn identity(service_account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", service_account).unwrap()
}

pub(super) fn config(name: &str, settings: Settings, ports: Ports) -> Config {
    Config {
        control_plane: "127.0.0.1:1".parse().unwrap(),
        trust_anchors: "/none".into(),
        join_token_file: None,
        service_account_token_file: None,
        state_dir: None,
        identity: identity(name),
        trust_domain: TrustDomain::default(),
        workload: WorkloadName::new("shop", &format!("{name}-1")),
        workload_uid: String::new(),
        socket_mark: None,
        workers: NonZeroUsize::new(settings.workers).unwrap(),
        ports,
        connections_max: settings.connections_max,
        requests_max: settings.requests_max,
        destination_idle: Duration::from_secs(300),
        drain_deadline: Duration::from_secs(5),
        probes: Probes::default(),
        log: "info".to_owned(),
        log_json: false,
    }
}

/// What all workers of a proxy share, and what the test steers it with.
pub(super) struct Parts {
    pub(super) shared: Shared<Arc<Remembered>>,
    pub(super) told: ByHand,
    pub(super) remembered: Arc<Remembered>,
    pub(super) ends: Ends,
}

pub(super) fn parts(world: &World, name: &'static str, settings: Settings, ports: Ports) -> Parts {
    let config = Arc::new(config(name, settings, ports));
    let (discovery, told) = Discovery::by_hand();
    told.mesh(world.mesh_spec());
    told.inbound(inbound_spec(name));
    let (telemetry, _exporter) = Telemetry::new(config.workload.clone(), WallClock::system());
    let remembered = Arc::<Remembered>::default();
    let (inbound, on_inbound) = Drain::new();
    let (released, on_released) = Drain::new();
    let (outbound, on_outbound) = Drain::new();
    let shared = Shared {
        discovery,
        tls: world.ca.mesh(identity(name).as_str(), &world.time),
        telemetry,
        connections: Arc::new(Limits::new(usize::try_from(settings.connections_max).unwrap())),
        requests: Concurrency::new(settings.requests_max),
        balance: Arc::new(Balance::new(settings.workers)),
        capture: Arc::new(Capture { source: Arc::clone(&remembered), ports, local: Arc::new(LocalAddrs::new()) }),
        drains: Drains { inbound: on_inbound, released: on_released, outbound: on_outbound },
        config,
    };
    Parts { shared, told, remembered, ends: Ends { inbound, released, outbound } }
}

impl Proxy {
    pub(super) fn start(world: &World, name: &'static str, settings: Settings) -> Self {
        let seat = |addr: SocketAddr| bind(addr).unwrap();
        let (first_out, first_in) = (seat((settings.ip, 0).into()), seat((settings.ip, 0).into()));
        let (outbound, inbound) = (first_out.local_addr().unwrap(), first_in.local_addr().unwrap());
        let ports = Ports { outbound: outbound.port(), inbound: inbound.port(), admin: 1 };
        let Parts { shared, told, remembered, ends } = parts(world, name, settings, ports);
        shared.tell_what_is_under_way();
        let (ways, queues): (Vec<_>, Vec<_>) = (0..settings.workers).map(|_| mpsc::channel(HANDED_MAX)).unzip();
        let mut listeners = vec![vec![(Side::Outbound, first_out), (Side::Inbound, first_in)]];
        listeners
            .resize_with(settings.workers, || vec![(Side::Outbound, seat(outbound)), (Side::Inbound, seat(inbound))]);
        let start = |(index, (handed, listeners))| {
            let (seat, shared) = (Seat { index, listeners, handed, workers: ways.clone() }, shared.clone());
            std::thread::spawn(move || run(seat, shared))
        };
        let workers = queues.into_iter().zip(listeners).enumerate().map(start).collect();
        let Shared { tls, telemetry, balance, .. } = shared;
        Self { name, told, tls, telemetry, inbound, outbound, remembered, balance, ends, workers }
    }

    /// Where an unredirected client of the inbound side was going.
    pub(super) fn captures_for(&self, app: SocketAddr) {
        *self.remembered.others.lock().unwrap() = Some(app);
    }

    /// The application opens a connection to `dst`.
    pub(super) async fn open_to(&self, dst: SocketAddr) -> TcpStream {
        self.dial(self.outbound, Some(dst)).await
    }

    /// A stranger opens a connection to the application, in plaintext.
    pub(super) async fn knock(&self) -> TcpStream {
        self.dial(self.inbound, None).await
    }

    /// A connection that the kernel says was going to `dst`.
    pub(super) async fn dial(&self, listener: SocketAddr, dst: Option<SocketAddr>) -> TcpStream {
        self.try_dial(listener, dst).await.unwrap()
    }

    /// A connection that is refused, maybe so soon that it is never made.
    pub(super) async fn dial_in_vain(&self, listener: SocketAddr, dst: Option<SocketAddr>) {
        match self.try_dial(listener, dst).await {
            Ok(mut io) => expect_reset(&mut io).await,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    /// The same of the application's own.
    pub(super) async fn open_in_vain(&self, dst: SocketAddr) {
        self.dial_in_vain(self.outbound, Some(dst)).await;
    }

    async fn try_dial(&self, listener: SocketAddr, dst: Option<SocketAddr>) -> io::Result<TcpStream> {
        let socket = if listener.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind((listener.ip(), 0).into()).unwrap();
        let client = socket.local_addr().unwrap();
        if let Some(dst) = dst {
            self.remembered.by_client.lock().unwrap().insert(client, dst);
        }
        socket.connect(listener).await
    }

    pub(super) fn counted(&self, event: Event) -> u64 {
        self.telemetry.counted(event)
    }

    /// How often a reason stands in the metrics.
    pub(super) fn reason(&self, reason: &str) -> u64 {
        let mut text = String::new();
        self.telemetry.write(&mut text);
        let label = format!("reason=\"{reason}\"");
        let ends = |line: &&str| {
            line.starts_with("weft_requests_total") || line.starts_with("weft_tcp_connections_closed_total")
        };
        let lines = text.lines().filter(ends).filter(|line| line.contains(&label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub(super) async fn wait_for_reason(&self, reason: &str) {
        let metrics = || {
            let mut text = String::new();
            self.telemetry.write(&mut text);
            text.lines().filter(|line| line.contains("reason=\"")).collect::<Vec<_>>().join("\n")
        };
        until(|| self.reason(reason) > 0).await.unwrap_or_else(|| panic!("{}: no {reason}\n{}", self.name, metrics()));
    }

    pub(super) async fn wait_for_event(&self, event: Event, times: u64) {
        let reached = until(|| self.counted(event) >= times).await;
        assert!(reached.is_some(), "{}: {event:?} {} of {times}", self.name, self.counted(event));
    }
}

/// Waits for what other threads do. `None`: it did not come.
pub(super) async fn until(holds: impl Fn() -> bool) -> Option<()> {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.ok()
}

/// A client's proxy and a server's, and the server's application.
pub(super) struct Pair {
    pub(super) world: World,
    pub(super) client: Proxy,
    pub(super) server: Proxy,
    pub(super) app: TcpListener,
    pub(super) service: SocketAddr,
}

/// `order` calls the service `payment` at 10.96.0.1:80 (or its like), of which one endpoint is meshed.
pub(super) async fn pair(ip: IpAddr) -> Pair {
    pair_of(Settings::of(ip), |_| {}).await
}

pub(super) async fn pair_of(settings: Settings, change: impl FnOnce(&mut ServiceSpec)) -> Pair {
    let world = World::new();
    let app = TcpListener::bind((settings.ip, 0)).await.unwrap();
    let client = Proxy::start(&world, "order", settings);
    let server = Proxy::start(&world, "payment", settings);
    server.captures_for(app.local_addr().unwrap());
    let service = if settings.ip.is_ipv4() { "10.96.0.1:80" } else { "[fd00::1]:80" }.parse().unwrap();
    let mut spec = service_spec();
    change(&mut spec);
    client.told.service(service, spec, &endpoints([meshed(&server)]));
    Pair { world, client, server, app, service }
}

impl Pair {
    pub(super) async fn open(&self) -> TcpStream {
        self.client.open_to(self.service).await
    }

    pub(super) async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.app.accept()).await.expect("the application is connected to").unwrap().0
    }

    /// Opens, and passes a byte each way, so that it is known to be carried.
    pub(super) async fn open_carried(&self) -> (TcpStream, TcpStream) {
        let mut client = self.open().await;
        client.write_all(b"\x00?").await.unwrap();
        let mut app = self.accept().await;
        expect(&mut app, b"\x00?").await;
        app.write_all(b"!").await.unwrap();
        expect(&mut client, b"!").await;
        (client, app)
    }

    pub(super) fn server_policy(&self, change: impl FnOnce(&mut InboundSpec)) {
        let mut spec = inbound_spec(self.server.name);
        change(&mut spec);
        self.server.told.inbound(spec);
    }

    pub(super) fn app_port(&self) -> u16 {
        self.app.local_addr().unwrap().port()
    }
}

pub(super) fn service_key() -> ServiceKey {
    ServiceKey::new("shop", "payment", 80)
}

pub(super) fn service_spec() -> ServiceSpec {
    ServiceSpec::plain(service_key())
}

pub(super) fn endpoints(upserted: impl IntoIterator<Item = EndpointSpec>) -> EndpointsDelta {
    let upserted = upserted.into_iter().collect();
    EndpointsDelta { reset: true, upserted, removed: Vec::new(), policy: BackendPolicy::default() }
}

/// The endpoint of a proxy's workload: in place of the redirect its address is the proxy's.
pub(super) fn meshed(proxy: &Proxy) -> EndpointSpec {
    EndpointSpec {
        identity: Some(identity(proxy.name)),
        workload: Some(WorkloadName::new("shop", &format!("{}-1", proxy.name))),
        ..unmeshed(proxy.inbound)
    }
}

pub(super) fn unmeshed(addr: SocketAddr) -> EndpointSpec {
    let addr = EndpointAddr(addr);
    EndpointSpec { addr, identity: None, workload: None, zone: None, weight: 1, health: Health::Ready }
}

pub(super) fn inbound_spec(name: &str) -> InboundSpec {
    InboundSpec {
        workload: WorkloadName::new("shop", &format!("{name}-1")),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        default_authorization: DefaultAuthorization::Allow,
        default_policy: None,
        authz: Vec::new(),
        lifecycle: Lifecycle::Serving,
    }
}

pub(super) fn inbound_port(port: u16, protocol: AppProtocol) -> InboundPort {
    let (probe_paths, scrape_paths) = (Vec::new(), Vec::new());
    InboundPort { port, protocol, mtls: MtlsMode::Permissive, service: None, probe_paths, scrape_paths }
}

/// A policy about one service account.
pub(super) fn about(action: AuthzAction, service_account: &str) -> AuthzPolicy {
    let rule = AuthzRule { from: vec![PeerMatch::Identity(identity(service_account))], to: Vec::new() };
    AuthzPolicy {
        id: PolicyId::new("AuthorizationPolicy", "shop", "one"),
        action,
        ports: Vec::new(),
        rules: vec![rule],
    }
}

/// Reads exactly these bytes.
pub(super) async fn expect(io: &mut (impl AsyncReadExt + Unpin), want: &[u8]) {
    let mut got = vec![0; want.len()];
    let read = timeout(PATIENCE, io.read_exact(&mut got)).await;
    read.expect("bytes arrive").unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
}

/// Reads to the orderly end.
pub(super) async fn rest(io: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut got = Vec::new();
    timeout(PATIENCE, io.read_to_end(&mut got)).await.expect("it ends").expect("in an orderly way");
    String::from_utf8_lossy(&got).into_owned()
}

/// Reads to the end, which must be a reset.
pub(super) async fn expect_reset(io: &mut (impl AsyncReadExt + Unpin)) {
    let mut got = Vec::new();
    let ended = timeout(PATIENCE, io.read_to_end(&mut got)).await.expect("it ends");
    assert_eq!(ended.expect_err("not in an orderly way").kind(), io::ErrorKind::ConnectionReset);
}

/// Sends a request and reads the head of its answer.
pub(super) async fn ask(io: &mut TcpStream, request: &str) -> String {
    io.write_all(request.as_bytes()).await.unwrap();
    head(io).await
}

/// Reads up to the end of a head.
pub(super) async fn head(io: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !got.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => got.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&got)),
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("a head arrives");
    String::from_utf8(got).unwrap()
}

pub(super) const GET: &str = "GET / HTTP/1.1\r\nhost: payment\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The status of a head.
pub(super) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}
