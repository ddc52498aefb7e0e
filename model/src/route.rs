//! Routes attached to a service, as data: what they match, what they do. Matching is compiled and run elsewhere.
//!
//! The words and their meaning are Gateway API's (v1.6, HTTPRoute attached to a Service, "GAMMA").

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};

use crate::policy::{PolicyId, RetryPolicy};
use crate::service::ServiceKey;

/// One HTTPRoute with the rules that apply to one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// The resource it came from: the `route` label of metrics.
    pub id: PolicyId,
    /// When it was created, in seconds since 1970: among equally specific matches the oldest route wins.
    pub created: i64,
    /// In the order of the resource, which is the last tie-break.
    pub rules: Vec<HttpRule>,
}

/// One rule: any of `matches` selects it, then filters and backends apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// `name` of the rule, where it has one.
    pub name: Option<Arc<str>>,
    /// Alternatives; empty means "every request" (path prefix `/`).
    pub matches: Vec<HttpMatch>,
    /// Changes to request and response, in order.
    pub filters: Vec<HttpFilter>,
    /// Where matching requests go; empty means that the rule has no backend and answers 500.
    pub backends: Vec<Backend>,
    /// Deadlines of this rule.
    pub timeouts: Timeouts,
    /// Retries that this rule asks for, beyond what is always safe.
    pub retry: Option<RetryPolicy>,
}

/// One alternative of a rule: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// On the path; `None` is prefix `/`.
    pub path: Option<PathMatch>,
    /// On the method.
    pub method: Option<Method>,
    /// On headers; all must hold; a name stands here once.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters; all must hold; a name stands here once.
    pub query: Vec<QueryMatch>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Arc<str>),
    /// Whole segments from the start: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`.
    Prefix(Arc<str>),
}

/// One header that must be there with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value; several fields of one name are joined by `,` before comparing (RFC 9110 §5.3).
    pub value: Arc<str>,
}

/// One query parameter that must be there with exactly this value; of several the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// Its value, after percent-decoding.
    pub value: Arc<str>,
}

/// A change made on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFilter {
    /// Changes the request's headers.
    RequestHeaders(HeaderModifier),
    /// Changes the response's headers.
    ResponseHeaders(HeaderModifier),
}

/// What a header modifier does: set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replaces all fields of the name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a field.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all fields of the name.
    pub remove: Vec<HeaderName>,
}

/// Whether a header is not a route's to change: what frames the message or belongs to one connection (RFC 9110 §7.6.1),
/// and what only proxies of the mesh may say (semantics 42).
pub fn is_reserved_header(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 8] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    FRAMING.contains(name) || name.as_str().starts_with("weft-")
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service port that the traffic goes to.
    pub target: BackendTarget,
    /// Its share, relative to the sum of the rule's weights; 0 gets nothing.
    pub weight: u32,
    /// Changes for requests that go to this backend, after those of the rule.
    pub filters: Vec<HttpFilter>,
}

/// What a backend reference points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// The reference does not resolve: its share of requests is answered 500.
    Invalid,
    /// A service port.
    Service(ServiceKey),
}

/// Deadlines; `None` is "no deadline of this kind".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, over all attempts.
    pub request: Option<Duration>,
    /// From sending one attempt to the end of its response.
    pub backend_request: Option<Duration>,
}
