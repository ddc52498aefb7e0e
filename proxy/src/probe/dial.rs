//! Connections to the application.

use std::net::SocketAddr;
use std::{fmt, io};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::Unwell;

/// Opens them.
#[derive(Clone)]
pub(super) struct Dial {
    /// The proxy's own ports: nothing that is probed is there, and a redirect to one could go round in circles.
    pub(super) own_ports: [u16; 3],
    /// Mark of our own sockets, so that the redirect leaves them alone.
    pub(super) mark: Option<u32>,
    /// What takes any certificate.
    pub(super) tls: TlsConnector,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own_ports, mark, tls: _ } = self;
        f.debug_struct("Dial").field("own_ports", own_ports).field("mark", mark).finish_non_exhaustive()
    }
}

impl Dial {
    /// A new connection.
    ///
    /// # Errors
    /// The port is closed, or the proxy's.
    pub(super) async fn connect(&self, addr: SocketAddr) -> Result<TcpStream, Unwell> {
        if self.own_ports.contains(&addr.port()) {
            return Err(Unwell::Silent(format!("port {} is the proxy's own", addr.port())));
        }
        self.open(addr).await.map_err(|error| Unwell::Silent(format!("port {}: {error}", addr.port())))
    }

    async fn open(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.set_tcp_nodelay(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(addr).await
    }
}
