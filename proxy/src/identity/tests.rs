//! The task on paused time, against a control plane that does as it is told; and once over a real socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::CertificateSigningRequestParams;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::transport::server::Connected;
use tonic::{Code, Status};
use weft_model::{TrustDomain, WorkloadName};
use weft_proto::identity::v1::identity_server::{Identity, IdentityServer};
use weft_tls::testing::{START_UNIX_S, TestCa, leaf_params, set_validity};
use weft_tls::{PeerIdentity, UnixTime};

use super::{
    Certify, CertifyRequest, CertifyResponse, IdentityError, MeshTls, Ordering, Proof, Renewer, Settings, Stats,
    TimeProvider, TrustBundle,
};
use crate::control::ControlPlane;
use crate::state::StateDir;
use crate::state::testing::in_memory;

const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";
const CONTROL: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// The wall clock moves with tokio's.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now_unix_s(self) -> u64 {
        START_UNIX_S + self.0.elapsed().as_secs()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now_unix_s())))
    }
}

/// What the fake does with one request; without an order it signs.
#[derive(Clone, Copy, Debug)]
enum Order {
    Refuse(Code),
    Hang,
    /// Signs, and the answer gets lost.
    Lose,
    SignForAnother,
    SignByForeign,
    SignAnotherKey,
}

/// A request as the fake saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    at: Duration,
    proof: String,
    key: Vec<u8>,
}

struct Fake {
    ca: TestCa,
    foreign: TestCa,
    clock: Clock,
    life: Duration,
    orders: Mutex<VecDeque<Order>>,
    seen: Mutex<Vec<Seen>>,
}

impl Fake {
    fn sign(&self, request: &CertifyRequest, order: Option<Order>) -> CertifyResponse {
        let identity = match order {
            Some(Order::SignForAnother) => "spiffe://cluster.local/ns/shop/sa/payment",
            _ => ORDER,
        };
        let ca = if matches!(order, Some(Order::SignByForeign)) { &self.foreign } else { &self.ca };
        let now = self.clock.now_unix_s();
        let mut params = leaf_params(identity);
        set_validity(&mut params, now - 20, now + self.life.as_secs());
        let asked = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
        let chain = match order {
            Some(Order::SignAnotherKey) => ca.sign(&params).0,
            _ => ca.sign_for(&params, &asked.public_key),
        };
        CertifyResponse {
            chain_der: chain.iter().map(|der| der.to_vec()).collect(),
            trust_anchors_der: self.ca.bundle().to_der(),
            not_after_unix_s: 0,
        }
    }

    async fn answer(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let proof = match &request.proof {
            Some(Proof::JoinToken(token)) => token.clone(),
            Some(Proof::CurrentCertificate(_)) => "certificate".to_owned(),
            other => format!("{other:?}"),
        };
        let asked = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
        let key = rcgen::PublicKeyData::der_bytes(&asked.public_key).to_vec();
        self.seen.lock().unwrap().push(Seen { at: self.clock.0.elapsed(), proof, key });
        let order = self.orders.lock().unwrap().pop_front();
        match order {
            Some(Order::Refuse(code)) => Err(Status::new(code, "as told")),
            Some(Order::Hang) => std::future::pending().await,
            Some(Order::Lose) => Err(Status::unavailable("lost")),
            _ => Ok(self.sign(&request, order)),
        }
    }
}

impl Certify for Arc<Fake> {
    async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, IdentityError> {
        self.answer(request).await.map_err(|status| IdentityError::Refused(Box::new(status)))
    }
}

struct World {
    fake: Arc<Fake>,
    mesh: MeshTls,
    stats: Arc<Stats>,
    settings: Settings,
    dir: TempDir,
}

