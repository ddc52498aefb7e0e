//! HTTP/1 messages over a connection: the codec of `weft_proxy_core::h1` with a socket. It knows nothing of routes,
//! policies or endpoints. Invariant: after any error the connection is not used again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::AsyncWrite;
use weft_proxy_core::h1::{
    AnswerTo, BodyDecoder, BodyEncoder, BodyError, BodyLength, Frame, HeadError, HeadReader, Outgoing, Persistence,
    RequestHead, ResponseHead, Version, write_informational, write_request, write_response,
};
use weft_tls::AnchorId;

use crate::io::halves::{Message, ReadHalf, WriteHalf, join, split};
use crate::io::{Io, poll_read_with};

/// Payload up to this size is copied behind its head so that both leave in one call; beyond it a vectored write is
/// cheaper than the copy (guess: a page).
const COPY_BYTES_MAX: usize = 4096;
/// How much is gathered before it is written even though more is there to gather.
const GATHER_BYTES_MAX: usize = 64 * 1024;

/// CR and LF.
const EMPTY_LINE_BYTES: usize = 2;

/// Why a head could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The connection ended in the middle of it.
    #[error("the connection ended in the middle of a head")]
    Ended,
    /// It is malformed or too large.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Reading failed.
    #[error("reading failed")]
    Io(#[from] io::Error),
}

/// Why a body could not be read or written to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFailed {
    /// It is malformed, or shorter or longer than declared.
    #[error(transparent)]
    Framing(#[from] BodyError),
    /// The connection failed.
    #[error("input or output failed")]
    Io(#[from] io::Error),
}

/// A connection to a server, between two exchanges.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Nothing is left in it.
    pub(crate) reader: Reader,
    /// Everything was flushed.
    pub(crate) writer: Writer,
    anchor: Option<AnchorId>,
}

impl Connection {
    /// A new connection.
    pub(crate) fn new(io: Io, anchor: Option<AnchorId>) -> Self {
        let (reader, writer) = begin(io);
        Self { reader, writer, anchor }
    }

    /// Puts the halves of one exchange together again.
    pub(crate) fn reunite(mut reader: Reader, writer: Writer, anchor: Option<AnchorId>) -> Self {
        reader.rest();
        Self { reader, writer, anchor }
    }

    /// The trust anchor behind the peer, for connections of the mesh.
    pub(crate) fn anchor(&self) -> Option<AnchorId> {
        self.anchor
    }

    /// Whether there is nothing to read: no end, and no bytes that nobody asked for.
    ///
    /// **Cost:** no system call unless the socket became readable.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.reader.buf.is_empty() && self.reader.poll_fill(&mut cx).is_pending()
    }
}

/// Splits a connection into what reads messages and what writes them.
pub(crate) fn begin(io: Io) -> (Reader, Writer) {
    let (read, write) = split(io);
    let reader = Reader { half: read, buf: BytesMut::new(), heads: HeadReader::default() };
    let message = Message::of(&write);
    (reader, Writer { half: write, buf: BytesMut::new(), message })
}

/// Ends HTTP on a connection and gives it back as bytes, what was read ahead first.
pub(crate) fn into_io(reader: Reader, writer: Writer) -> Option<Io> {
    let read_ahead = reader.buf.freeze();
    let Writer { half, buf, message } = writer;
    debug_assert!(buf.is_empty(), "what was gathered and not flushed would be lost");
    drop(message);
    let io = join(reader.half, half)?;
    Some(if read_ahead.is_empty() { io } else { io.replaying(read_ahead) })
}

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Reader {
    half: ReadHalf,
    /// Read and not yet dealt with: at most one read of the worker's buffer.
    buf: BytesMut,
    heads: HeadReader,
}

impl Reader {
    /// The next request, or `None` when the client ended instead of beginning one.
    ///
    /// **Cancel:** loses nothing: what was read stays. **Cost:** no buffer while the connection is idle.
    ///
    /// # Errors
    /// Any of [`ReadError`].
    pub(crate) async fn request(&mut self) -> Result<Option<RequestHead>, ReadError> {
        loop {
            if let Some(head) = self.heads.read_request(&mut self.buf)? {
                return Ok(Some(head));
            }
            if self.fill().await? == 0 {
                return if self.heads.has_begun(&self.buf) { Err(ReadError::Ended) } else { Ok(None) };
            }
        }
    }

