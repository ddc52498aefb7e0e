//! Bodies on their way: read as frames from either version of HTTP, written as frames to either, with the receiver's
//! pace as the sender's. Invariant: what is not complete is never ended as if it were.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use weft_proxy_core::h1::{BodyDecoder, BodyEncoder, Frame};

use crate::h1::{BodyFailed, Reader, Writer};

/// Bodies up to this size are kept for a further attempt (design §6).
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// Why a body did not arrive or could not be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyEnd {
    /// HTTP/1 failed.
    #[error(transparent)]
    Http1(#[from] BodyFailed),
    /// HTTP/2 failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The receiver ended the HTTP/2 stream.
    #[error("the receiver ended the stream: {0}")]
    Reset(h2::Reason),
}

/// Where frames come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// An HTTP/1 connection.
    Http1 {
        /// Given back when the exchange is over.
        reader: Reader,
        /// Where in the body it is.
        decoder: BodyDecoder,
    },
    /// An HTTP/2 stream.
    Http2 {
        /// The stream.
        stream: RecvStream,
        /// Taken from the stream and not yet allowed to the sender again.
        unreleased: usize,
    },
}

impl Source {
    /// Frames of an HTTP/2 stream.
    pub(crate) fn http2(stream: RecvStream) -> Self {
        Self::Http2 { stream, unreleased: 0 }
    }

    /// Whether no further frame will come.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Http1 { decoder, .. } => decoder.is_end(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    async fn frame(&mut self) -> Result<Frame, BodyEnd> {
        match self {
            Self::Http1 { reader, decoder } => Ok(reader.frame(decoder).await?),
            Self::Http2 { stream, unreleased } => {
                // The receiver took the last piece: the sender may send as much again.
                stream.flow_control().release_capacity(std::mem::take(unreleased))?;
                while let Some(data) = stream.data().await {
                    let data = data?;
                    if !data.is_empty() {
                        *unreleased = data.len();
                        return Ok(Frame::Data(data));
                    }
                }
                Ok(stream.trailers().await?.map_or(Frame::End, Frame::Trailers))
            }
        }
    }
}

/// A body that is read, counted, and kept for a further attempt where there may be one.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    /// Payload read so far, each byte once.
    bytes: u64,
    /// `None` for a body that is sent once.
    replay: Option<Replay>,
}

#[derive(Debug, Default)]
struct Replay {
    /// Read from the source so far, while it is kept.
    frames: Vec<Frame>,
    bytes: usize,
    /// The next of `frames` that the current attempt sends.
    next: usize,
    /// Whether all that was read is kept; shared with who decides on further attempts while the body is being sent.
    whole: Replayable,
}

/// Whether a body can be sent again from its start.
#[derive(Clone, Debug)]
pub(crate) struct Replayable(Rc<Cell<bool>>);

impl Default for Replayable {
    fn default() -> Self {
        Self(Rc::new(Cell::new(true)))
    }
}

impl Replayable {
    /// Whether it can as of now.
    pub(crate) fn get(&self) -> bool {
        self.0.get()
    }
}

impl Body {
    /// A body that is sent once.
    pub(crate) fn once(source: Source) -> Self {
        Self { source, bytes: 0, replay: None }
    }

    /// A body that can be sent again while it is small.
    pub(crate) fn replayed(source: Source) -> Self {
        Self { source, bytes: 0, replay: Some(Replay::default()) }
    }

    /// Tells, also while the body is being sent, whether it can be sent again.
    pub(crate) fn replayable(&self) -> Replayable {
        self.replay.as_ref().map_or_else(|| Replayable(Rc::new(Cell::new(false))), |replay| replay.whole.clone())
    }

    /// Payload read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the current attempt has sent everything.
    pub(crate) fn is_end(&self) -> bool {
        self.source.is_end() && self.replay.as_ref().is_none_or(Replay::is_done)
    }

    /// Goes back to the first frame. `false` when that is no longer kept.
    pub(crate) fn rewind(&mut self) -> bool {
        let Some(replay) = &mut self.replay else { return false };
        replay.next = 0;
        replay.whole.get()
    }

    /// The source, for what comes after the body.
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    /// After its end: resolves when the sender's connection breaks. An orderly end is none: clients may half-close.
    pub(crate) async fn broken(&mut self) -> BodyEnd {
        if let Source::Http1 { reader, .. } = &mut self.source
            && let Err(error) = reader.fill().await
        {
            return BodyFailed::from(error).into();
        }
        // The sender of an HTTP/2 stream is watched by whoever writes to it.
        pending().await
    }

    /// The next frame; [`Frame::End`] again and again at the end.
    ///
    /// **Cancel:** loses nothing.
    pub(crate) async fn frame(&mut self) -> Result<Frame, BodyEnd> {
        if let Some(frame) = self.replay.as_mut().and_then(Replay::again) {
            return Ok(frame);
        }
        let frame = self.source.frame().await?;
        let len = match &frame {
            Frame::Data(data) => data.len(),
            Frame::Trailers(_) | Frame::End => 0,
        };
        self.bytes += len as u64;
        if let Some(replay) = &mut self.replay
            && frame != Frame::End
        {
            replay.keep(&frame, len);
        }
        Ok(frame)
    }
}

