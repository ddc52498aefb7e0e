//! Heads of either version of HTTP, for the parts of the story that do not care which.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, header, request, response};
use weft_proxy_core::h1::{AnswerTo, RequestHead, ResponseHead};
use weft_proxy_core::route::http::RequestView;

use crate::error::Reason;

/// A request's head.
#[derive(Debug)]
pub(crate) enum Request {
    /// As HTTP/1 had it.
    Http1(Box<RequestHead>),
    /// As HTTP/2 had it.
    Http2(Box<request::Parts>),
}

impl Request {
    pub(crate) fn method(&self) -> &Method {
        match self {
            Self::Http1(head) => &head.method,
            Self::Http2(head) => &head.method,
        }
    }

    pub(crate) fn uri(&self) -> &Uri {
        match self {
            Self::Http1(head) => &head.uri,
            Self::Http2(head) => &head.uri,
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Http1(head) => &head.headers,
            Self::Http2(head) => &head.headers,
        }
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Http1(head) => &mut head.headers,
            Self::Http2(head) => &mut head.headers,
        }
    }

    /// What routes are matched against.
    pub(crate) fn view(&self) -> RequestView<'_> {
        let uri = self.uri();
        RequestView { method: self.method(), path: uri.path(), query: uri.query(), headers: self.headers() }
    }

    /// What an HTTP/1 response to it is read by.
    pub(crate) fn answer_to(&self) -> AnswerTo<'_> {
        match self {
            Self::Http1(head) => head.answer_to(),
            Self::Http2(head) => AnswerTo { method: &head.method, upgrade: None },
        }
    }

    /// Whether it asks to turn the connection into a tunnel.
    pub(crate) fn wants_tunnel(&self) -> bool {
        match self {
            Self::Http1(head) => head.upgrade.is_some() || head.method == Method::CONNECT,
            Self::Http2(_) => false,
        }
    }

    /// Replaces the path; the query stays.
    ///
    /// # Errors
    /// [`Reason::BadRequest`] for a path that is none.
    pub(crate) fn set_path(&mut self, path: &str) -> Result<(), Reason> {
        let uri = match self {
            Self::Http1(head) => &mut head.uri,
            Self::Http2(head) => &mut head.uri,
        };
        let text = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query =
            Some(PathAndQuery::from_maybe_shared(Bytes::from(text)).or(Err(Reason::BadRequest))?);
        *uri = Uri::from_parts(parts).or(Err(Reason::BadRequest))?;
        Ok(())
    }

    /// Refuses what has two readings of who is asked: RFC 9113 §8.3.1 demands that `Host` agrees with `:authority`.
    ///
    /// # Errors
    /// [`Reason::BadRequest`].
    pub(crate) fn check_authority(&self) -> Result<(), Reason> {
        let Self::Http2(head) = self else { return Ok(()) };
        let mut hosts = head.headers.get_all(header::HOST).iter();
        match (head.uri.authority(), hosts.next(), hosts.next()) {
            (_, _, Some(_)) | (None, None, None) => Err(Reason::BadRequest),
            (Some(authority), Some(host), None) if host != authority.as_str() => Err(Reason::BadRequest),
            (_, _, None) => Ok(()),
        }
    }
}

/// A response's head.
#[derive(Debug)]
pub(crate) enum Response {
    /// As HTTP/1 had it.
    Http1(Box<ResponseHead>),
    /// As HTTP/2 had it.
    Http2(Box<response::Parts>),
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Http1(head) => head.status,
            Self::Http2(head) => head.status,
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Http1(head) => &head.headers,
            Self::Http2(head) => &head.headers,
        }
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Http1(head) => &mut head.headers,
            Self::Http2(head) => &mut head.headers,
        }
    }

    /// Whether the connection is a tunnel after it.
    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self, Self::Http1(head) if head.is_tunnel)
    }
}
