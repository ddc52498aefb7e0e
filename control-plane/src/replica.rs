//! What replicas of one control plane tell each other. Each follows every other one, so that whichever holds the Lease can speak for
//! the proxies of all: how far a version got, who has the trust bundle in force, and who still sends to a workload that goes.
//!
//! Where the others are the index says, as it says it of any Service: they are the endpoints of our own. A replica that is not
//! heard is waited for, and a workload that goes waits with it, no longer than it would without a control plane (semantics 25).

// Conversions from and to the wire.
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use weft_model::ServiceKey;
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::convert::Invalid;
use weft_proto::replica::v1::FollowRequest;
use weft_proto::replica::v1::replica_client::ReplicaClient;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;
use weft_tls::{MeshTls, TlsError};

use self::wire::Said;
use crate::hub::Hub;

/// The Service whose endpoints all replicas are, and its port.
pub(crate) const SERVICE: &str = "weft-control-plane";
pub(crate) const PORT: u16 = 14_010;

/// How often it is looked who the others are, at most. A replica that starts has no proxies in its first second.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// For the TCP connection and the TLS handshake together, as proxies have it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A replica whose packets vanish is found out within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The first pause after a failure, which doubles, up to the longest: a draining workload waits no longer than that for anybody.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What the requests' `:authority` says; nobody resolves it.
const AUTHORITY: &str = "http://weft-control-plane.weft-system";

/// This replica among the others.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    /// What we are called.
    pub(crate) name: Arc<str>,
    /// The Service whose endpoints we all are.
    pub(crate) service: ServiceKey,
    /// Knows our proxies, and is told of the others'.
    pub(crate) hub: Arc<Hub>,
    /// Our certificate, and whom we trust.
    pub(crate) tls: MeshTls,
    /// Where links run.
    pub(crate) tasks: Tasks,
    /// Ends them.
    pub(crate) drain: Drain,
}

impl Replica {
    /// Follows every other replica, those that come later too, until the drain begins.
    pub(crate) async fn follow_all(self) {
        let mut links: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
        let mut news = self.hub.news();
        loop {
            let addrs = self.hub.find_peers(&self.service);
            links.retain(|addr, link| {
                let stays = addrs.contains(addr);
                if !stays {
                    link.abort();
                }
                stays
            });
            for addr in addrs {
                links.entry(addr).or_insert_with(|| self.tasks.spawn("replica", self.clone().follow(addr)));
            }
            // Nothing is lost: both are looked at anew.
            tokio::select! {
                () = self.drain.draining() => break,
                changed = news.changed() => if changed.is_err() { break },
            }
            tokio::select! {
                () = self.drain.draining() => break,
                () = sleep(LOOK_EVERY) => {}
            }
            news.mark_unchanged();
        }
        links.values().for_each(AbortHandle::abort);
    }

    /// Follows one of them for as long as it is polled.
    async fn follow(self, addr: SocketAddr) {
        let mut pause = BACKOFF_MIN;
        loop {
            let outcome = Box::pin(self.listen(addr, &mut pause)).await;
            self.hub.peer_lost(addr);
            match outcome {
                Ok(Heard::Ourselves) => {
                    self.hub.peer_is_self(addr);
                    return;
                }
                // It drains, and its proxies come to us.
                Ok(Heard::End) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, %addr, "another replica is not heard");
                }
            }
            // Between half and all of it, so that replicas that lost each other do not meet again and again.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn listen(&self, addr: SocketAddr, pause: &mut Duration) -> Result<Heard, LinkError> {
        let channel = channel(&self.tls, addr).await.map_err(LinkError::Channel)?;
        let mut client = ReplicaClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut said = client.follow(FollowRequest {}).await.map_err(Box::new)?.into_inner();
        while let Some(response) = said.message().await.map_err(Box::new)? {
            let Said { replica, bundle, facts, complete } = Said::try_from(response)?;
            if replica == *self.name {
                return Ok(Heard::Ourselves);
            }
            if complete {
                *pause = BACKOFF_MIN;
            }
            self.hub.peer_says(addr, &replica, bundle, facts, complete);
        }
        Ok(Heard::End)
    }
}

/// How a link ended.
enum Heard {
    /// The other side has no more to say.
    End,
    /// The other side is this very replica.
    Ourselves,
}

/// A connection to whoever proves to be our control plane.
pub(crate) async fn channel(tls: &MeshTls, addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let tls = tls.clone();
    let connector = service_fn(move |_uri| {
        let tls = tls.clone();
        async move { connect(&tls, addr).await.map(TokioIo::new) }
    });
    Endpoint::from_static(AUTHORITY)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

async fn connect(tls: &MeshTls, addr: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
    let connecting = async {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let (stream, _peer) = tls.connect_control(tcp).await?;
        Ok(stream)
    };
    timeout(CONNECT_DEADLINE, connecting).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("it takes no connection")]
    Connect(#[from] io::Error),
    #[error("it did not answer within {} s", CONNECT_DEADLINE.as_secs())]
    Timeout,
    #[error("it is not the control plane, or does not take us")]
    Tls(#[from] TlsError),
}

/// Why another replica is not heard.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no connection")]
    Channel(#[source] tonic::transport::Error),
    #[error("it says what cannot be believed")]
    Invalid(#[from] Invalid),
    #[error("its stream broke")]
    Status(#[from] Box<tonic::Status>),
}
