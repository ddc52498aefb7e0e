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
    /// `/{any service}/{this}`: a gRPC method, whichever service has it (GRPCRoute's match without a service).
    GrpcMethod(Arc<str>),
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
    /// Changes whom or what is asked for. Once in a list.
    Rewrite(Rewrite),
    /// Answers the request with another address to ask. Once in a list, of a rule's alone, and never beside a rewrite.
    Redirect(Redirect),
}

/// What a rewrite changes before the request is sent on; `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host that is named to the backend, without a port.
    pub hostname: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// What a redirect answers: the request's own URL with what is set here in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `None`: the request's.
    pub scheme: Option<UrlScheme>,
    /// `None`: the host that was asked.
    pub hostname: Option<Arc<str>>,
    /// `None`: the request's.
    pub path: Option<PathModifier>,
    /// `None`: the scheme's own where `scheme` is set, else the service's.
    pub port: Option<u16>,
    /// One of [`REDIRECT_CODES`].
    pub status: u16,
}

/// The status codes that a redirect may have (Gateway API, `HTTPRequestRedirectFilter`).
pub const REDIRECT_CODES: [u16; 5] = [301, 302, 303, 307, 308];

/// A scheme that a redirect may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlScheme {
    /// `http`, whose port is 80.
    Http,
    /// `https`, whose port is 443.
    Https,
}

impl UrlScheme {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that need not be written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What becomes of a path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// This path in its place.
    Full(Arc<str>),
    /// This in place of the prefix by which the rule's only match found it. Empty: the prefix goes.
    Prefix(Arc<str>),
}

/// Whether a text may be put in place of a path or of its beginning: a path as RFC 3986 §3.3 writes it, without a query, which
/// has one reading: no empty segment but the last, no `.` and `..`, and no slash, backslash or NUL that is encoded (semantics 40).
pub fn is_url_path(text: &str) -> bool {
    // The characters of `pchar` that are no letters and digits, `%` for what is encoded, and what separates segments.
    const ALSO: &[u8] = b"-._~%!$&'()*+,;=:@/";
    let Some(segments) = text.strip_prefix('/') else { return false };
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || ALSO.contains(&b));
    let encoded = text.split('%').skip(1).all(|rest| {
        let code = rest.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        code.is_some_and(|code| !matches!(code, b'/' | b'\\' | b'.' | 0))
    });
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if matches!(segment, "." | "..") || (segment.is_empty() && !is_last) {
            return false;
        }
    }
    plain && encoded
}

/// Whose filters they are.
#[derive(Clone, Copy, Debug)]
pub enum FiltersOf<'a> {
    /// A rule's, with the prefix that may be replaced.
    Rule(Option<&'a str>),
    /// A backend's of a rule.
    Backend {
        /// The prefix that may be replaced.
        prefix: Option<&'a str>,
        /// The filters of the rule.
        rule: &'a [HttpFilter],
    },
}

impl FiltersOf<'_> {
    /// Why these filters cannot be honoured together, in words; `None`: they can.
    pub fn contradiction(self, filters: &[HttpFilter]) -> Option<&'static str> {
        let count = |kind: fn(&HttpFilter) -> bool| filters.iter().filter(|filter| kind(filter)).count();
        let redirects = count(|filter| matches!(filter, HttpFilter::Redirect(_)));
        let rewrites = count(|filter| matches!(filter, HttpFilter::Rewrite(_)));
        let prefix = match self {
            Self::Rule(prefix) => prefix,
            Self::Backend { .. } if redirects > 0 => {
                return Some("a redirect is a rule's, not a backend's: no backend is asked");
            }
            Self::Backend { rule, .. }
                if rewrites > 0 && rule.iter().any(|filter| matches!(filter, HttpFilter::Rewrite(_))) =>
            {
                return Some("a request is rewritten once: by the rule or by its backend");
            }
            Self::Backend { prefix, .. } => prefix,
        };
        if redirects > 1 || rewrites > 1 {
            return Some("a rule has one redirect or one rewrite, no more");
        }
        if redirects > 0 && rewrites > 0 {
            return Some("what is redirected is not sent on, so there is nothing to rewrite");
        }
        if prefix.is_none() && filters.iter().any(HttpFilter::replaces_prefix) {
            return Some("a prefix is replaced, but its rule does not have exactly one match, by path prefix");
        }
        None
    }
}

impl HttpFilter {
    fn replaces_prefix(&self) -> bool {
        let (Self::Rewrite(Rewrite { path, .. }) | Self::Redirect(Redirect { path, .. })) = self else { return false };
        matches!(path, Some(PathModifier::Prefix(_)))
    }
}

impl HttpRule {
    /// The prefix that a path modifier may replace; `None` where several matches, or one of another kind, find the rule.
    pub fn only_prefix(&self) -> Option<&str> {
        match self.matches.as_slice() {
            [] | [HttpMatch { path: None, .. }] => Some("/"),
            [HttpMatch { path: Some(PathMatch::Prefix(prefix)), .. }] => Some(prefix),
            _ => None,
        }
    }
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
