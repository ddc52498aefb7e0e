//! Bodies on their way: read as frames from either version of HTTP, written as frames to either, with the receiver's
//! pace as the sender's. Invariant: what is not complete is never ended as if it were.

use std::future::{pending, poll_fn};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use weft_proxy_core::h1::{BodyDecoder, BodyEncoder, BodyError, Frame};

use super::replay::{Replay, Replayable};
use crate::error::Reason;
use crate::h1::{BodyFailed, Reader, Writer};

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

impl BodyEnd {
    /// Why, when it is the client's body that did not arrive.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Http1(BodyFailed::Framing(BodyError::Truncated) | BodyFailed::Io(_)) | Self::Reset(_) => {
                Reason::ClientGone
            }
            Self::Http1(BodyFailed::Framing(_)) => Reason::BadRequest,
            // A message that contradicts its content-length; the crate has reset the stream already.
            Self::Http2(error) if error.is_library() => Reason::BadRequest,
            Self::Http2(_) => Reason::ClientGone,
        }
    }

    /// What the far side's HTTP/2 stream is reset with: the same as this side's, unless that would say that all is
    /// well or that nothing was done. Some clients take those for the end of the message (RFC 9113 §8.1, §8.7).
    pub(crate) fn passed_on(&self, otherwise: h2::Reason) -> h2::Reason {
        let reason = match self {
            Self::Http2(error) if error.is_reset() && error.is_remote() => error.reason(),
            Self::Reset(reason) => Some(*reason),
            Self::Http1(_) | Self::Http2(_) => None,
        };
        reason
            .filter(|reason| !matches!(*reason, h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM))
            .unwrap_or(otherwise)
    }
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
        self.replay.as_ref().map_or_else(Replayable::never, Replay::replayable)
    }

    /// Payload read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing of it is still to come from the sender.
    pub(crate) fn is_read(&self) -> bool {
        self.source.is_end()
    }

    /// Whether the current attempt has sent everything.
    pub(crate) fn is_end(&self) -> bool {
        self.source.is_end() && self.replay.as_ref().is_none_or(Replay::is_done)
    }

    /// Goes back to the first frame. `false` when that is no longer kept.
    pub(crate) fn rewind(&mut self) -> bool {
        self.replay.as_mut().is_some_and(Replay::rewind)
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
    Http2(Http2Sink),
}

/// The sending half of an HTTP/2 stream. Dropped before its end it is reset.
#[derive(Debug)]
pub(crate) struct Http2Sink {
    stream: SendStream<Bytes>,
    ended: bool,
    /// What it is reset with.
    cut: h2::Reason,
}

impl Drop for Http2Sink {
    fn drop(&mut self) {
        if !self.ended {
            // Left to itself h2 would say CANCEL, which some clients take for an orderly end of a response.
            self.stream.send_reset(self.cut);
        }
    }
}

impl Sink {
    /// The request's half of a stream; `ended`: its head was all.
    pub(crate) fn http2_request(stream: SendStream<Bytes>, ended: bool) -> Self {
        Self::Http2(Http2Sink { stream, ended, cut: h2::Reason::CANCEL })
    }

    /// The response's half of a stream.
    pub(crate) fn http2_response(stream: SendStream<Bytes>) -> Self {
        Self::Http2(Http2Sink { stream, ended: false, cut: h2::Reason::INTERNAL_ERROR })
    }

    /// Whether the head was all, and has been sent.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self, Self::Http2(Http2Sink { ended: true, .. }))
    }

    /// Writes a piece; `last` says that nothing follows it.
    async fn data(&mut self, data: Bytes, last: bool) -> Result<(), BodyEnd> {
        match self {
            Self::Http1 { writer, encoder } => Ok(writer.data(encoder, data).await?),
            Self::Http2(sink) => {
                send_h2(&mut sink.stream, data, last).await?;
                sink.ended = last;
                Ok(())
            }
        }
    }

    /// Ends the body, unless its last piece said so already.
    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyEnd> {
        match self {
            Self::Http1 { writer, encoder } => {
                Ok(writer.finish(encoder, trailers.as_ref()).map_err(BodyFailed::from)?)
            }
            Self::Http2(sink) if sink.ended => Ok(()),
            Self::Http2(sink) => {
                match trailers {
                    Some(trailers) => sink.stream.send_trailers(trailers)?,
                    None => sink.stream.send_data(Bytes::new(), true)?,
                }
                sink.ended = true;
                Ok(())
            }
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
            Self::Http2(sink) => match sink.stream.poll_reset(cx) {
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
            Self::Http2(sink) => {
                sink.stream.send_reset(reason);
                sink.ended = true;
            }
        }
    }
}

/// Sends one piece at the pace of the receiver's window.
async fn send_h2(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), BodyEnd> {
    while data.has_remaining() {
        stream.reserve_capacity(data.len());
        let granted = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(granted) => granted?,
            None => return Err(BodyEnd::Reset(reset_reason(stream))),
        };
        let piece = data.split_to(granted.min(data.len()));
        stream.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

/// Why a stream takes no more.
fn reset_reason(stream: &mut SendStream<Bytes>) -> h2::Reason {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match stream.poll_reset(&mut cx) {
        Poll::Ready(Ok(reason)) => reason,
        Poll::Ready(Err(_)) | Poll::Pending => h2::Reason::CANCEL,
    }
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
    loop {
        match next_frame(body, sink).await? {
            Frame::Data(data) => {
                let last = body.is_end();
                sink.data(data, last).await.map_err(Transfer::Write)?;
            }
            Frame::Trailers(mut trailers) => {
                on_trailers(&mut trailers);
                sink.finish(Some(trailers)).map_err(Transfer::Write)?;
                break;
            }
            Frame::End => {
                sink.finish(None).map_err(Transfer::Write)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What says "all is well" or "nothing was done" is not passed on for a message that was cut.
    #[test]
    fn misleading_resets_are_replaced() {
        let instead = h2::Reason::INTERNAL_ERROR;
        for (said, passed_on) in [
            (h2::Reason::NO_ERROR, instead),
            (h2::Reason::REFUSED_STREAM, instead),
            (h2::Reason::CANCEL, h2::Reason::CANCEL),
        ] {
            assert_eq!(BodyEnd::Reset(said).passed_on(instead), passed_on);
        }
        assert_eq!(BodyEnd::Http1(BodyError::Truncated.into()).reason(), Reason::ClientGone);
        assert_eq!(BodyEnd::Http1(BodyError::ChunkSizeInvalid.into()).reason(), Reason::BadRequest);
    }
}
