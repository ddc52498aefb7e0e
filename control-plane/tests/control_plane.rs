//! The whole control plane in this process, over real sockets: a proxy's first certificate, its stream, a file that is
//! edited, acknowledgements in the status, a rotation of the trust anchor.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test harness")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use weft_control_plane::app::App;
use weft_control_plane::config::{Config, Source};
use weft_control_plane::serve::mesh::DEFAULT_STREAM_AGE;
use weft_control_plane::token::{TokenKey, TokenSpec};
use weft_model::resources::{Destination, Resource, ResourceKey, Update};
use weft_model::{ServiceKey, SpiffeId, TrustDomain, WorkloadName};
use weft_proto::convert::{Hello, Request};
use weft_proto::identity::v1::certify_request::Proof;
use weft_proto::identity::v1::identity_client::IdentityClient;
use weft_proto::identity::v1::{CertifyRequest, CurrentCertificate};
use weft_proto::proxy::v1::mesh_client::MeshClient;
use weft_proto::proxy::v1::{WatchRequest, WatchResponse};
use weft_runtime::clock::WallClock;
use weft_runtime::telemetry::LogFormat;
use weft_tls::{CertificateDer, Credentials, MeshTls, PrivateKeyDer, PrivatePkcs8KeyDer, TrustBundle};

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {address: 10.0.0.1, serviceAccount: web}
";

/// What a leaf lives: short enough to see one expire.
const LEAF: Duration = Duration::from_secs(5);

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    app: App,
}