impl World {
    fn new(life_s: u64) -> Self {
        let (dir, clock) = (TempDir::new().unwrap(), Clock(Instant::now()));
        let ca = TestCa::new("ca");
        std::fs::write(dir.path().join("anchors.pem"), ca.bundle().to_pem()).unwrap();
        std::fs::write(dir.path().join("token"), "token-1\n").unwrap();
        let settings = Settings {
            identity: ORDER.parse().unwrap(),
            trust_anchors: dir.path().join("anchors.pem"),
            join_token_file: Some(dir.path().join("token")),
            service_account_token_file: None,
            state: None,
        };
        let fake = Fake {
            ca,
            foreign: TestCa::new("foreign"),
            clock,
            life: Duration::from_secs(life_s),
            orders: Mutex::default(),
            seen: Mutex::default(),
        };
        let mesh = MeshTls::with_time(TrustDomain::default(), Arc::new(clock));
        Self { fake: Arc::new(fake), mesh, stats: Arc::default(), settings, dir }
    }

    fn order(&self, orders: impl IntoIterator<Item = Order>) {
        self.fake.orders.lock().unwrap().extend(orders);
    }

    fn renewer(&self) -> Renewer<Arc<Fake>> {
        let time = Arc::new(self.fake.clock);
        Renewer::new(self.settings.clone(), self.mesh.clone(), Arc::clone(&self.fake), time, Arc::clone(&self.stats))
    }

    /// Runs the task for so long and says what the control plane saw of it.
    async fn run_for(&self, time: Duration) -> Vec<Seen> {
        drop(tokio::time::timeout(time, self.renewer().run()).await);
        self.fake.seen.lock().unwrap().clone()
    }

    fn expiry(&self) -> u64 {
        self.stats.not_after_unix_s.load(Ordering::Relaxed)
    }
}

