//! Copies bytes both ways until both sides are done. It does not look at them. Invariant: an orderly end arrives as an
//! orderly end, and anything else as a reset, so that truncation never looks like the end (semantics 16).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use weft_tls::StreamEnd;

use crate::error::Reason;
use crate::io::{Io, poll_read_with};

/// Why a copy ended before both sides were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Reading from or writing to the client failed.
    Client,
    /// `until` ended it, for this reason.
    Cut(Reason),
    /// The peer at the other end does not accept our certificate; in TLS 1.3 that is learned only by reading.
    Refused,
    /// Reading from or writing to the upstream failed.
    Upstream,
}

impl Broken {
    /// What a failed read from the upstream means.
    pub(crate) fn upstream(error: &io::Error) -> Self {
        if StreamEnd::of(error).is_certificate_refused() { Self::Refused } else { Self::Upstream }
    }

    /// The one word for it.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Client => Reason::ClientGone,
            Self::Cut(reason) => reason,
            Self::Refused => Reason::IdentityMismatch,
            Self::Upstream => Reason::UpstreamReset,
        }
    }
}

/// Copies between `client` and `upstream` until both have ended in an orderly way.
///
/// A half that ends is passed on as a half-close while the other half goes on.
/// `passed` is told how many bytes came from the client and from the upstream since it was last told.
/// **Errors:** who broke it; both connections are reset then. **Cancel:** both are dropped where they stand, which may
/// look like an orderly end: end it by `until`. **Cost:** allocates only for bytes that the far side does not take.
pub(crate) async fn copy(
    mut client: Io,
    mut upstream: Io,
    mut passed: impl FnMut(u64, u64),
    until: Pin<&mut impl Future<Output = Reason>>,
) -> Result<(), Broken> {
    let (mut up, mut down) = (Way::default(), Way::default());
    let both = std::future::poll_fn(|cx| {
        let sent = up.poll(cx, &mut client, &mut upstream);
        let received = down.poll(cx, &mut upstream, &mut client);
        if up.count + down.count > 0 {
            passed(std::mem::take(&mut up.count), std::mem::take(&mut down.count));
        }
        match (sent, received) {
            (Poll::Ready(Err(failed)), _) => Poll::Ready(Err(match failed {
                Failed::Read(_) => Broken::Client,
                Failed::Write => Broken::Upstream,
            })),
            (_, Poll::Ready(Err(failed))) => Poll::Ready(Err(match failed {
                Failed::Read(error) => Broken::upstream(&error),
                Failed::Write => Broken::Client,
            })),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Ok(())) | Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => Poll::Pending,
        }
    });
    // Nothing is lost: when `until` wins, both connections are reset below.
    let ended = tokio::select! {
        ended = both => ended,
        reason = until => Err(Broken::Cut(reason)),
    };
    if ended.is_err() {
        client.reset();
        upstream.reset();
    }
    ended
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and the far side did not take yet.
    held: Vec<u8>,
    /// How much of `held` it has taken.
    written: usize,
    /// Bytes read since they were last reported.
    count: u64,
    /// Whether something may wait in a buffer of the far side's TLS.
    dirty: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Copying,
    Done,
    Ending,
}

/// Which end of a direction failed.
enum Failed {
    Read(io::Error),
    Write,
}

impl Way {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Failed>> {
        loop {
            ready!(self.poll_drain(cx, to)).map_err(|_error| Failed::Write)?;
            match self.stage {
                Stage::Copying => ready!(self.poll_piece(cx, from, to))?,
                Stage::Ending => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // Gone in both directions already: the half-close has nothing left to say.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(Failed::Write));
                        }
                        Ok(()) | Err(_) => self.stage = Stage::Done,
                    }
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what is held; gives the memory back when all is gone.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        if self.written > 0 {
            self.held = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes once.
    fn poll_piece(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Failed>> {
        let read = poll_read_with(from, cx, |cx, piece| {
            if piece.is_empty() {
                return Ok(0);
            }
            let taken = match Pin::new(&mut *to).poll_write(cx, piece) {
                Poll::Ready(taken) => taken,
                Poll::Pending => Ok(0),
            };
            taken.map(|taken| {
                self.held.extend_from_slice(piece.get(taken..).unwrap_or_default());
                piece.len()
            })
        });
        match read {
            Poll::Pending => {
                if self.dirty {
                    ready!(Pin::new(to).poll_flush(cx)).map_err(|_error| Failed::Write)?;
                    self.dirty = false;
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Read(error))),
            Poll::Ready(Ok(Err(_error))) => return Poll::Ready(Err(Failed::Write)),
            Poll::Ready(Ok(Ok(0))) => self.stage = Stage::Ending,
            Poll::Ready(Ok(Ok(n))) => {
                self.count += n as u64;
                self.dirty = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, Io::from(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn a_half_close_passes_while_the_other_half_goes_on() {
        let ((mut client, a), (mut server, b)) = (pair().await, pair().await);
        let mut copied = (0, 0);
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            server.write_all(b"answer to ").await.unwrap();
            server.write_all(question.as_bytes()).await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer to question");
        };
        let count = |sent, received| copied = (copied.0 + sent, copied.1 + received);
        let mut until = pin!(pending());
        let (ended, ()) = tokio::join!(copy(a, b, count, until.as_mut()), talk);
        assert_eq!((ended, copied), (Ok(()), (8, 18)));
    }

    #[tokio::test]
    async fn a_reset_passes_as_a_reset() {
        let ((client, a), (mut server, b)) = (pair().await, pair().await);
        let talk = async {
            Io::from(client).reset();
            server.read_u8().await.unwrap_err().kind()
        };
        let mut until = pin!(pending());
        let (ended, kind) = tokio::join!(copy(a, b, |_, _| {}, until.as_mut()), talk);
        assert_eq!((ended, kind), (Err(Broken::Client), io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn bulk_both_ways_arrives_intact() {
        let ((client, a), (server, b)) = (pair().await, pair().await);
        let body: Vec<u8> = (0..3_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let send_and_check = |io: TcpStream| {
            let body = &body;
            async move {
                let (mut read, mut write) = io.into_split();
                let mut got = Vec::new();
                let send = async move {
                    write.write_all(body).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                tokio::join!(send, async { read.read_to_end(&mut got).await.unwrap() });
                assert!(got == *body, "the bytes differ");
            }
        };
        let mut until = pin!(pending());
        let (ended, (), ()) =
            tokio::join!(copy(a, b, |_, _| {}, until.as_mut()), send_and_check(client), send_and_check(server));
        assert_eq!(ended, Ok(()));
    }
}
