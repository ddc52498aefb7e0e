//! The two stories of one proxy joined in memory, with the ends of mesh TLS: what was closed in an orderly way is read
//! as the end, what was dropped is read as an error, so that truncation never looks like the end (semantics 16).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// One end.
#[derive(Debug)]
pub(crate) struct Memory {
    pipe: DuplexStream,
    /// Whether we have closed our half.
    closed: Arc<AtomicBool>,
    /// Whether the other end has closed its half.
    peer_closed: Arc<AtomicBool>,
}

impl Memory {
    /// Two joined ends; so many bytes wait in either direction at most.
    pub(crate) fn pair(bytes_max: usize) -> (Self, Self) {
        let (near, far) = duplex(bytes_max);
        let (near_closed, far_closed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        (
            Self { pipe: near, closed: Arc::clone(&near_closed), peer_closed: Arc::clone(&far_closed) },
            Self { pipe: far, closed: far_closed, peer_closed: near_closed },
        )
    }

    /// A bare pipe, whose every end is an orderly one.
    #[cfg(test)]
    pub(super) fn plain(pipe: DuplexStream) -> Self {
        Self { pipe, closed: Arc::default(), peer_closed: Arc::new(AtomicBool::new(true)) }
    }
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && !self.peer_closed.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before the pipe is: the reader may look at once.
        self.closed.store(true, Ordering::Release);
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn an_orderly_end_is_the_end_and_the_other_half_goes_on() {
        let (mut near, mut far) = Memory::pair(64);
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut question = String::new();
        far.read_to_string(&mut question).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    }

    #[tokio::test]
    async fn what_was_dropped_is_an_error_after_its_bytes() {
        let (mut near, mut far) = Memory::pair(64);
        near.write_all(b"half").await.unwrap();
        drop(near);
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
