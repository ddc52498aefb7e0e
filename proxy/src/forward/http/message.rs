//! Heads of either version of HTTP, for the parts of the story that do not care which.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request, response};
use weft_proxy_core::h1::{AnswerTo, RequestHead, ResponseHead, names_host};
use weft_proxy_core::route::http::RequestView;

use crate::connect::h2::HEADER_LIST_BYTES_MAX;
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

    /// Whether an HTTP/1 client waits for 100 before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        matches!(self, Self::Http1(head) if head.expect_continue)
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
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(text)).or(Err(Reason::BadRequest))?);
        *uri = Uri::from_parts(parts).or(Err(Reason::BadRequest))?;
        Ok(())
    }

    /// Names another host, in each spelling that the head has.
    ///
    /// # Errors
    /// [`Reason::BadRequest`] for a target that cannot name one.
    pub(crate) fn set_host(&mut self, authority: &Authority, field: &HeaderValue) -> Result<(), Reason> {
        let (uri, headers, has_field) = match self {
            Self::Http1(head) => (&mut head.uri, &mut head.headers, true),
            Self::Http2(head) => {
                let has_field = head.headers.contains_key(header::HOST);
                (&mut head.uri, &mut head.headers, has_field)
            }
        };
        if has_field {
            headers.insert(header::HOST, field.clone());
        }
        if uri.authority().is_some() {
            let mut parts = std::mem::take(uri).into_parts();
            parts.authority = Some(authority.clone());
            *uri = Uri::from_parts(parts).or(Err(Reason::BadRequest))?;
        }
        Ok(())
    }

    /// The host that is asked, with its port if it has one; empty where none is named.
    pub(crate) fn host(&self) -> &str {
        let field = || self.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        self.uri().authority().map(Authority::as_str).or_else(field).unwrap_or_default()
    }

    /// Refuses what the HTTP/1 codec would refuse as well: a head that is too large, and two readings of who is asked
    /// (RFC 9113 §8.3.1 demands that `Host` agrees with `:authority`, and forbids user information).
    ///
    /// # Errors
    /// [`Reason::BadRequest`], [`Reason::HeadersTooLarge`].
    pub(crate) fn check(&self) -> Result<(), Reason> {
        let Self::Http2(head) = self else { return Ok(()) };
        if list_bytes(head) > HEADER_LIST_BYTES_MAX as usize {
            return Err(Reason::HeadersTooLarge);
        }
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let authority = head.uri.authority().map(Authority::as_str);
        if authority.is_some_and(|authority| authority.contains('@')) {
            return Err(Reason::BadRequest);
        }
        match (authority, hosts.next(), hosts.next()) {
            (_, _, Some(_)) | (None, None, None) => Err(Reason::BadRequest),
            (Some(authority), Some(host), None) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
                Err(Reason::BadRequest)
            }
            // An authority was parsed as one; a field alone may hold anything.
            (None, Some(host), None) if !names_host(host.as_bytes()) => Err(Reason::BadRequest),
            (_, _, None) => Ok(()),
        }
    }

    /// The head of an HTTP/2 request as it is sent on. With `again`, it can be had once more; otherwise its fields are
    /// taken and not copied.
    pub(crate) fn http2(&mut self, again: bool) -> Option<http::Request<()>> {
        let Self::Http2(head) = self else { return None };
        let mut request = http::Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = if again { head.headers.clone() } else { std::mem::take(&mut head.headers) };
        Some(request)
    }
}

/// The size of a head as RFC 9113 §6.5.2 counts it: 32 bytes for each field, pseudo-fields included.
fn list_bytes(head: &request::Parts) -> usize {
    const FIELD: usize = 32;
    let pseudo = ":method:scheme:authority:path".len() + 4 * FIELD + head.method.as_str().len();
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
    pseudo + path + authority + fields
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_over_http2_is_named_once_and_is_a_host() {
        for (uri, hosts, is_good) in [
            ("http://shop/", &[][..], true),
            ("http://shop:80/", &["shop:80"], true),
            ("http://shop/", &["SHOP"], true),
            ("http://shop/", &["other"], false),
            ("http://me@shop/", &[], false),
            ("/", &["shop"], true),
            ("/", &["shop:8080"], true),
            ("/", &["[fd00::1]:80"], true),
            ("/", &[], false),
            ("/", &[""], false),
            ("/", &["shop", "shop"], false),
            ("/", &["me@shop"], false),
            ("/", &["shop/admin"], false),
            ("/", &["shop other"], false),
            ("/", &["shop:http"], false),
            ("/", &["[fd00::1"], false),
        ] {
            let mut head = http::Request::builder().version(http::Version::HTTP_2).uri(uri);
            for host in hosts {
                head = head.header(header::HOST, *host);
            }
            let request = Request::Http2(Box::new(head.body(()).unwrap().into_parts().0));
            assert_eq!(request.check().is_ok(), is_good, "{uri} {hosts:?}");
        }
    }
}
