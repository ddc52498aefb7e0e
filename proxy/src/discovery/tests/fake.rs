//! A control plane in the same process: it answers subscriptions with what it was told, and remembers what was said.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Response, Status, Streaming};
use weft_model::policy::{BackendPolicy, DefaultAuthorization, MtlsMode};
use weft_model::resources::{
    Destination, EgressMode, EndpointsDelta, InboundSpec, Lifecycle, MeshSpec, Resource, ResourceKey, ServiceSpec,
    TelemetrySpec, Update, WorkloadDestination,
};
use weft_model::route::{Backend, BackendTarget, HttpRoute, HttpRule, Timeouts};
use weft_model::{
    AppProtocol, EndpointAddr, EndpointSpec, Health, PolicyId, ServiceKey, SpiffeId, TrustDomain, WorkloadName,
};
use weft_proto::convert::{Hello, Request};
use weft_proto::proxy::v1::mesh_server::{Mesh, MeshServer};
use weft_proto::proxy::v1::{WatchRequest, WatchResponse};
use weft_runtime::task::Tasks;
use weft_tls::testing::TestCa;

use crate::discovery::{Client, Discovery};
use crate::state::StateDir;

/// The control plane and the discovery that it configures.
pub(super) struct Fake {
    pub(super) discovery: Discovery,
    world: Arc<Mutex<World>>,
    _tasks: Tasks,
}

#[derive(Default)]
struct World {
    answers: BTreeMap<ResourceKey, (u64, Resource)>,
    version: u64,
    subscribed: BTreeSet<ResourceKey>,
    said: Vec<Request>,
    /// What was said first on each stream.
    firsts: Vec<Request>,
    session: Option<mpsc::Sender<Result<WatchResponse, Status>>>,
    is_down: bool,
    knows_misses: bool,
}

#[derive(Clone)]
struct Service(Arc<Mutex<World>>, Tasks);

#[tonic::async_trait]
impl Mesh for Service {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: tonic::Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(4_096);
        let (world, mut said) = (Arc::clone(&self.0), request.into_inner());
        {
            let mut world = lock(&world);
            world.session = Some(answers.clone());
            world.subscribed.clear();
        }
        self.1.spawn("session", async move {
            let mut is_first = true;
            while let Some(Ok(request)) = said.next().await {
                let request = Request::try_from(request).unwrap();
                let mut world = lock(&world);
                if std::mem::take(&mut is_first) {
                    world.firsts.push(request.clone());
                }
                world.hear(request);
            }
        });
        drop(answers);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl World {
    fn hear(&mut self, request: Request) {
        match &request {
            Request::Subscribe(key) => {
                self.subscribed.insert(key.clone());
                if self.knows_misses && matches!(key, ResourceKey::Destination(_)) && !self.answers.contains_key(key) {
                    self.answers.insert(key.clone(), (1, Resource::Destination(Destination::NotFound)));
                }
                self.send(key);
            }
            Request::Unsubscribe(key) => {
                self.subscribed.remove(key);
            }
            Request::Ack { .. } | Request::Hello(_) | Request::Nack { .. } => (),
        }
        self.said.push(request);
    }

    fn send(&self, key: &ResourceKey) {
        let (Some(session), Some((version, resource))) = (&self.session, self.answers.get(key)) else { return };
        if self.subscribed.contains(key) {
            let update = Update { key: key.clone(), version: *version, resource: resource.clone() };
            session.try_send(Ok((&update).into())).unwrap();
        }
    }
}

fn lock(world: &Mutex<World>) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    pub(super) fn start() -> Self {
        Self::start_with(None)
    }

