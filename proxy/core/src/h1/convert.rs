//! Between HTTP/1 heads and HTTP/2 messages (RFC 9113 §8).
//!
//! What does not survive the way: the case of field names, the reason phrase, the form of the target, informational
//! answers to HTTP/1.0. Requests that depend on the connection do not cross at all ([`ConvertError::Tunnel`]).

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE};
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::body::is_forbidden;
use super::error::ConvertError;
use super::head::{AnswerTo, RequestHead, ResponseHead};
use super::spelling::Spelling;
use super::target::{self, TargetForm};
use super::{BodyLength, Persistence, Version, framing, is_bodyless, is_connection_field};

/// Makes the HTTP/2 request of an HTTP/1 one; `scheme` is what the client's connection had, where the target has none.
/// End the stream with the head when `head.body` is [`BodyLength::is_empty`].
///
/// # Errors
/// [`ConvertError::Tunnel`] for Upgrade and CONNECT, [`ConvertError::Authority`] for a `Host` that is missing or that
/// no URI can hold: such a request goes on as HTTP/1.
pub fn request_to_h2(head: RequestHead, scheme: Scheme) -> Result<Request<()>, ConvertError> {
    if head.upgrade.is_some() || head.form == TargetForm::Authority {
        return Err(ConvertError::Tunnel);
    }
    let mut headers = head.headers;
    let mut parts = head.uri.into_parts();
    let host = headers.remove(HOST);
    if parts.authority.is_none() {
        let host = host.filter(|host| !host.is_empty()).ok_or(ConvertError::Authority)?;
        parts.authority = Some(Authority::try_from(host.as_bytes()).or(Err(ConvertError::Authority))?);
    }
    parts.scheme.get_or_insert(scheme);
    let uri = Uri::from_parts(parts).or(Err(ConvertError::Target))?;
    remove_connection_fields(&mut headers);
    if head.body == BodyLength::Chunked {
        headers.remove(CONTENT_LENGTH);
    }
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Makes the HTTP/1 head of an HTTP/2 request. `is_end` says that no DATA and no trailers follow.
///
/// # Errors
/// What RFC 9113 calls malformed: an authority that is missing, has user information or differs from `Host`, a
/// content-length that does not fit. CONNECT does not cross.
pub fn request_from_h2(request: Request<()>, is_end: bool) -> Result<RequestHead, ConvertError> {
    let (parts, ()) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(ConvertError::Tunnel);
    }
    let mut headers = parts.headers;
    let host = take_host(&parts.uri, &mut headers)?;
    let path = parts.uri.into_parts().path_and_query.ok_or(ConvertError::Target)?;
    let form = if path.as_str() == "*" { TargetForm::Asterisk } else { TargetForm::Origin };
    if form == TargetForm::Asterisk && parts.method != Method::OPTIONS {
        return Err(ConvertError::Target);
    }
    remove_connection_fields(&mut headers);
    join_cookies(&mut headers);
    headers.insert(HOST, host);
    let expects_content = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    let body = match (content_length(&headers)?, is_end) {
        (Some(length), false) => BodyLength::Known(length),
        (Some(0), true) => BodyLength::Known(0),
        (Some(_), true) => return Err(ConvertError::ContentLength),
        (None, false) => BodyLength::Chunked,
        // RFC 9110 §8.6: a method that gives content a meaning says that there is none.
        (None, true) if expects_content => BodyLength::Known(0),
        (None, true) => BodyLength::None,
    };
    let expect_continue =
        !is_end && headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(RequestHead {
        method: parts.method,
        uri: Uri::from(path),
        form,
        version: Version::Http11,
        headers,
        spelling: Spelling::default(),
        upgrade: None,
        body,
        expect_continue,
        persistence: Persistence::KeepAlive,
    })
}

