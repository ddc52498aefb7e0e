//! Trace context: read from a request, passed on with every call that the request causes. The shop starts no traces of
//! its own; who carries its traffic does.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

/// W3C trace context, and both forms of B3.
const HEADERS: [HeaderName; 8] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
];

/// The trace headers of a request, as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Trace {
    /// Takes them from a request. A header that stands there twice keeps all its values.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = |name: &HeaderName| {
            let name = name.clone();
            headers.get_all(&name).iter().map(move |value| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        Self { headers: HEADERS.iter().flat_map(values).collect() }
    }

    /// Adds them to a request.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
    }

    /// The trace's id for a log line, or `-`.
    pub(crate) fn id(&self) -> &str {
        let first = |wanted: &str| {
            let (_, value) = self.headers.iter().find(|(name, _)| name == wanted)?;
            value.to_str().ok()
        };
        let w3c = || first("traceparent").and_then(|value| value.split('-').nth(1));
        let b3 = || first("b3").and_then(|value| value.split('-').next());
        let found = w3c().or_else(b3).or_else(|| first("x-b3-traceid"));
        let is_id = |id: &&str| matches!(id.len(), 16 | 32) && id.bytes().all(|b| b.is_ascii_hexdigit());
        found.filter(is_id).unwrap_or("-")
    }
}

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::Trace;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn trace_headers_and_no_others_are_passed_on() {
        let came = headers(&[("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("b3", "0"), ("cookie", "secret")]);
        let mut sent = HeaderMap::new();
        Trace::of(&came).pass_on(&mut sent);
        assert_eq!(sent, headers(&[("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("b3", "0")]));
    }

    #[test]
    fn the_id_is_read_from_each_form_and_never_believed_blindly() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (name, value, want) in [
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id),
            ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", id),
            ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736", id),
            ("traceparent", "00-not an id-00f067aa0ba902b7-01", "-"),
            ("b3", "0", "-"),
            ("cookie", "4bf92f3577b34da6a3ce929d0e0e4736", "-"),
        ] {
            assert_eq!(Trace::of(&headers(&[(name, value)])).id(), want, "{name}: {value}");
        }
    }
}
