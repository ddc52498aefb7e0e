//! Changes to what is asked for: rewrites of the request, and redirects that answer it with another address.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;
use weft_model::route::{self as model, PathModifier, UrlScheme};

/// What becomes of a path.
#[derive(Clone, Debug)]
enum NewPath {
    Full(Arc<str>),
    /// In place of the prefix, which has no slash at its end.
    Prefix {
        matched: Box<str>,
        replacement: Arc<str>,
    },
}

impl NewPath {
    /// `prefix`: by which the rule's match finds a path.
    fn of(modifier: &PathModifier, prefix: &str) -> Self {
        match modifier {
            PathModifier::Full(path) => Self::Full(Arc::clone(path)),
            PathModifier::Prefix(replacement) => Self::Prefix {
                matched: prefix.strip_suffix('/').unwrap_or(prefix).into(),
                replacement: Arc::clone(replacement),
            },
        }
    }

    /// The new path of a request; a path that is none (`*`, or CONNECT's nothing) stays.
    fn apply<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if !path.starts_with('/') {
            return Cow::Borrowed(path);
        }
        match self {
            Self::Full(full) => Cow::Borrowed(full),
            Self::Prefix { matched, replacement } => {
                // Whole segments: that is how the rule was found.
                let rest = path.strip_prefix(&**matched).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                let Some(rest) = rest else { return Cow::Borrowed(path) };
                // One slash between the two, and never an empty path (the table of Gateway API's HTTPPathModifier).
                let start = replacement.strip_suffix('/').unwrap_or(replacement);
                match (start, rest) {
                    ("", "") => Cow::Borrowed("/"),
                    ("", rest) => Cow::Borrowed(rest),
                    (start, "") => Cow::Borrowed(start),
                    (start, rest) => Cow::Owned(format!("{start}{rest}")),
                }
            }
        }
    }
}

/// A rewrite, ready for use.
#[derive(Clone, Debug)]
pub struct Rewrite {
    authority: Option<(Authority, HeaderValue)>,
    path: Option<NewPath>,
}

impl Rewrite {
    pub(super) fn compile(rewrite: &model::Rewrite, prefix: &str) -> Self {
        let model::Rewrite { hostname, path } = rewrite;
        let authority = hostname.as_deref().and_then(|host| {
            // Always both: a DNS name is an authority and a field's value.
            Some((Authority::try_from(host).ok()?, HeaderValue::from_str(host).ok()?))
        });
        Self { authority, path: path.as_ref().map(|path| NewPath::of(path, prefix)) }
    }

    /// Whom to ask for in place of the request's host, in its two spellings.
    pub fn authority(&self) -> Option<&(Authority, HeaderValue)> {
        self.authority.as_ref()
    }

    /// The path in place of the request's, where it changes. **Cost:** allocates where a prefix is replaced by another.
    pub fn path<'a>(&'a self, path: &'a str) -> Option<Cow<'a, str>> {
        let new = self.path.as_ref()?.apply(path);
        (*new != *path).then_some(new)
    }
}

/// A redirect, ready for use.
#[derive(Clone, Debug)]
pub struct Redirect {
    scheme: Option<UrlScheme>,
    hostname: Option<Arc<str>>,
    path: Option<NewPath>,
    port: Option<u16>,
    status: u16,
}

/// What of a request a redirect goes by.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host that was asked, with its port if it had one; empty where it named none.
    pub host: &'a str,
    /// The port of the service.
    pub port: u16,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without the `?`.
    pub query: Option<&'a str>,
}

impl Redirect {
    pub(super) fn compile(redirect: &model::Redirect, prefix: &str) -> Self {
        let model::Redirect { scheme, hostname, path, port, status } = redirect;
        Self {
            scheme: *scheme,
            hostname: hostname.clone(),
            path: path.as_ref().map(|path| NewPath::of(path, prefix)),
            port: *port,
            status: *status,
        }
    }