impl Replay {
    fn is_done(&self) -> bool {
        self.next >= self.frames.len()
    }

    /// The next kept frame of a further attempt.
    fn again(&mut self) -> Option<Frame> {
        let frame = self.frames.get(self.next)?.clone();
        self.next += 1;
        Some(frame)
    }

    fn keep(&mut self, frame: &Frame, len: usize) {
        self.bytes += len;
        if self.bytes > REPLAY_BYTES_MAX {
            self.whole.0.set(false);
            self.frames = Vec::new();
            self.next = 0;
        } else {
            self.frames.push(frame.clone());
            self.next = self.frames.len();
        }
    }
}

/// Where frames go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// An HTTP/1 connection.
    Http1 {
        /// Given back when the exchange is over.
        writer: Writer,
        /// Where in the body it is.
        encoder: BodyEncoder,
    },
    /// An HTTP/2 stream.
    Http2(SendStream<Bytes>),
}

impl Sink {
    /// Writes a piece; `last` says that nothing follows it.
    async fn data(&mut self, data: Bytes, last: bool) -> Result<(), BodyEnd> {
        match self {
            Self::Http1 { writer, encoder } => Ok(writer.data(encoder, data).await?),
            Self::Http2(stream) => send_h2(stream, data, last).await,
        }
    }

    /// Ends the body. With `ended`, the last piece said so already.
    fn finish(&mut self, trailers: Option<HeaderMap>, ended: bool) -> Result<(), BodyEnd> {
        match self {
            Self::Http1 { writer, encoder } => {
                Ok(writer.finish(encoder, trailers.as_ref()).map_err(BodyFailed::from)?)
            }
            Self::Http2(stream) => Ok(match trailers {
                Some(trailers) => stream.send_trailers(trailers)?,
                None if ended => {}
                None => stream.send_data(Bytes::new(), true)?,
            }),
        }
    }

    /// Sends what was gathered. HTTP/2 gathers by itself, over all streams of a connection.
    async fn flush(&mut self) -> Result<(), BodyEnd> {
        match self {
            Self::Http1 { writer, .. } => Ok(writer.flush().await.map_err(BodyFailed::from)?),
            Self::Http2(_) => Ok(()),
        }
    }

    /// Resolves when an HTTP/2 receiver resets the stream; never for HTTP/1.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<h2::Reason> {
        match self {
            Self::Http1 { .. } => Poll::Pending,
            Self::Http2(stream) => match stream.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => Poll::Ready(reason),
                // The connection is gone, and the stream with it.
                Poll::Ready(Err(_error)) => Poll::Ready(h2::Reason::CANCEL),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Tells the receiver that the body will not be complete. An HTTP/1 receiver learns it when the connection ends.
    pub(crate) fn abort(&mut self, reason: h2::Reason) {
        match self {
            Self::Http1 { .. } => {}
            Self::Http2(stream) => stream.send_reset(reason),
        }
    }
}

/// Sends one piece at the pace of the receiver's window.
async fn send_h2(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), BodyEnd> {
    while data.has_remaining() {
        stream.reserve_capacity(data.len());
        let granted = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(granted) => granted?,
            None => return Err(BodyEnd::Reset(h2::Reason::CANCEL)),
        };
        let piece = data.split_to(granted.min(data.len()));
        stream.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

/// Which side of a transfer failed.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// The sender.
    Read(BodyEnd),
    /// The receiver.
    Write(BodyEnd),
}

/// Passes a body on to its end, trailers included; `on_trailers` may change them. What arrives together leaves together.
///
/// **Errors:** which side failed. **Cancel:** the body is cut; tell the receiver by [`Sink::abort`].
pub(crate) async fn transfer(
    body: &mut Body,
    sink: &mut Sink,
    on_trailers: impl FnOnce(&mut HeaderMap),
) -> Result<(), Transfer> {
    let mut ended = false;
    loop {
        match next_frame(body, sink).await? {
            Frame::Data(data) => {
                ended = body.is_end();
                sink.data(data, ended).await.map_err(Transfer::Write)?;
            }
            Frame::Trailers(mut trailers) => {
                on_trailers(&mut trailers);
                sink.finish(Some(trailers), ended).map_err(Transfer::Write)?;
                break;
            }
            Frame::End => {
                sink.finish(None, ended).map_err(Transfer::Write)?;
                break;
            }
        }
    }
    sink.flush().await.map_err(Transfer::Write)
}

/// Waits for the next frame; before it waits, what was gathered leaves, and while it waits, a receiver may give up.
async fn next_frame(body: &mut Body, sink: &mut Sink) -> Result<Frame, Transfer> {
    if let Some(frame) = ready_now(body.frame()).await {
        return frame.map_err(Transfer::Read);
    }
    sink.flush().await.map_err(Transfer::Write)?;
    // Nothing is lost: neither arm takes anything before it resolves.
    tokio::select! {
        frame = body.frame() => frame.map_err(Transfer::Read),
        reason = poll_fn(|cx| sink.poll_reset(cx)) => Err(Transfer::Write(BodyEnd::Reset(reason))),
    }
}

/// The value of a future that does not have to wait. The future must lose nothing when it is dropped.
async fn ready_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
