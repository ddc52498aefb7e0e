//! The byte streams of the data plane: one concrete type for every kind of connection, so that no chapter is generic
//! and no box stands on the path. It knows nothing of protocols. Invariant: bytes that detection read are read again,
//! in order, before any new byte; and a reset is never read as an orderly end.

pub(crate) mod halves;
pub(crate) mod memory;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use self::memory::Memory;

/// The payload of a full TLS record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// How much one read takes at most.
const READ_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;

thread_local! {
    /// Every read of a worker goes into this one buffer and is dealt with in the same poll. So an idle connection holds
    /// no buffer at all, and a busy one reads in large pieces without having to grow into them.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// Reads once into the worker's buffer and hands what came to `take`; nothing means the end.
///
/// `take` must not read through this function itself: the buffer is one.
pub(crate) fn poll_read_with<T>(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(take(cx, buf.filled())))
    })
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Io {
    /// Read before `inner`; empty after detection's bytes were consumed.
    replay: Bytes,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    /// Mesh TLS that a peer opened to us.
    Accepted(Box<server::TlsStream<Raw>>),
    /// Mesh TLS that we opened to a peer.
    Dialed(Box<client::TlsStream<TcpStream>>),
    /// The outbound and the inbound story of one proxy, joined in memory.
    Memory(Memory),
    /// A socket.
    Tcp(TcpStream, Broken),
}

/// Whether a write to a bare socket was told that the connection is gone.
///
/// The kernel tells of a reset once: when a write is told, a read finds what arrived before it and then an end, as if the
/// other side had finished. TLS says itself when it ends, so only bare sockets need to remember.
#[derive(Clone, Copy, Debug)]
struct Broken(bool);

impl Broken {
    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.0 |= matches!(written, Poll::Ready(Err(_)));
        written
    }
}

/// A socket whose first bytes were already read: what a TLS handshake starts from.
#[derive(Debug)]
pub(crate) struct Raw {
    replay: Bytes,
    tcp: TcpStream,
}

impl Io {
    /// As [`Io::unread`], in passing.
    pub(crate) fn replaying(mut self, read: Bytes) -> Self {
        self.unread(read);
        self
    }

    /// Has `read` read again before anything new.
    pub(crate) fn unread(&mut self, read: Bytes) {
        debug_assert!(self.replay.is_empty(), "a second replay would lose the first");
        self.replay = read;
    }

    /// The bytes that will be read again.
    pub(crate) fn take_replay(&mut self) -> Bytes {
        std::mem::take(&mut self.replay)
    }

    /// Gives the socket back for a TLS handshake. `Err` returns the stream where there is none.
    pub(crate) fn into_raw(self) -> Result<Raw, Self> {
        match self.inner {
            Inner::Tcp(tcp, _) => Ok(Raw { replay: self.replay, tcp }),
            inner @ (Inner::Accepted(_) | Inner::Dialed(_) | Inner::Memory(_)) => {
                Err(Self { replay: self.replay, inner })
            }
        }
    }

    /// Ends the connection so that the other side sees a reset and never mistakes it for an orderly end.
    pub(crate) fn reset(self) {
        self.reset_at_close();
    }

    /// The same, for when it is closed.
    pub(crate) fn reset_at_close(&self) {
        if let Some(tcp) = self.socket() {
            // Without linger a close is a FIN; it can only fail on a socket that is gone already.
            drop(SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO)));
        }
    }

    /// The socket underneath, where there is one.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match &self.inner {
            Inner::Accepted(tls) => Some(&tls.get_ref().0.tcp),
            Inner::Dialed(tls) => Some(tls.get_ref().0),
            Inner::Memory(_) => None,
            Inner::Tcp(tcp, _) => Some(tcp),
        }
    }
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self { replay: Bytes::new(), inner: Inner::Tcp(tcp, Broken(false)) }
    }
}

impl From<Memory> for Io {
    fn from(memory: Memory) -> Self {
        Self { replay: Bytes::new(), inner: Inner::Memory(memory) }
    }
}