    /// One that keeps what is in force, and begins by what was kept before.
    pub(super) fn start_with(state: Option<Arc<StateDir>>) -> Self {
        let (world, tasks) = (Arc::<Mutex<World>>::default(), Tasks::new());
        let (dial, dialled) = mpsc::channel::<io::Result<DuplexStream>>(16);
        let service = MeshServer::new(Service(Arc::clone(&world), tasks.clone()));
        tasks.spawn("server", async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(ReceiverStream::new(dialled)).await.unwrap();
        });
        let (discovery, mut inbox) = Discovery::new(Duration::from_secs(300));
        let answering = Arc::clone(&world);
        let connect = move || connect(Arc::clone(&answering), dial.clone());
        let hello = Hello {
            workload: WorkloadName::new("shop", "own-1"),
            uid: String::new(),
            addresses: vec!["10.0.0.9".parse().unwrap()],
            version: "0.1.0".to_owned(),
        };
        if let Some(kept) = state.as_ref().and_then(|state| state.snapshots()) {
            inbox.restore(kept, &hello.workload);
        }
        tasks.spawn("discovery", Client::new(inbox, connect, hello, state).run());
        Self { discovery, world, _tasks: tasks }
    }

    /// From now on this is the answer under the key; who has subscribed is sent it.
    pub(super) fn tell(&self, key: ResourceKey, resource: Resource) -> u64 {
        let mut world = lock(&self.world);
        world.version += 1;
        let version = world.version;
        let told = key.clone();
        world.answers.insert(key, (version, resource));
        world.send(&told);
        version
    }

    pub(super) fn tell_basics(&self) {
        self.tell(ResourceKey::Mesh, Resource::Mesh(mesh()));
        self.tell(ResourceKey::Inbound, Resource::Inbound(inbound()));
    }

    pub(super) fn tell_service(&self, addr: &str, key: &ServiceKey, addrs: &[&str]) {
        let destination = Resource::Destination(Destination::Service(key.clone()));
        self.tell(ResourceKey::Destination(addr.parse().unwrap()), destination);
        self.tell(ResourceKey::Service(key.clone()), Resource::Service(ServiceSpec::plain(key.clone())));
        self.tell(ResourceKey::Endpoints(key.clone()), Resource::Endpoints(endpoints(addrs)));
    }

    pub(super) fn answer_unknown_with_not_found(&self) {
        lock(&self.world).knows_misses = true;
    }

    pub(super) fn go_down(&self) {
        let mut world = lock(&self.world);
        world.is_down = true;
        world.session = None;
    }

    pub(super) fn go_up(&self) {
        lock(&self.world).is_down = false;
    }

    /// Returns when all that is under way has arrived: paused time moves on only when every task sleeps.
    pub(super) async fn settled(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    pub(super) fn subscribed(&self) -> Vec<ResourceKey> {
        lock(&self.world).subscribed.iter().cloned().collect()
    }

    pub(super) fn version(&self, key: &ResourceKey) -> u64 {
        lock(&self.world).answers[key].0
    }

    pub(super) fn said(&self, request: &Request) -> bool {
        self.times_said(request) > 0
    }

    pub(super) fn times_said(&self, request: &Request) -> usize {
        lock(&self.world).said.iter().filter(|said| *said == request).count()
    }

    pub(super) fn count_said(&self) -> usize {
        lock(&self.world).said.len()
    }

    pub(super) fn refusal(&self, of: &ResourceKey, at: u64) -> String {
        let world = lock(&self.world);
        let mut reasons = world.said.iter().filter_map(|said| match said {
            Request::Nack { key, version, reason } if key == of && *version == at => Some(reason.clone()),
            _ => None,
        });
        reasons.next().unwrap_or_default()
    }

    pub(super) fn streams(&self) -> usize {
        lock(&self.world).firsts.len()
    }

    pub(super) fn each_stream_began_with_hello(&self) -> bool {
        lock(&self.world).firsts.iter().all(|first| matches!(first, Request::Hello(hello) if hello.version == "0.1.0"))
    }
}

async fn connect(
    world: Arc<Mutex<World>>,
    dial: mpsc::Sender<io::Result<DuplexStream>>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let (world, dial) = (Arc::clone(&world), dial.clone());
        async move {
            if lock(&world).is_down {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            dial.send(Ok(far)).await.map_err(|_closed| io::ErrorKind::ConnectionRefused)?;
            Ok(TokioIo::new(near))
        }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector(connector).await
}

pub(super) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name, 80)
}

fn identity(service_account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", service_account).unwrap()
}

pub(super) fn endpoint(addr: &str) -> EndpointSpec {
    let addr: SocketAddr = addr.parse().unwrap();
    EndpointSpec {
        addr: EndpointAddr(addr),
        identity: Some(identity("order")),
        workload: None,
        zone: None,
        weight: 1,
        health: Health::Ready,
    }
}

pub(super) fn endpoints(addrs: &[&str]) -> EndpointsDelta {
    let upserted = addrs.iter().map(|addr| endpoint(addr)).collect();
    EndpointsDelta { reset: true, upserted, removed: Vec::new(), policy: BackendPolicy::default() }
}

pub(super) fn workload(addr: &str, name: &str, service_account: &str) -> WorkloadDestination {
    let workload = Some(WorkloadName::new("shop", name));
    let endpoint = EndpointSpec { workload, identity: Some(identity(service_account)), ..endpoint(addr) };
    WorkloadDestination { endpoint, protocol: AppProtocol::Http, service: None }
}

pub(super) fn route_to(backends: &[(&str, u32)]) -> HttpRoute {
    let backend = |(name, weight): &(&str, u32)| Backend {
        target: BackendTarget::Service(key(name)),
        weight: *weight,
        filters: Vec::new(),
    };
    let rule = HttpRule {
        name: None,
        matches: Vec::new(),
        filters: Vec::new(),
        backends: backends.iter().map(backend).collect(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    HttpRoute { id: PolicyId::new("HTTPRoute", "shop", "canary"), created: 1, rules: vec![rule] }
}

pub(super) fn mesh() -> MeshSpec {
    thread_local! {
        // One authority a test, so that the same mesh is the same.
        static ANCHOR: Vec<u8> = TestCa::new("test").anchor_der().to_vec();
    }
    MeshSpec {
        trust_anchors: vec![ANCHOR.with(Clone::clone)],
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        egress: EgressMode::Allow,
        telemetry: TelemetrySpec::default(),
    }
}

pub(super) fn inbound() -> InboundSpec {
    InboundSpec {
        workload: WorkloadName::new("shop", "own-1"),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        default_authorization: DefaultAuthorization::Allow,
        default_policy: None,
        authz: Vec::new(),
        lifecycle: Lifecycle::Serving,
    }
}