/// Makes the HTTP/2 response of an HTTP/1 one, final or informational.
///
/// # Errors
/// [`ConvertError::Tunnel`] for 101 and for an opened tunnel.
pub fn response_to_h2(head: ResponseHead) -> Result<Response<()>, ConvertError> {
    if head.is_tunnel {
        return Err(ConvertError::Tunnel);
    }
    let mut headers = head.headers;
    remove_connection_fields(&mut headers);
    if matches!(head.body, BodyLength::Chunked | BodyLength::UntilClose) {
        headers.remove(CONTENT_LENGTH);
    }
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Makes the HTTP/1 head of an HTTP/2 response, final or informational. `is_end` says that nothing follows.
///
/// # Errors
/// [`ConvertError::ContentLength`] where it does not fit, [`ConvertError::Tunnel`] for 101, which HTTP/2 does not have,
/// and for a tunnel.
pub fn response_from_h2(response: Response<()>, is_end: bool, to: &AnswerTo<'_>) -> Result<ResponseHead, ConvertError> {
    let (parts, ()) = response.into_parts();
    let status = parts.status;
    if status == StatusCode::SWITCHING_PROTOCOLS || (to.method == Method::CONNECT && status.is_success()) {
        return Err(ConvertError::Tunnel);
    }
    let mut headers = parts.headers;
    remove_connection_fields(&mut headers);
    let length = content_length(&headers)?;
    let body = match (length, is_end) {
        _ if to.method == Method::HEAD || is_bodyless(status) => BodyLength::None,
        (Some(length), false) => BodyLength::Known(length),
        (None, false) => BodyLength::Chunked,
        (None | Some(0), true) => BodyLength::Known(0),
        (Some(_), true) => return Err(ConvertError::ContentLength),
    };
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    let reason = Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes());
    Ok(ResponseHead { reason, headers, body, ..ResponseHead::new(status, body) })
}

/// Removes from HTTP/2 trailers what HTTP/1 trailers may not hold, for a receiver that takes them from a map.
pub fn trailers_from_h2(mut trailers: HeaderMap) -> HeaderMap {
    remove_where(&mut trailers, is_forbidden);
    trailers
}

/// Takes `Host` out and answers the one authority there is (RFC 9113 §8.3.1).
fn take_host(uri: &Uri, headers: &mut HeaderMap) -> Result<HeaderValue, ConvertError> {
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(ConvertError::Authority);
    }
    let host = headers.remove(HOST);
    let host = match (uri.authority(), host) {
        (Some(authority), None) => HeaderValue::from_str(authority.as_str()).or(Err(ConvertError::Authority))?,
        (Some(authority), Some(host)) if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => host,
        (None, Some(host)) => host,
        (Some(_), Some(_)) | (None, None) => return Err(ConvertError::Authority),
    };
    if target::is_host(host.as_bytes()) { Ok(host) } else { Err(ConvertError::Authority) }
}

/// RFC 9113 §8.2.2: they make an HTTP/2 message malformed, and an HTTP/1 one ambiguous when they come from HTTP/2.
fn remove_connection_fields(headers: &mut HeaderMap) {
    remove_where(headers, is_connection_field);
    if headers.get_all(TE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        let trailers = headers.get_all(TE).iter().any(|value| framing::accepts_trailers(value.as_bytes()));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Removes fields by name, without allocating where there is none.
fn remove_where(headers: &mut HeaderMap, condition: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| condition(name)).cloned() {
        headers.remove(name);
    }
}

/// HTTP/2 may split `Cookie` for its compression; HTTP/1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = match headers.get_all(COOKIE).iter().count() {
        0 | 1 => return,
        _ => headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect(),
    };
    if let Ok(cookie) = HeaderValue::from_maybe_shared(Bytes::from(crumbs.join(&b"; "[..]))) {
        headers.insert(COOKIE, cookie);
    }
}

/// The declared length, once; equal duplicates count as one.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ConvertError> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let next = framing::content_length(value.as_bytes()).or(Err(ConvertError::ContentLength))?;
        if length.replace(next).is_some_and(|earlier| earlier != next) {
            return Err(ConvertError::ContentLength);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests;
