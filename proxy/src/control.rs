//! The way to the control plane: a gRPC channel over mutual TLS, to whoever proves to be the control plane of our trust
//! domain and to nobody else. The certificate client and discovery both come by here; retrying is theirs.
//!
//! A channel keeps the TLS connection that it began with, and with it the certificate shown then. So who wants to be
//! seen with the present certificate asks for a new channel.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use weft_tls::{MeshTls, TlsError};

use crate::config::HostPort;

/// For the TCP connection and the TLS handshake together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A control plane whose packets vanish is found out within twice this, and another is asked.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What the requests' `:authority` says; nobody resolves it.
const AUTHORITY: &str = "http://weft-control-plane.weft-system";

/// Where the control plane is, and who we are to it.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    /// Where it listens.
    pub(crate) addr: HostPort,
    /// Mark of our own sockets, so that the redirect leaves them alone.
    pub(crate) mark: Option<u32>,
    /// Whom we trust, and our certificate if there is one already.
    pub(crate) mesh: MeshTls,
}

impl ControlPlane {
    /// A new connection to a control plane whose identity was verified, with our certificate if it is valid.
    ///
    /// **Cancel:** the attempt is given up.
    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let control = self.clone();
        let connector = service_fn(move |_uri| {
            let control = control.clone();
            async move { control.connect().await.map(TokioIo::new) }
        });
        Endpoint::from_static(AUTHORITY)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ControlError> {
        let addr = || self.addr.clone();
        let connecting = async {
            let tcp = self.dial().await.map_err(|source| ControlError::Connect { addr: addr(), source })?;
            let shaken = self.mesh.connect_control(tcp).await;
            shaken.map(|(stream, _peer)| stream).map_err(|source| ControlError::Tls { addr: addr(), source })
        };
        timeout(CONNECT_DEADLINE, connecting).await.unwrap_or(Err(ControlError::Timeout { addr: addr() }))
    }

    /// Connects to the first address that answers. Of several, such as those of a headless Service, any may be the first, so that
    /// proxies spread over all replicas.
    async fn dial(&self) -> io::Result<TcpStream> {
        let mut addrs: Vec<SocketAddr> = lookup_host((self.addr.host.as_str(), self.addr.port)).await?.collect();
        fastrand::shuffle(&mut addrs);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in addrs {
            match self.dial_one(addr).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn dial_one(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.set_tcp_nodelay(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(addr).await
    }
}

/// Why the control plane is not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nothing takes the connection.
    #[error("the control plane at {addr} cannot be reached")]
    Connect {
        /// Where it should be.
        addr: HostPort,
        /// Why not.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("the control plane at {addr} did not answer within {} s", CONNECT_DEADLINE.as_secs())]
    Timeout {
        /// Where it should be.
        addr: HostPort,
    },
    /// Who answered is not the control plane, or does not take us.
    #[error("no TLS with the control plane at {addr}")]
    Tls {
        /// Where it should be.
        addr: HostPort,
        /// What is wrong.
        source: TlsError,
    },
}