    /// The status code of the answer: one of [`model::REDIRECT_CODES`].
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Where to go instead: an absolute URL, or, where nobody said which host, a path. **Cost:** allocates.
    pub fn location(&self, asked: &Asked<'_>) -> String {
        let path = self.path.as_ref().map_or(Cow::Borrowed(asked.path), |path| path.apply(asked.path));
        // What reaches us in the clear was asked by http; the application's own TLS is not looked into.
        let scheme = self.scheme.unwrap_or(UrlScheme::Http);
        let port = self.port.or(self.scheme.map(UrlScheme::default_port)).unwrap_or(asked.port);
        let host = self.hostname.as_deref().unwrap_or_else(|| without_port(asked.host));
        let mut location = String::with_capacity(host.len() + path.len() + 32);
        if !host.is_empty() {
            location.push_str(scheme.as_str());
            location.push_str("://");
            location.push_str(host);
            if port != scheme.default_port() {
                // Writing into a text does not fail.
                let _written = write!(location, ":{port}");
            }
        }
        // A location that began with two slashes would name a host (RFC 3986 §4.2).
        let path = if host.is_empty() && path.starts_with("//") { path.trim_start_matches('/') } else { &*path };
        if !path.starts_with('/') {
            location.push('/');
        }
        location.push_str(path);
        if let Some(query) = asked.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// A host as it stands in a URL, without the port: an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            if name.starts_with('[') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(prefix: &str, replacement: &str, path: &str) -> String {
        NewPath::of(&PathModifier::Prefix(replacement.into()), prefix).apply(path).into_owned()
    }

    #[test]
    fn a_prefix_is_replaced_as_gateway_api_prints_it() {
        for (path, prefix, replacement, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/foobar", "/foo", "/xyz", "/foobar"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("*", "/", "/xyz", "*"),
        ] {
            assert_eq!(rewritten(prefix, replacement, path), want, "{path} {prefix} {replacement}");
        }
    }

    fn redirect() -> model::Redirect {
        model::Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 }
    }

    fn location(redirect: &model::Redirect, host: &str, port: u16, path: &str) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Redirect::compile(redirect, "/a").location(&Asked { host, port, path, query })
    }

    #[test]
    fn a_port_is_written_where_it_is_not_the_schemes_own() {
        let scheme = |scheme| model::Redirect { scheme: Some(scheme), ..redirect() };
        let port = |port| model::Redirect { port: Some(port), ..redirect() };
        let both = |scheme, port| model::Redirect { scheme: Some(scheme), port: Some(port), ..redirect() };
        for (redirect, host, service, want) in [
            (redirect(), "echo", 80, "http://echo/x"),
            (redirect(), "echo:80", 80, "http://echo/x"),
            (redirect(), "echo", 8080, "http://echo:8080/x"),
            (redirect(), "[2001:db8::1]:8080", 8080, "http://[2001:db8::1]:8080/x"),
            (redirect(), "[2001:db8::1]", 80, "http://[2001:db8::1]/x"),
            (scheme(UrlScheme::Https), "echo:8080", 8080, "https://echo/x"),
            (scheme(UrlScheme::Http), "echo:8080", 8080, "http://echo/x"),
            (port(8083), "echo", 80, "http://echo:8083/x"),
            (port(80), "echo", 8080, "http://echo/x"),
            (both(UrlScheme::Https, 443), "echo", 80, "https://echo/x"),
            (both(UrlScheme::Https, 80), "echo", 80, "https://echo:80/x"),
            (redirect(), "", 80, "/x"),
        ] {
            assert_eq!(location(&redirect, host, service, "/x"), want, "{redirect:?} {host}");
        }
    }

    #[test]
    fn a_redirect_keeps_the_query_and_names_no_host_by_accident() {
        let prefix = model::Redirect { path: Some(PathModifier::Prefix("/b".into())), ..redirect() };
        assert_eq!(location(&prefix, "echo", 80, "/a/c?d=1"), "http://echo/b/c?d=1");
        let full = model::Redirect { path: Some(PathModifier::Full("/b".into())), ..redirect() };
        assert_eq!(location(&full, "echo", 80, "/a/c?d=1"), "http://echo/b?d=1");
        assert_eq!(location(&redirect(), "", 80, "//evil.example/a"), "/evil.example/a");
        assert_eq!(location(&redirect(), "echo", 80, "*"), "http://echo/*");
    }
}