#[cfg(test)]
impl From<tokio::io::DuplexStream> for Io {
    fn from(pipe: tokio::io::DuplexStream) -> Self {
        Memory::plain(pipe).into()
    }
}

impl From<server::TlsStream<Raw>> for Io {
    fn from(tls: server::TlsStream<Raw>) -> Self {
        Self { replay: Bytes::new(), inner: Inner::Accepted(Box::new(tls)) }
    }
}

impl From<client::TlsStream<TcpStream>> for Io {
    fn from(tls: client::TlsStream<TcpStream>) -> Self {
        Self { replay: Bytes::new(), inner: Inner::Dialed(Box::new(tls)) }
    }
}

/// Copies as much of `replay` as fits; `true` when there was any.
fn replay_into(replay: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if replay.is_empty() {
        return false;
    }
    let n = replay.len().min(buf.remaining());
    buf.put_slice(replay.get(..n).unwrap_or_default());
    replay.advance(n);
    true
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if replay_into(&mut self.replay, buf) {
            return Poll::Ready(Ok(()));
        }
        match &mut self.inner {
            Inner::Accepted(io) => poll_records(io, cx, buf),
            Inner::Dialed(io) => poll_records(io, cx, buf),
            Inner::Memory(io) => Pin::new(io).poll_read(cx, buf),
            Inner::Tcp(tcp, broken) => poll_bare(tcp, *broken, cx, buf),
        }
    }
}

/// Reads one TLS record, and more after each that is full: more is on its way then, and what is read together is written
/// together, which wakes the reader once and not with each record.
fn poll_records(
    tls: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let mut before = buf.filled().len();
    ready!(Pin::new(&mut *tls).poll_read(cx, buf))?;
    while buf.filled().len() - before >= RECORD_BYTES_MAX && buf.remaining() > 0 {
        before = buf.filled().len();
        // An end or a failure is found again by the next read: TLS ends once and for all.
        if !matches!(Pin::new(&mut *tls).poll_read(cx, buf), Poll::Ready(Ok(()))) {
            break;
        }
    }
    Poll::Ready(Ok(()))
}

/// Reads a bare socket, of which a reset that a write was told of is no end.
fn poll_bare(tcp: &mut TcpStream, broken: Broken, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let before = buf.remaining();
    ready!(Pin::new(tcp).poll_read(cx, buf))?;
    let at_end = buf.remaining() == before && before > 0;
    Poll::Ready(if at_end && broken.0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Accepted(io) => Pin::new(io).poll_write(cx, buf),
            Inner::Dialed(io) => Pin::new(io).poll_write(cx, buf),
            Inner::Memory(io) => Pin::new(io).poll_write(cx, buf),
            Inner::Tcp(tcp, broken) => broken.note(Pin::new(tcp).poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Accepted(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Inner::Dialed(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Inner::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Inner::Tcp(tcp, broken) => broken.note(Pin::new(tcp).poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Accepted(io) => Pin::new(io).poll_flush(cx),
            Inner::Dialed(io) => Pin::new(io).poll_flush(cx),
            Inner::Memory(io) => Pin::new(io).poll_flush(cx),
            Inner::Tcp(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Accepted(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Dialed(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Memory(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Tcp(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if replay_into(&mut self.replay, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn replayed_bytes_come_first_even_in_small_reads() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b" world").await.unwrap();
        drop(far);
        let mut io = Io::from(near);
        io.unread(Bytes::from_static(b"hello"));
        let mut two = [0; 2];
        io.read_exact(&mut two).await.unwrap();
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&two[..], rest.as_str()), (&b"he"[..], "llo world"));
    }

    #[tokio::test]
    async fn a_reset_that_a_write_was_told_of_is_no_end_for_the_reader() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Io::from(listener.accept().await.unwrap().0);
        far.write_all(b"half").await.unwrap();
        SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        while near.write_all(b"more").await.is_ok() {}
        let mut got = Vec::new();
        let ended = near.read_to_end(&mut got).await;
        assert_eq!((&got[..], ended.unwrap_err().kind()), (&b"half"[..], io::ErrorKind::ConnectionReset));
    }
}
