//! Chapter 6: opens — or takes from the pool — a connection to the endpoint that was picked, with the identity that
//! discovery named. Invariant: where an identity is named, nothing but mesh TLS with exactly that peer is ever used
//! (semantics 10).

pub(crate) mod h2;
pub(crate) mod pool;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weft_model::{EndpointAddr, OriginalDst, SpiffeId};
use weft_tls::{Alpn, AnchorId, MeshTls, TlsError};

use crate::accept::watch_peer;
use crate::balance::{Picked, Via};
use crate::error::Reason;
use crate::io::Io;
use crate::io::memory::Memory;
use crate::record::{Event, Recorder};

/// How long requests under way may go on with a peer that is trusted no longer (semantics 35): as long as clients of a
/// draining workload have to go elsewhere. Without it every rotation of an anchor would cost some.
pub(crate) const DISTRUSTED_MAX: Duration = Duration::from_secs(5);

/// How much waits between the two stories of one proxy: as much as one read of theirs takes.
const MEMORY_PIPE_BYTES: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The peer proved another identity, or none that we accept.
    #[error("endpoint {addr} is not {expected}")]
    Identity {
        /// Whom we dialled.
        addr: SocketAddr,
        /// Who should have been there.
        expected: SpiffeId,
        /// What was wrong.
        source: Box<TlsError>,
    },
    /// We have no certificate to show.
    #[error("this proxy has no usable certificate yet")]
    NoIdentity {
        /// What is missing.
        source: Box<TlsError>,
    },
    /// The inbound story of this proxy takes no more.
    #[error("this proxy takes no connection to its own workload")]
    Own,
    /// Refused, unreachable, or broken while connecting.
    #[error("endpoint {addr} cannot be connected to")]
    Refused {
        /// Whom we dialled.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Connecting took too long.
    #[error(
        "endpoint {addr} did not complete the connection within {after:?}, maybe a NetworkPolicy drops its packets"
    )]
    Timeout {
        /// Whom we dialled.
        addr: SocketAddr,
        /// How long it was given.
        after: Duration,
    },
    /// It should speak mesh TLS and does not.
    #[error("endpoint {addr} does not speak mesh TLS, although discovery names {expected} there")]
    NotMeshed {
        /// Whom we dialled.
        addr: SocketAddr,
        /// Who should have been there.
        expected: SpiffeId,
        /// What was wrong.
        source: Box<TlsError>,
    },
}

impl ConnectError {
    fn from_tls(source: TlsError, addr: SocketAddr, expected: &SpiffeId) -> Self {
        let expected = expected.clone();
        match source {
            TlsError::Io(source) => Self::Refused { addr, source },
            TlsError::NotReady | TlsError::NoTime | TlsError::Config(_) => {
                Self::NoIdentity { source: Box::new(source) }
            }
            TlsError::Closed | TlsError::Incompatible(_) | TlsError::NoAlpn | TlsError::NotTls(_) => {
                Self::NotMeshed { addr, expected, source: Box::new(source) }
            }
            TlsError::Expired(_)
            | TlsError::IdentityMismatch { .. }
            | TlsError::PeerRefused(_)
            | TlsError::Protocol(_)
            | TlsError::Refused(_) => Self::Identity { addr, expected, source: Box::new(source) },
        }
    }

    /// The one word for it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Identity { .. } => Reason::IdentityMismatch,
            Self::NotMeshed { .. } => Reason::PeerNotMeshed,
            Self::NoIdentity { .. } => Reason::DiscoveryUnavailable,
            Self::Own => Reason::Overloaded,
            Self::Refused { .. } => Reason::ConnectRefused,
            Self::Timeout { .. } => Reason::ConnectTimeout,
        }
    }
}

/// A connection from our outbound story to our own inbound story.
#[derive(Debug)]
pub(crate) struct Handoff {
    /// The inbound story's end.
    pub(crate) io: Io,
    /// The endpoint's address, which is ours.
    pub(crate) dst: OriginalDst,
    /// What a peer's TLS would have negotiated.
    pub(crate) alpn: Alpn,
}

/// A new connection.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Nothing was sent on it yet.
    pub(crate) io: Io,
    /// The trust anchor that the peer's certificate leads to; the connection ends when it is trusted no longer.
    pub(crate) anchor: Option<AnchorId>,
}

/// Opens connections.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    /// Mark of our own sockets, so that the redirect leaves them alone.
    pub(crate) mark: Option<u32>,
    /// Our identity and whom we trust.
    pub(crate) tls: MeshTls,
    /// The way to our own inbound story.
    pub(crate) own: mpsc::Sender<Handoff>,
    /// Counts what came of it.
    pub(crate) recorder: Recorder,
}

impl Dialer {
    /// A new connection to what was picked, speaking `alpn` inside mesh TLS where the endpoint has an identity.
    ///
    /// **Errors:** see [`ConnectError`]; every one of them means that no application byte was sent. **Cancel:** the
    /// attempt is given up.
    pub(crate) async fn connect(&self, picked: &Picked, alpn: Alpn) -> Result<Connected, ConnectError> {
        let addr = picked.addr();
        let after = picked.connect_timeout();
        let connecting = async {
            match picked.via() {
                Via::Own => self.hand_over(addr, alpn),
                Via::Plaintext => self.dial(addr).await.map(|tcp| Connected { io: tcp.into(), anchor: None }),
                Via::MeshTls(expected) => self.dial_mesh(addr, expected, alpn).await,
            }
        };
        let connected = timeout(after, connecting).await.unwrap_or(Err(ConnectError::Timeout { addr, after }));
        self.count(&connected);
        connected
    }

    fn count(&self, connected: &Result<Connected, ConnectError>) {
        let Err(error) = connected else { return self.recorder.count(Event::UpstreamConnected) };
        self.recorder.count(Event::UpstreamConnectFailed);
        match error {
            ConnectError::Identity { .. } => {
                self.recorder.count(Event::IdentityMismatch);
                self.recorder.count(Event::TlsHandshakeFailed);
            }
            ConnectError::NotMeshed { .. } => self.recorder.count(Event::TlsHandshakeFailed),
            ConnectError::NoIdentity { .. }
            | ConnectError::Own
            | ConnectError::Refused { .. }
            | ConnectError::Timeout { .. } => {}
        }
    }

    fn hand_over(&self, addr: SocketAddr, alpn: Alpn) -> Result<Connected, ConnectError> {
        let (near, far) = Memory::pair(MEMORY_PIPE_BYTES);
        let handoff = Handoff { io: far.into(), dst: OriginalDst(addr), alpn };
        self.own.try_send(handoff).map_err(|_full| ConnectError::Own)?;
        Ok(Connected { io: near.into(), anchor: None })
    }

    async fn dial_mesh(&self, addr: SocketAddr, expected: &SpiffeId, alpn: Alpn) -> Result<Connected, ConnectError> {
        let tcp = self.dial(addr).await?;
        let shaken = self.tls.connect_endpoint(tcp, expected, Some(EndpointAddr(addr)), alpn).await;
        let (tls, peer, _alpn) = shaken.map_err(|source| ConnectError::from_tls(source, addr, expected))?;
        Ok(Connected { io: tls.into(), anchor: Some(peer.anchor) })
    }

    async fn dial(&self, addr: SocketAddr) -> Result<TcpStream, ConnectError> {
        let refused = |source| ConnectError::Refused { addr, source };
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP));
        let socket = socket.map_err(refused)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark).map_err(refused)?;
        }
        let tcp = TcpSocket::from_std_stream(socket.into()).connect(addr).await.map_err(refused)?;
        watch_peer(&tcp);
        Ok(tcp)
    }
}
