//! What the control plane serves to proxies over its one port: TLS 1.3 with an optional client certificate, which every
//! method but `Certify` demands.

// Certificates for proofs.
pub mod identity;
pub mod mesh;
// Facts for other replicas.
pub mod replica;

mod stream;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};
use weft_proto::identity::v1::identity_server::{Identity, IdentityServer};
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;
use weft_tls::MeshTls;

use self::identity::IdentityService;
use self::mesh::MeshService;
use self::replica::ReplicaService;
pub use self::stream::ControlStream;
use crate::metrics::Metrics;

/// Connections at once: a proxy has one, and a second one for a moment while it changes replicas.
const CONNECTIONS_MAX: usize = 40_000;

/// Connections that have not finished their handshake.
const HANDSHAKES_MAX: usize = 1_024;

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// A peer that answers nothing for the sum of both is gone.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams of one connection: a Watch, and a Certify now and then.
const STREAMS_MAX: u32 = 16;

/// Header bytes of one request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// As the identity service itself says.
const CERTIFY_BYTES_MAX: usize = 64 * 1024;

/// How long accepting pauses when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The parts of the server.
#[derive(Debug)]
pub struct ControlServer {
    /// Whose certificate is shown and whose are believed.
    pub tls: MeshTls,
    /// Where connections run.
    pub tasks: Tasks,
    /// Ends them.
    pub drain: Drain,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// All services behind one door; the same for every way in.
pub fn router(mesh: MeshService, identity: IdentityService, replica: ReplicaService, metrics: Arc<Metrics>) -> Router {
    let identity = IdentityServer::new(Counted { identity, metrics }).max_decoding_message_size(CERTIFY_BYTES_MAX);
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_service(mesh.into_server())
        .add_service(identity)
        .add_service(replica.into_server())
}

impl ControlServer {
    /// Serves until the drain begins, then finishes what is open.
    ///
    /// # Errors
    /// A listener that tokio cannot take; tonic's own failure.
    pub async fn serve(self, listeners: Vec<TcpListener>, router: Router) -> Result<(), ServeError> {
        let (accepted, incoming) = mpsc::channel(64);
        let doors = Doors {
            tls: self.tls,
            tasks: self.tasks.clone(),
            metrics: self.metrics,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            accepted,
        };
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listener)?;
            let (doors, drain) = (doors.clone(), self.drain.clone());
            self.tasks.spawn("accept", async move {
                // A connection that is being accepted when the drain begins is closed: its proxy goes elsewhere.
                tokio::select! {
                    () = drain.draining() => {}
                    () = doors.accept(listener) => {}
                }
            });
        }
        drop(doors);
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
        Box::pin(router.serve_with_incoming_shutdown(incoming, self.drain.draining())).await.map_err(ServeError::Server)
    }
}

/// Where connections come in.
#[derive(Clone)]
struct Doors {
    tls: MeshTls,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    accepted: mpsc::Sender<ControlStream>,
}

impl Doors {
    async fn accept(&self, listener: tokio::net::TcpListener) {
        loop {
            let Ok(shaking) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            let tcp = match listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                self.metrics.refused.inc();
                continue;
            };
            let doors = self.clone();
            self.tasks.spawn("handshake", Box::pin(doors.shake_hands(tcp, place, shaking)));
        }
    }

    async fn shake_hands(self, tcp: TcpStream, place: OwnedSemaphorePermit, shaking: OwnedSemaphorePermit) {
        // Small messages that somebody waits for; without it each would wait for the previous one's acknowledgement.
        if tcp.set_nodelay(true).is_err() {
            return;
        }
        let shaken = timeout(HANDSHAKE_DEADLINE, self.tls.accept_control(tcp)).await;
        drop(shaking);
        match shaken {
            Ok(Ok((tls, peer))) => {
                let stream = ControlStream::new(tls, peer, &self.tls, place);
                // Only at the end nobody takes it.
                drop(self.accepted.send(stream).await);
            }
            Ok(Err(error)) => {
                self.metrics.refused.inc();
                tracing::debug!(error = &error as &dyn std::error::Error, "handshake failed");
            }
            Err(_elapsed) => {
                self.metrics.refused.inc();
            }
        }
    }
}

/// Counts the certificates that were issued.
struct Counted {
    identity: IdentityService,
    metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Identity for Counted {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let response = self.identity.certify(request).await?;
        self.metrics.certificates.inc();
        Ok(response)
    }
}

/// Why proxies are not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime does not take the socket.
    #[error("the runtime does not take a listening socket")]
    Listener(#[source] io::Error),
    /// The gRPC server gave up.
    #[error("the gRPC server ended")]
    Server(#[source] tonic::transport::Error),
}