fn proofs(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.proof.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn it_joins_with_the_token_and_renews_with_the_certificate() {
    let w = World::new(100);
    // Twice 75 s at the latest, three times 65 s at the soonest.
    let seen = w.run_for(Duration::from_secs(190)).await;
    assert_eq!(proofs(&seen), ["token-1", "certificate", "certificate"]);
    for pair in seen.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!((64..=76).contains(&gap.as_secs()), "{gap:?}");
        assert_ne!(pair[0].key, pair[1].key, "each certificate has a key of its own");
    }
    assert_eq!(w.expiry(), w.mesh.credentials().unwrap().not_after().as_secs());
    assert_eq!(w.stats.renewals.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_ten_seconds_never_runs_out() {
    let w = World::new(10);
    let run = w.renewer().run();
    let watch = async {
        w.mesh.ready().await;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(w.expiry() > w.fake.clock.now_unix_s(), "expired at {:?}", w.fake.clock.0.elapsed());
        }
    };
    tokio::select! { () = run => {}, () = watch => {} }
    let renewals = w.stats.renewals.load(Ordering::Relaxed);
    assert!((8..=10).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_until_the_last_moment_and_beyond() {
    let w = World::new(100);
    drop(tokio::time::timeout(Duration::from_secs(1), w.renewer().run()).await);
    w.fake.seen.lock().unwrap().clear();
    w.order(std::iter::repeat_n(Order::Refuse(Code::Unavailable), 1_000));
    let seen = w.run_for(Duration::from_secs(160)).await;
    let (before, after): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.at < Duration::from_secs(100));
    assert!(before.iter().all(|seen| seen.proof == "certificate"));
    assert!(before.last().unwrap().at > Duration::from_secs(98), "the last second counts: {before:?}");
    // A certificate that ran out proves nothing: the token, again and again, but not in a loop.
    assert!(after.iter().all(|seen| seen.proof == "token-1"), "{after:?}");
    assert!((2..20).contains(&after.len()), "{}", after.len());
    assert!(before.len() < 60, "{}", before.len());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_got_lost_is_asked_for_again_with_the_same_key() {
    let w = World::new(100);
    w.order([Order::Lose, Order::Lose]);
    let seen = w.run_for(Duration::from_secs(30)).await;
    assert_eq!(proofs(&seen), ["token-1"; 3]);
    assert!(seen.windows(2).all(|pair| pair[0].key == pair[1].key));
    assert!(w.mesh.credentials().is_some());
    assert_eq!(w.stats.failures.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_control_plane_does_not_hang_us() {
    let w = World::new(100);
    w.order([Order::Hang]);
    let seen = w.run_for(Duration::from_secs(30)).await;
    assert_eq!(seen.len(), 2);
    assert!(seen[1].at > Duration::from_secs(10) && seen[1].at < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn answers_that_no_peer_would_accept_change_nothing() {
    let w = World::new(100);
    w.order([Order::SignForAnother, Order::SignByForeign, Order::SignAnotherKey]);
    let mut renewer = w.renewer();
    assert!(matches!(renewer.renew().await, Err(IdentityError::OtherIdentity { .. })));
    assert!(matches!(renewer.renew().await, Err(IdentityError::Unusable(_))));
    assert!(matches!(renewer.renew().await, Err(IdentityError::Certificate(_))));
    assert!(w.mesh.credentials().is_none());
    assert_eq!(w.expiry(), 0);
    renewer.renew().await.unwrap();
    assert!(w.mesh.credentials().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refused_certificate_makes_room_for_a_token_read_anew() {
    let w = World::new(100);
    let mut renewer = w.renewer();
    renewer.renew().await.unwrap();
    std::fs::write(w.dir.path().join("token"), "token-2\n").unwrap();
    w.order([Order::Refuse(Code::PermissionDenied)]);
    drop(tokio::time::timeout(Duration::from_secs(30), renewer.run()).await);
    assert_eq!(proofs(&w.fake.seen.lock().unwrap()), ["token-1", "certificate", "token-2"]);
}

#[tokio::test(start_paused = true)]
async fn without_any_proof_it_says_so_and_waits_for_one() {
    let mut w = World::new(100);
    w.settings.join_token_file = None;
    assert!(matches!(w.renewer().renew().await, Err(IdentityError::NoProof)));
    w.settings.join_token_file = Some(w.dir.path().join("later"));
    let mut renewer = w.renewer();
    assert!(matches!(renewer.renew().await, Err(IdentityError::File { .. })));
    std::fs::write(w.dir.path().join("later"), "token-3").unwrap();
    renewer.renew().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_bundle_of_the_answer_replaces_the_files() {
    let w = World::new(100);
    let mut renewer = w.renewer();
    let old = TestCa::new("old").bundle();
    std::fs::write(w.dir.path().join("anchors.pem"), old.to_pem() + &w.fake.ca.bundle().to_pem()).unwrap();
    renewer.read_anchors().await.unwrap();
    assert_eq!(w.mesh.bundle().unwrap().anchors().len(), 2);
    renewer.renew().await.unwrap();
    assert_eq!(*w.mesh.bundle().unwrap(), w.fake.ca.bundle());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_leaves_the_bundle_to_discovery_unless_it_missed_a_rotation() {
    let w = World::new(100);
    let mut renewer = w.renewer();
    renewer.renew().await.unwrap();
    let next = TestCa::new("next");
    let both = TrustBundle::from_der([w.fake.ca.anchor_der(), next.anchor_der()]).unwrap();
    w.mesh.publish_bundle(both.clone()).unwrap();
    renewer.renew().await.unwrap();
    assert_eq!(*w.mesh.bundle().unwrap(), both);
    w.mesh.publish_bundle(next.bundle()).unwrap();
    renewer.renew().await.unwrap();
    assert_eq!(*w.mesh.bundle().unwrap(), w.fake.ca.bundle());
}

#[tokio::test(start_paused = true)]
async fn what_is_obtained_is_kept_and_a_restart_renews_it_without_a_token() {
    let (mut w, there) = (World::new(100), in_memory());
    let (identity, own) = (ORDER.parse().unwrap(), WorkloadName::new("shop", "order-1"));
    w.settings.state = Some(Arc::new(StateDir::open(there.path(), &identity, &own, "").unwrap()));
    let mut renewer = w.renewer();
    renewer.renew().await.unwrap();
    renewer.renew().await.unwrap();

    let state = w.settings.state.clone().unwrap();
    let now = w.fake.clock.current_time().unwrap();
    let (credentials, bundle) = state.credentials(&TrustDomain::default(), &w.fake.ca.bundle(), now).unwrap();
    assert_eq!(credentials.chain(), w.mesh.credentials().unwrap().chain(), "the last one");
    w.stats.not_after_unix_s.store(0, Ordering::Relaxed);
    w.mesh = MeshTls::with_time(TrustDomain::default(), Arc::new(w.fake.clock));
    w.mesh.publish(credentials, bundle).unwrap();
    let mut restarted = w.renewer();
    assert_eq!(w.expiry(), w.mesh.credentials().unwrap().not_after().as_secs());
    restarted.renew().await.unwrap();
    assert_eq!(proofs(&w.fake.seen.lock().unwrap()), ["token-1", "certificate", "certificate"]);
}

/// A connection to the fake's port.
struct Accepted {
    io: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Option<PeerIdentity>,
}

impl Connected for Accepted {
    type ConnectInfo = Option<PeerIdentity>;

    fn connect_info(&self) -> Option<PeerIdentity> {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

struct Service(Arc<Fake>);

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(
        &self,
        request: tonic::Request<CertifyRequest>,
    ) -> Result<tonic::Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Option<PeerIdentity>>().cloned().flatten();
        let request = request.into_inner();
        if matches!(request.proof, Some(Proof::CurrentCertificate(_))) != peer.is_some() {
            return Err(Status::internal("the certificate is shown exactly when there is one"));
        }
        self.0.answer(request).await.map(tonic::Response::new)
    }
}

/// Serves `fake` as `identity` on a port of loopback.
async fn serve(fake: &Arc<Fake>, identity: &str) -> (ControlPlane, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = MeshTls::with_time(TrustDomain::default(), Arc::new(fake.clock));
    server.publish(fake.ca.leaf(identity), fake.ca.bundle()).unwrap();
    let connections = futures::stream::unfold((listener, server), |(listener, server)| async move {
        let accepted = async {
            let (tcp, _) = listener.accept().await?;
            let (io, peer) = server.accept_control(tcp).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(Accepted { io, peer })
        };
        Some((accepted.await, (listener, server)))
    });
    let service = IdentityServer::new(Service(Arc::clone(fake)));
    let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(connections);
    let mesh = MeshTls::with_time(TrustDomain::default(), Arc::new(fake.clock));
    (ControlPlane { addr: addr.into(), mark: None, mesh }, async move { Box::pin(served).await.unwrap() })
}

#[tokio::test]
async fn over_a_socket_it_joins_without_a_certificate_and_renews_with_it() {
    let w = World::new(3_600);
    let (control, served) = serve(&w.fake, CONTROL).await;
    let time = Arc::new(w.fake.clock);
    let mut renewer = Renewer::new(w.settings.clone(), control.mesh.clone(), control, time, Arc::clone(&w.stats));
    let work = async {
        renewer.renew().await.unwrap();
        renewer.renew().await.unwrap();
    };
    tokio::select! { () = served => panic!("the server ended"), () = work => {} }
    assert_eq!(proofs(&w.fake.seen.lock().unwrap()), ["token-1", "certificate"]);
}

#[tokio::test]
async fn the_token_goes_to_nobody_but_the_control_plane() {
    let w = World::new(3_600);
    let (control, served) = serve(&w.fake, "spiffe://cluster.local/ns/shop/sa/payment").await;
    let time = Arc::new(w.fake.clock);
    let mut renewer = Renewer::new(w.settings.clone(), control.mesh.clone(), control, time, Arc::clone(&w.stats));
    let refused = tokio::select! { () = served => panic!("the server ended"), refused = renewer.renew() => refused };
    assert!(matches!(refused, Err(IdentityError::Connect(_))), "{refused:?}");
    let first: &dyn std::error::Error = refused.as_ref().unwrap_err();
    let chain: Vec<_> = std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string).collect();
    let shown = chain.join(": ");
    assert!(shown.contains("the peer is spiffe://cluster.local/ns/shop/sa/payment"), "{shown}");
    assert!(w.fake.seen.lock().unwrap().is_empty());
}
