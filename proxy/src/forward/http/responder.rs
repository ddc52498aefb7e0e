//! The way back to the client. Invariant: one final answer, and after it nothing but its body.

use std::future::{pending, poll_fn};
use std::io;

use bytes::Bytes;
use h2::server::SendResponse;
use http::response;
use weft_proxy_core::h1::{
    AnswerTo, BodyEncoder, BodyLength, Persistence, ResponseHead, Version, response_from_h2, response_to_h2,
};

use super::body::Sink;
use super::message::Response;
use crate::h1::{Writer, own_response};

/// What an answer is written to.
#[derive(Debug)]
pub(crate) enum Responder {
    /// The answer has begun; its sink has the rest.
    Begun,
    /// An HTTP/1 connection.
    Http1 {
        /// Where it is written.
        writer: Writer,
        /// The client's version.
        version: Version,
        /// Whether the connection may go on after this exchange.
        persistence: Persistence,
    },
    /// An HTTP/2 stream.
    Http2(SendResponse<Bytes>),
}

/// An answer of ours.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) head: http::Response<()>,
    /// What it says, also where it is not sent.
    pub(crate) body: Bytes,
    /// Whether HEAD asked: then the body is not sent (RFC 9110 §9.3.2).
    pub(crate) to_head: bool,
}

/// Why an answer could not be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RespondError {
    /// It was begun before.
    #[error("the answer has begun already")]
    Begun,
    /// The head does not cross from one version of HTTP to the other.
    #[error(transparent)]
    Convert(#[from] weft_proxy_core::h1::ConvertError),
    /// The stream is gone.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The connection is gone.
    #[error("writing to the client failed")]
    Io(#[from] io::Error),
}

impl Responder {
    /// Whether a final answer has begun.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self, Self::Begun)
    }

    /// The connection will end after this exchange.
    pub(crate) fn close_after(&mut self) {
        if let Self::Http1 { persistence, .. } = self {
            *persistence = Persistence::Close;
        }
    }

    /// Passes an informational answer on at once.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn informational(&mut self, head: Response) -> Result<(), RespondError> {
        match (self, head) {
            (Self::Http1 { writer, version, .. }, head) => {
                writer.informational(&*http1(head, false)?, *version);
                Ok(writer.flush().await?)
            }
            (Self::Http2(stream), head) => Ok(stream.send_informational(http::Response::from_parts(http2(head)?, ()))?),
            (Self::Begun, _) => Err(RespondError::Begun),
        }
    }

    /// Begins the final answer. `is_end`: it has no body. The second value says what becomes of an HTTP/1 connection.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn begin(&mut self, head: Response, is_end: bool) -> Result<(Option<Sink>, Persistence), RespondError> {
        match std::mem::replace(self, Self::Begun) {
            Self::Begun => Err(RespondError::Begun),
            Self::Http1 { mut writer, version, persistence } => {
                let head = http1(head, is_end)?;
                let outgoing = writer.response(&head, version, persistence);
                let sink = Sink::Http1 { writer, encoder: BodyEncoder::new(outgoing.body) };
                Ok((Some(sink), outgoing.persistence))
            }
            Self::Http2(mut stream) => {
                let head = http::Response::from_parts(http2(head)?, ());
                let sink = stream.send_response(head, is_end)?;
                Ok(((!is_end).then(|| Sink::http2_response(sink)), Persistence::KeepAlive))
            }
        }
    }

    /// Sends an answer of our own. Gives an HTTP/1 writer back, and says what becomes of its connection.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn own(&mut self, answer: Own) -> Result<(Option<Writer>, Persistence), RespondError> {
        let Own { head, body, to_head } = answer;
        let (parts, ()) = head.into_parts();
        match std::mem::replace(self, Self::Begun) {
            Self::Begun => Err(RespondError::Begun),
            Self::Http1 { mut writer, version, persistence } => {
                let length = if to_head { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
                let head = own_response(parts.status, parts.headers, length);
                let outgoing = writer.response(&head, version, persistence);
                let mut encoder = BodyEncoder::new(outgoing.body);
                let body = if to_head { Bytes::new() } else { body };
                let written =
                    writer.data(&mut encoder, body).await.and_then(|()| Ok(writer.finish(&mut encoder, None)?));
                written.map_err(io::Error::other)?;
                writer.flush().await?;
                Ok((Some(writer), outgoing.persistence))
            }
            Self::Http2(mut stream) => {
                let head = http::Response::from_parts(parts, ());
                let is_end = to_head || body.is_empty();
                let mut sink = stream.send_response(head, is_end)?;
                if !is_end {
                    // Our own texts are short enough to wait in the crate for a window.
                    sink.send_data(body, true)?;
                }
                Ok((None, Persistence::KeepAlive))
            }
        }
    }

    /// Says "not processed, try elsewhere" in the one way HTTP/2 has for it. `false` for HTTP/1.
    pub(crate) fn refuse_stream(&mut self) -> bool {
        let Self::Http2(stream) = self else { return false };
        stream.send_reset(h2::Reason::REFUSED_STREAM);
        *self = Self::Begun;
        true
    }

    /// Resolves when the client gives an HTTP/2 stream up before its answer has begun.
    ///
    /// **Cancel:** loses nothing.
    pub(crate) async fn given_up(&mut self) {
        match self {
            Self::Http2(stream) => drop(poll_fn(|cx| stream.poll_reset(cx)).await),
            Self::Begun | Self::Http1 { .. } => pending().await,
        }
    }
}

fn http1(head: Response, is_end: bool) -> Result<Box<ResponseHead>, RespondError> {
    match head {
        Response::Http1(head) => Ok(head),
        Response::Http2(parts) => {
            let response = http::Response::from_parts(*parts, ());
            // Whether there is a body is known already: the method adds nothing.
            let to = AnswerTo { method: &http::Method::GET, upgrade: None };
            Ok(Box::new(response_from_h2(response, is_end, &to)?))
        }
    }
}

fn http2(head: Response) -> Result<response::Parts, RespondError> {
    match head {
        Response::Http1(head) => Ok(response_to_h2(*head)?.into_parts().0),
        Response::Http2(parts) => Ok(*parts),
    }
}
