//! Calls to the other services over HTTP/1.1, with connections kept alive, a deadline for everything, and errors that say
//! which service it was.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Code, ErrorBody};
use crate::trace::Trace;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shorter than servers keep idle connections, so that a request seldom meets one that is going.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const IDLE_MAX: usize = 128;
/// The catalogue is a few kilobytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Where a service is: `http://host` or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Authority);

/// A text that is not a [`BaseUrl`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected http://host or http://host:port, without a path")]
pub struct BaseUrlError;

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.parse::<Uri>().ok().ok_or(BaseUrlError)?;
        let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
        let authority = uri.into_parts().authority.filter(|a| plain && !a.as_str().contains('@'));
        authority.map(Self).ok_or(BaseUrlError)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Another service. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Upstream {
    name: &'static str,
    base: BaseUrl,
    timeout: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What a service answered.
pub(crate) struct Answer<T> {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) value: T,
}

/// With what a call is made.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) trace: &'a Trace,
    /// A session, as `authorization` says it.
    pub(crate) session: Option<&'a HeaderValue>,
}

impl<'a> Caller<'a> {
    pub(crate) fn nobody(trace: &'a Trace) -> Self {
        Self { trace, session: None }
    }
}

impl Upstream {
    pub(crate) fn new(name: &'static str, base: BaseUrl, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self { name, base, timeout, client }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, caller: Caller<'_>) -> Result<Answer<T>, ApiError> {
        self.call(Method::GET, path, Bytes::new(), caller).await
    }

    pub(crate) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        caller: Caller<'_>,
    ) -> Result<Answer<T>, ApiError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ApiError::new(Code::Internal, format!("a call to {} cannot be written: {e}", self.name)))?;
        self.call(Method::POST, path, Bytes::from(body), caller).await
    }

    /// Makes a call. Never twice: who may repeat it knows its key.
    ///
    /// # Errors
    /// What the service refused, in its own words; or that it could not be reached, took too long, or answered what
    /// cannot be understood.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        caller: Caller<'_>,
    ) -> Result<Answer<T>, ApiError> {
        let request = self.request(method, path, body, caller)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| self.unreachable(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| self.broken(&*error))?;
            Ok::<_, ApiError>((head, body.to_bytes()))
        };
        let Ok(exchanged) = tokio::time::timeout(self.timeout, exchange).await else {
            let message = format!("{} did not answer within {:?}", self.name, self.timeout);
            return Err(ApiError::new(Code::UpstreamTimeout, message));
        };
        let (head, body) = exchanged?;
        if !head.status.is_success() {
            return Err(self.refusal(head.status, &body));
        }
        match serde_json::from_slice(&body) {
            Ok(value) => Ok(Answer { status: head.status, headers: head.headers, value }),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        caller: Caller<'_>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let wrong = |error: http::Error| ApiError::new(Code::Internal, format!("a call to {}: {error}", self.name));
        let path = PathAndQuery::try_from(path).map_err(|e| wrong(e.into()))?;
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.base.0.clone()).path_and_query(path);
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = uri.build().map_err(wrong)?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(self.base.0.as_str()).map_err(|e| wrong(e.into()))?);
        headers.insert(ACCEPT, JSON);
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, JSON);
        }
        if let Some(session) = caller.session {
            headers.insert(AUTHORIZATION, session.clone());
        }
        caller.trace.pass_on(headers);
        *request.method_mut() = method;
        Ok(request)
    }

    /// What a service refused. Only our own services answer in our words; what stands between may answer in others.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> ApiError {
        if let Ok(refused) = serde_json::from_slice::<ErrorBody>(body)
            && refused.error.code.status() == status
        {
            return refused.error;
        }
        let said = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
        tracing::warn!(service = self.name, status = status.as_u16(), said, "call refused");
        let code = match status {
            StatusCode::SERVICE_UNAVAILABLE => Code::UpstreamUnreachable,
            StatusCode::GATEWAY_TIMEOUT => Code::UpstreamTimeout,
            _ => Code::UpstreamFailed,
        };
        ApiError::new(code, format!("{} answered {status}", self.name))
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> ApiError {
        tracing::warn!(service = self.name, url = %self.base, error = chain(error), "call failed");
        if error.is_connect() {
            ApiError::new(Code::UpstreamUnreachable, format!("{} cannot be reached", self.name))
        } else {
            ApiError::new(Code::UpstreamFailed, format!("{} ended the connection", self.name))
        }
    }

    fn broken(&self, error: &dyn Error) -> ApiError {
        tracing::warn!(service = self.name, url = %self.base, error = chain(error), "answer unusable");
        ApiError::new(Code::UpstreamFailed, format!("{} gave an answer that cannot be used", self.name))
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let (mut line, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{BaseUrl, Upstream};
    use crate::error::Code;

    #[test]
    fn a_service_is_named_by_host_and_port_alone() {
        for (text, good) in [
            ("http://127.0.0.1:8080", true),
            ("http://[fd96::10]", true),
            ("http://product/", true),
            ("https://product", false),
            ("http://product/v1", false),
            ("http://product?x", false),
            ("http://me@product", false),
            ("product:80", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<BaseUrl>().is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn only_refusals_in_our_own_words_are_passed_on() {
        let upstream = Upstream::new("order", "http://127.0.0.1:1".parse().unwrap(), std::time::Duration::from_secs(1));
        for (status, body, want) in [
            (409, r#"{"error":{"code":"out-of-stock","message":"none left"}}"#, Code::OutOfStock),
            (503, r#"{"error":{"code":"out-of-stock","message":"none left"}}"#, Code::UpstreamUnreachable),
            (403, "denied by policy", Code::UpstreamFailed),
            (504, "", Code::UpstreamTimeout),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(upstream.refusal(status, body.as_bytes()).code, want, "{status} {body}");
        }
    }
}
