//! Sockets without TLS. Invariant: after a reset nobody reads an orderly end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A socket whose end is its own.
///
/// The kernel tells of a reset once: when a write is told, a read finds what arrived before it and then an end, as if
/// the other side had finished. TLS says itself when it ends, so only bare sockets need this.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) tcp: TcpStream,
    /// A write was told that the connection is gone.
    broken: bool,
}

impl Plain {
    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.broken |= matches!(written, Poll::Ready(Err(_)));
        written
    }
}

impl From<TcpStream> for Plain {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, broken: false }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        let at_end = buf.remaining() == before && before > 0;
        Poll::Ready(if at_end && self.broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_reset_that_a_write_was_told_of_is_no_end_for_the_reader() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Plain::from(listener.accept().await.unwrap().0);
        far.write_all(b"half").await.unwrap();
        SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        while near.write_all(b"more").await.is_ok() {}
        let mut got = Vec::new();
        let ended = near.read_to_end(&mut got).await;
        assert_eq!((&got[..], ended.unwrap_err().kind()), (&b"half"[..], io::ErrorKind::ConnectionReset));
    }
}
