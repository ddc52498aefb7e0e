//! The answers that Weft makes itself, for requests that never reach an application.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Response, StatusCode};

use weft_proxy_core::route::http::Asked;

use super::message::Request;
use super::responder::Own;
use crate::admit::Refusal;
use crate::error::Reason;
use crate::route::Redirected;

/// Carries the reason, to meshed peers only.
pub(crate) const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
/// Carries the policy that decided, to meshed peers only.
pub(crate) const WEFT_POLICY: HeaderName = HeaderName::from_static("weft-policy");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Who the answer goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audience {
    /// Whether the request was gRPC: its clients read a gRPC status, not an HTTP status.
    pub(crate) grpc: bool,
    /// Whether it is a meshed peer or our own application: others get a generic body and no `weft-*` header.
    pub(crate) meshed: bool,
    /// Whether it asked by HEAD.
    pub(crate) head: bool,
}

impl Audience {
    /// Who asked so. gRPC is HTTP/2 only; in HTTP/1 its content type makes no client of it.
    pub(crate) fn of(request: &Request, meshed: bool) -> Self {
        let grpc = matches!(request, Request::Http2(head) if is_grpc(&head.headers));
        Self { grpc, meshed, head: request.method() == Method::HEAD }
    }
}

/// The answer to a request that is refused. **Cost:** allocates; it is off the path of what works.
pub(crate) fn answer(refusal: &Refusal, audience: Audience) -> Own {
    let (head, body) = words_of(refusal, audience);
    Own { head, body, to_head: audience.head }
}

/// The answer to a request that is told to ask elsewhere. Response filters of its rule apply: it is the rule's answer.
///
/// **Cost:** allocates.
///
/// # Errors
/// [`Reason::HeadersTooLarge`] by the filters; [`Reason::Internal`] for a rule without a redirect.
pub(crate) fn redirect(redirected: &Redirected, request: &Request) -> Result<Own, Reason> {
    let redirect = redirected.redirect().ok_or(Reason::Internal)?;
    let uri = request.uri();
    let asked = Asked { host: request.host(), port: redirected.service.port, path: uri.path(), query: uri.query() };
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(redirect.status()).or(Err(Reason::Internal))?;
    let location = HeaderValue::try_from(redirect.location(&asked)).or(Err(Reason::BadRequest))?;
    let headers = head.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    redirected.filters().on_response(headers).or(Err(Reason::HeadersTooLarge))?;
    Ok(Own { head, body: Bytes::new(), to_head: request.method() == Method::HEAD })
}

fn words_of(refusal: &Refusal, audience: Audience) -> (Response<()>, Bytes) {
    let Refusal { reason, policy } = refusal;
    let mut response = Response::new(());
    let headers = response.headers_mut();
    if audience.meshed {
        headers.insert(WEFT_ERROR, HeaderValue::from_static(reason.as_str()));
        if let Some(value) = policy.as_ref().and_then(|policy| HeaderValue::from_str(policy.as_str()).ok()) {
            headers.insert(WEFT_POLICY, value);
        }
    }
    if audience.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_code())));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(words(*reason, audience)));
        return (response, Bytes::new());
    }
    let mut text = words(*reason, audience).to_owned();
    if let Some(policy) = policy.as_ref().filter(|_| audience.meshed) {
        text.push_str(" by ");
        text.push_str(policy.as_str());
    }
    text.push('\n');
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    *response.status_mut() = reason.status();
    (response, Bytes::from(text))
}

/// The reason for those who may know it, the status' own phrase for the rest.
fn words(reason: Reason, audience: Audience) -> &'static str {
    if audience.meshed { reason.as_str() } else { reason.status().canonical_reason().unwrap_or("error") }
}

/// Whether a request is gRPC by its content type (gRPC's `doc/PROTOCOL-HTTP2.md`).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    value.strip_prefix(GRPC).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The gRPC status in trailers, or in the head of an answer that has only a head.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether a response says "provably not processed, the application could not be reached": believed only from a
/// verified peer proxy (semantics 26).
pub(crate) fn says_app_connect(status: StatusCode, headers: &HeaderMap) -> bool {
    let app_connect = Reason::AppConnect;
    status == app_connect.status() && headers.get(WEFT_ERROR).is_some_and(|value| value == app_connect.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::PolicyId;

    #[test]
    fn a_meshed_peer_learns_reason_and_policy() {
        let policy = Some(PolicyId::new("AuthorizationPolicy", "shop", "order"));
        let refusal = Refusal { reason: Reason::Authorization, policy };
        let (response, body) = words_of(&refusal, Audience { grpc: false, meshed: true, head: false });
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[WEFT_ERROR], "authorization");
        assert_eq!(response.headers()[WEFT_POLICY], "AuthorizationPolicy/shop/order");
        assert_eq!(body, "authorization by AuthorizationPolicy/shop/order\n");
    }

    #[test]
    fn a_stranger_learns_neither() {
        let policy = Some(PolicyId::new("AuthorizationPolicy", "shop", "order"));
        let refusal = Refusal { reason: Reason::Authorization, policy };
        let (response, body) = words_of(&refusal, Audience { grpc: false, meshed: false, head: false });
        assert!(!response.headers().keys().any(|name| name.as_str().starts_with("weft-")));
        assert_eq!(body, "Forbidden\n");
    }

    #[test]
    fn grpc_gets_a_grpc_status() {
        let (response, body) =
            words_of(&Reason::NoEndpoints.into(), Audience { grpc: true, meshed: true, head: false });
        assert_eq!((response.status(), body.len()), (StatusCode::OK, 0));
        assert_eq!(grpc_status(response.headers()), Some(14));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), want, "{value}");
        }
    }
}