impl World {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        fs::write(dir.path().join("source/world.yaml"), WORLD).unwrap();
        let app = App::start(config(dir.path()), None).await.unwrap();
        Self { dir, app }
    }

    fn token(&self) -> String {
        let key = TokenKey::open(&self.dir.path().join("ca")).unwrap();
        let now = WallClock::system().unix_seconds();
        key.mint(&TokenSpec { identity: identity(), life: Duration::from_secs(60), uses: 1 }, now).unwrap()
    }

    /// A proxy's TLS: it trusts the anchors and has no certificate.
    fn tls(&self) -> MeshTls {
        let tls = MeshTls::new(TrustDomain::default());
        let pem = fs::read(self.dir.path().join("ca/anchors.pem")).unwrap();
        tls.publish_bundle(TrustBundle::from_pem(&pem).unwrap()).unwrap();
        tls
    }

    async fn channel(&self, tls: &MeshTls) -> Channel {
        let (tls, addr) = (tls.clone(), self.app.addrs()[0]);
        let connect = tower::service_fn(move |_uri| {
            let tls = tls.clone();
            async move {
                let tcp = TcpStream::connect(addr).await?;
                let (stream, _) = tls.connect_control(tcp).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://control").connect_with_connector(connect).await.unwrap()
    }

    async fn certify(&self, tls: &MeshTls, proof: Proof) -> Result<(), Code> {
        let key = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = CertifyRequest { csr_der, identity: identity().to_string(), proof: Some(proof) };
        let answer = IdentityClient::new(self.channel(tls).await).certify(request).await;
        let answer = answer.map_err(|status| status.code())?.into_inner();
        let chain = answer.chain_der.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let credentials = Credentials::from_der(chain, key).unwrap();
        tls.publish(credentials, TrustBundle::from_der(answer.trust_anchors_der).unwrap()).unwrap();
        Ok(())
    }

    async fn watch(&self, tls: &MeshTls) -> Result<Stream, Code> {
        let (requests, sending) = mpsc::channel(64);
        let hello = Hello {
            workload: WorkloadName::new("shop", "web-1"),
            uid: String::new(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            version: "test".to_owned(),
        };
        requests.send(Request::Hello(hello).into()).await.unwrap();
        let mut client = MeshClient::new(self.channel(tls).await);
        let responses = client.watch(ReceiverStream::new(sending)).await.map_err(|status| status.code())?;
        Ok(Stream { requests, responses: responses.into_inner() })
    }

    async fn admin(&self, head: &str) -> String {
        let addr = self.app.admin_addrs()[0];
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        let request = format!("{head}\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks until the answer says so.
    async fn until(&self, path: &str, wanted: &str) {
        let asking = async {
            while !self.admin(&format!("GET {path} HTTP/1.1")).await.contains(wanted) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, asking).await.is_err() {
            let last = self.admin(&format!("GET {path} HTTP/1.1")).await;
            assert!(last.contains(wanted), "{path} never said {wanted}: {last}");
        }
    }
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn ask(&self, key: ResourceKey) {
        self.requests.send(Request::Subscribe(key).into()).await.unwrap();
    }

    /// The next answer, acknowledged.
    async fn hear(&mut self) -> Update {
        let response = timeout(PATIENCE, self.responses.message()).await.expect("an answer in time");
        let update: Update = response.unwrap().expect("an open stream").try_into().unwrap();
        let ack = Request::Ack { key: update.key.clone(), version: update.version };
        self.requests.send(ack.into()).await.unwrap();
        update
    }

    /// How many anchors the next answer has; from then on `tls` believes in them.
    async fn anchors(&mut self, tls: &MeshTls) -> usize {
        match self.hear().await.resource {
            Resource::Mesh(mesh) => {
                tls.publish_bundle(TrustBundle::from_der(&mesh.trust_anchors).unwrap()).unwrap();
                mesh.trust_anchors.len()
            }
            other => panic!("not the mesh: {other:?}"),
        }
    }
}

fn config(dir: &Path) -> Config {
    let any: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
    Config {
        compare_every: Duration::from_secs(600),
        source: Source::Directory(dir.join("source")),
        issuer_secret: None,
        namespace: "weft-system".to_owned(),
        replica: "one".to_owned(),
        listen: any.clone(),
        admin: any,
        status_dir: Some(dir.join("source/status")),
        ca_dir: dir.join("ca"),
        trust_domain: TrustDomain::default(),
        leaf_lifetime: LEAF,
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        reserved_networks: Vec::new(),
        stream_age: DEFAULT_STREAM_AGE,
        log: "info".to_owned(),
        log_format: LogFormat::Text,
    }
}

fn identity() -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", "web").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_its_certificate_its_answers_and_every_change() {
    let world = World::start().await;
    let tls = world.tls();
    assert_eq!(world.watch(&tls).await.err(), Some(Code::Unauthenticated), "a certificate is needed for all but one");
    assert_eq!(world.certify(&tls, Proof::CurrentCertificate(CurrentCertificate {})).await, Err(Code::Unauthenticated));
    let token = world.token();
    world.certify(&tls, Proof::JoinToken(token.clone())).await.unwrap();
    assert_eq!(world.certify(&world.tls(), Proof::JoinToken(token)).await, Err(Code::Unauthenticated), "single use");
    world.certify(&tls, Proof::CurrentCertificate(CurrentCertificate {})).await.unwrap();

    let mut stream = world.watch(&tls).await.unwrap();
    stream.ask(ResourceKey::Destination("10.96.0.1:80".parse().unwrap())).await;
    let web = ServiceKey::new("shop", "web", 80);
    assert_eq!(stream.hear().await.resource, Resource::Destination(Destination::Service(web.clone())));
    stream.ask(ResourceKey::Endpoints(web)).await;
    let Resource::Endpoints(first) = stream.hear().await.resource else { panic!("endpoints") };
    assert_eq!(first.upserted[0].identity, Some(identity()));

    let more = WORLD.replace("name: web-1", "name: web-2").replace("10.0.0.1", "10.0.0.2");
    fs::write(world.dir.path().join("source/more.yaml"), more.split("---").nth(1).unwrap()).unwrap();
    let Resource::Endpoints(delta) = stream.hear().await.resource else { panic!("endpoints") };
    assert_eq!((delta.reset, delta.upserted.len()), (false, 1));
    world.until("/status", "\"name\":\"web-2\",\"version\":").await;
    world.until("/metrics", "weft_control_plane_change_to_last_ack_seconds_count 1").await;

    let file = world.dir.path().join("source/status/workload.shop.web-2.json");
    let written = async {
        while !fs::read_to_string(&file).is_ok_and(|text| text.contains("1/1 proxies")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("the status file in time");

    fs::write(world.dir.path().join("source/more.yaml"), "kind: Workload\nmetadata: {name").unwrap();
    world.until("/status", "\"file\":\"more.yaml\"").await;
    assert!(world.admin("GET /metrics HTTP/1.1").await.contains("weft_control_plane_proxies 1"));
    assert!(world.admin("GET /ready HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    world.app.stop().await;
    assert!(timeout(PATIENCE, stream.responses.message()).await.unwrap().is_ok_and(|end| end.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_is_rotated_under_a_live_stream() {
    let world = World::start().await;
    let tls = world.tls();
    world.certify(&tls, Proof::JoinToken(world.token())).await.unwrap();
    let mut stream = world.watch(&tls).await.unwrap();
    stream.ask(ResourceKey::Mesh).await;
    assert_eq!(stream.anchors(&tls).await, 1);

    assert!(world.admin("POST /rotate-anchor HTTP/1.1").await.starts_with("HTTP/1.1 4"), "the header is needed");
    let begun = world.admin("POST /rotate-anchor HTTP/1.1\r\nweft-admin: 1\r\nContent-Length: 0").await;
    assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
    assert_eq!(stream.anchors(&tls).await, 2, "the overlap goes out, and is acknowledged");
    world.until("/rotation", "\"state\":\"Retiring\"").await;
    // The new issuer's certificate, and the bundle with both.
    world.certify(&tls, Proof::CurrentCertificate(CurrentCertificate {})).await.unwrap();
    let mut renewed = world.watch(&tls).await.unwrap();
    renewed.ask(ResourceKey::Mesh).await;
    assert_eq!(renewed.anchors(&tls).await, 2);
    assert_eq!(renewed.anchors(&tls).await, 1, "the old anchor goes when its last leaf has expired");
    assert!(timeout(PATIENCE, stream.responses.message()).await.unwrap().is_err(), "and ends what it vouched for");
    world.until("/rotation", "\"state\":\"Steady\"").await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing() {
    let world = World::start().await;
    let tls = world.tls();
    world.certify(&tls, Proof::JoinToken(world.token())).await.unwrap();
    drop(world.watch(&tls).await.unwrap());
    let World { dir, app } = world;
    app.stop().await;
    let app = App::start(config(dir.path()), None).await.unwrap();
    let world = World { dir, app };
    let mut stream = world.watch(&tls).await.unwrap();
    stream.ask(ResourceKey::Inbound).await;
    assert!(matches!(stream.hear().await.resource, Resource::Inbound(_)));
    world.certify(&tls, Proof::CurrentCertificate(CurrentCertificate {})).await.unwrap();
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_is_said_at_the_start() {
    let dir = TempDir::new().unwrap();
    let error = App::start(config(dir.path()), None).await.err().expect("an error");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("source is not a directory"), "{error}: {cause}");
}