    /// Waits until a request has begun; `false` when the client ended instead.
    ///
    /// **Cancel:** loses nothing.
    ///
    /// # Errors
    /// Reading failed.
    pub(crate) async fn begun(&mut self) -> io::Result<bool> {
        // One empty line may stand before a request; beyond it there is nothing to wait for, it will be refused.
        while !self.heads.has_begun(&self.buf) && self.buf.len() <= EMPTY_LINE_BYTES {
            self.rest();
            if self.fill().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the memory of the last message back for as long as the connection is idle.
    fn rest(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }

    /// The next response head, informational ones included.
    ///
    /// # Errors
    /// Any of [`ReadError`]; [`ReadError::Ended`] also when not one byte came.
    pub(crate) async fn response(&mut self, to: &AnswerTo<'_>) -> Result<ResponseHead, ReadError> {
        loop {
            if let Some(head) = self.heads.read_response(&mut self.buf, to)? {
                return Ok(head);
            }
            if self.fill().await? == 0 {
                return Err(ReadError::Ended);
            }
        }
    }

    /// Memory that is held for reading.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Whether a response has begun to arrive.
    pub(crate) fn has_some(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Takes back a header map that is no longer needed.
    pub(crate) fn recycle(&mut self, headers: HeaderMap) {
        self.heads.recycle(headers);
    }

    /// The next piece of a body.
    ///
    /// **Cancel:** loses nothing.
    ///
    /// # Errors
    /// Any of [`BodyFailed`].
    pub(crate) async fn frame(&mut self, decoder: &mut BodyDecoder) -> Result<Frame, BodyFailed> {
        loop {
            if let Some(frame) = decoder.decode(&mut self.buf)? {
                return Ok(frame);
            }
            if self.fill().await? == 0 {
                decoder.end_of_stream()?;
            }
        }
    }

    /// Reads once and forgets what came; 0 is the end.
    pub(crate) async fn skim(&mut self) -> io::Result<usize> {
        self.buf = BytesMut::new();
        self.fill().await
    }

    /// Reads once; 0 is the end. **Cancel:** loses nothing.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { half, buf, .. } = self;
        poll_read_with(half, cx, |_cx, bytes| {
            buf.extend_from_slice(bytes);
            bytes.len()
        })
    }
}

/// Writes messages. What is written is gathered until [`Writer::flush`].
#[derive(Debug)]
pub(crate) struct Writer {
    half: WriteHalf,
    buf: BytesMut,
    message: Message,
}

impl Writer {
    /// Begins a request.
    pub(crate) fn request(&mut self, head: &RequestHead, persistence: Persistence) -> BodyEncoder {
        self.message.begin();
        write_request(head, persistence, &mut self.buf);
        BodyEncoder::new(head.body)
    }

    /// Begins a final response, or answers 101.
    pub(crate) fn response(&mut self, head: &ResponseHead, client: Version, persistence: Persistence) -> Outgoing {
        self.message.begin();
        write_response(head, client, persistence, &mut self.buf)
    }

    /// Writes an informational response.
    pub(crate) fn informational(&mut self, head: &ResponseHead, client: Version) {
        write_informational(head, client, &mut self.buf);
    }

    /// Writes a piece of a body.
    ///
    /// # Errors
    /// More than was declared, or writing failed.
    pub(crate) async fn data(&mut self, encoder: &mut BodyEncoder, payload: Bytes) -> Result<(), BodyFailed> {
        if payload.len() <= COPY_BYTES_MAX {
            encoder.data(&payload, &mut self.buf)?;
            if self.buf.len() >= GATHER_BYTES_MAX {
                self.write_out().await?;
            }
            return Ok(());
        }
        let frame = encoder.frame(payload.len())?;
        self.buf.extend_from_slice(frame.before());
        self.write_with(payload).await?;
        self.buf.extend_from_slice(frame.behind());
        Ok(())
    }

    /// Ends a body.
    ///
    /// # Errors
    /// Less came than was declared.
    pub(crate) fn finish(&mut self, encoder: &mut BodyEncoder, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        encoder.finish(trailers, &mut self.buf)?;
        self.message.end();
        Ok(())
    }

    /// Sends an answer of ours after which the connection closes.
    ///
    /// # Errors
    /// Writing failed.
    pub(crate) async fn last_words(&mut self, head: http::Response<()>, body: Bytes) -> Result<(), BodyFailed> {
        let (parts, ()) = head.into_parts();
        let head = own_response(parts.status, parts.headers, BodyLength::Known(body.len() as u64));
        let outgoing = self.response(&head, Version::Http11, Persistence::Close);
        let mut encoder = BodyEncoder::new(outgoing.body);
        self.data(&mut encoder, body).await?;
        self.finish(&mut encoder, None)?;
        Ok(self.flush().await?)
    }

    /// Sends all that was gathered.
    ///
    /// # Errors
    /// Writing failed.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.write_out().await?;
        poll_fn(|cx| Pin::new(&mut self.half).poll_flush(cx)).await?;
        self.message.flushed();
        Ok(())
    }

    /// Has the connection end with a reset; what was gathered is thrown away.
    pub(crate) fn break_off(mut self) {
        self.message.break_off();
    }

    /// Ends our half of the connection.
    pub(crate) async fn shutdown(&mut self) {
        // A peer that is gone already has nothing left to be told.
        if self.flush().await.is_ok() {
            drop(poll_fn(|cx| Pin::new(&mut self.half).poll_shutdown(cx)).await);
        }
    }

    async fn write_out(&mut self) -> io::Result<()> {
        let Self { half, buf, .. } = self;
        poll_fn(|cx| -> Poll<io::Result<()>> {
            while !buf.is_empty() {
                match ready!(Pin::new(&mut *half).poll_write(cx, buf))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => buf.advance(n),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        // Heads are small: the next one takes a new, small buffer, and an idle connection has none.
        *buf = BytesMut::new();
        Ok(())
    }

    /// Writes what was gathered and `payload` behind it, without copying the payload.
    async fn write_with(&mut self, payload: Bytes) -> io::Result<()> {
        let Self { half, buf, .. } = self;
        let mut both = Buf::chain(&mut *buf, payload);
        poll_fn(|cx| -> Poll<io::Result<()>> {
            while both.has_remaining() {
                let mut slices = [io::IoSlice::new(&[]); 2];
                let filled = both.chunks_vectored(&mut slices);
                let slices = slices.get(..filled).unwrap_or_default();
                match ready!(Pin::new(&mut *half).poll_write_vectored(cx, slices))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => both.advance(n),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// The status for a request head that cannot be read: 431 for size, 400 for the rest.
pub(crate) fn is_too_large(error: HeadError) -> bool {
    matches!(error, HeadError::HeadTooLarge | HeadError::TooManyHeaders | HeadError::TargetTooLong)
}

/// A response of ours.
pub(crate) fn own_response(status: http::StatusCode, headers: HeaderMap, length: BodyLength) -> ResponseHead {
    let mut head = ResponseHead::new(status, length);
    head.headers = headers;
    head
}
