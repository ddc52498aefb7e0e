//! A connection to the control plane: it knows whose it is, and ends when the anchor that says so is removed (semantics
//! 35).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use weft_tls::{MeshTls, PeerIdentity};

use super::identity::PeerCertificate;

/// A connection after its handshake.
pub struct ControlStream {
    tls: TlsStream<TcpStream>,
    peer: PeerCertificate,
    /// Resolves when the peer's anchor is removed; pending for ever where there is no peer.
    untrusted: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

impl ControlStream {
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        peer: Option<PeerIdentity>,
        mesh: &MeshTls,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let mut anchors = mesh.anchor_watch();
        let anchor = peer.as_ref().map(|peer| peer.anchor);
        let untrusted = Box::pin(async move {
            match anchor {
                Some(anchor) => anchors.removed(anchor).await,
                None => std::future::pending().await,
            }
        });
        Self { tls, peer: PeerCertificate(peer), untrusted, _place: place }
    }
}

impl Connected for ControlStream {
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
        self.peer.clone()
    }
}

impl AsyncRead for ControlStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection is always being read, so this is where it is woken.
        if self.untrusted.as_mut().poll(cx).is_ready() {
            let gone = io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's trust anchor was removed");
            // It must not be polled again once it is ready.
            self.untrusted = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(gone));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ControlStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl fmt::Debug for ControlStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
