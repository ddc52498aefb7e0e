//! A GET as the kubelet makes it: any certificate is taken, redirects to the same host are followed, and what counts is the
//! status at the end. What the body says is read, for an answer that breaks off is none, and thrown away.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use ::http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TE, TRAILER, TRANSFER_ENCODING, USER_AGENT};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use weft_model::probes::{HttpGet, Occasion};

use super::dial::Dial;
use super::location::{Followed, Page, follow};
use super::{Outcome, Unwell};

/// As many requests as the kubelet makes for one probe.
const REQUESTS_MAX: usize = 10;
/// As much of a body as the kubelet reads.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// What applications tell the kubelet by.
const PROBE_AGENT: HeaderValue = HeaderValue::from_static(concat!("kube-probe/weft-", env!("CARGO_PKG_VERSION")));
const HOOK_AGENT: HeaderValue = HeaderValue::from_static(concat!("kube-lifecycle/weft-", env!("CARGO_PKG_VERSION")));
/// Headers that say how a message is framed: those of the probe's author are not taken, as by the kubelet.
const FRAMING: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING];

const ALPN_HTTP2: &[u8] = b"h2";

/// What counts of an answer, once its body was read.
struct Answer {
    status: StatusCode,
    /// Where a redirect leads.
    location: Option<HeaderValue>,
}

impl Answer {
    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        Self { status, location: headers.get(LOCATION).filter(|_| is_redirect).cloned() }
    }
}

/// Asks the application at `own`.
pub(super) async fn get(dial: &Dial, own: IpAddr, get: &HttpGet, occasion: Occasion) -> Outcome {
    let mut page = Page { tls: get.tls, port: get.port, target: get.path.clone() };
    let mut headers = headers(get, occasion);
    // The kubelet keeps what stands there for as long as redirects are relative.
    let mut host = headers.remove(HOST);
    for _ in 0..REQUESTS_MAX {
        let addr = SocketAddr::new(own, page.port);
        let Answer { status, location } = Box::pin(ask(dial, addr, &page, headers.clone(), host.as_ref())).await?;
        let Some(location) = location else { return judge(status) };
        let location = String::from_utf8_lossy(location.as_bytes());
        page = match follow(&page, own, &location) {
            Followed::Here { page, is_relative } => {
                host = host.filter(|_| is_relative);
                page
            }
            Followed::Elsewhere => return Ok(format!("{status}, a redirect to another host, which is not followed")),
            Followed::Nowhere => {
                return Err(Unwell::Answered(format!("{status}, a redirect to {location:?}, which is no address")));
            }
        };
    }
    Err(Unwell::Answered(format!("more than {REQUESTS_MAX} redirects")))
}

fn judge(status: StatusCode) -> Outcome {
    if status.is_success() || status.is_redirection() {
        Ok(status.to_string())
    } else {
        Err(Unwell::Answered(status.to_string()))
    }
}

/// What was written, and what the kubelet adds where nothing else was.
fn headers(get: &HttpGet, occasion: Occasion) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        // Both were parsed before.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
            && !FRAMING.contains(&name)
        {
            headers.append(name, value);
        }
    }
    let agent = if occasion.is_hook() { HOOK_AGENT } else { PROBE_AGENT };
    headers.entry(USER_AGENT).or_insert(agent);
    // An empty one is how its author says that there is to be none.
    if headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*")).is_empty() {
        headers.remove(ACCEPT);
    }
    headers
}

/// One request; its state is boxed, being large and short-lived.
async fn ask(
    dial: &Dial,
    addr: SocketAddr,
    page: &Page,
    headers: HeaderMap,
    host: Option<&HeaderValue>,
) -> Result<Answer, Unwell> {
    let broken = |error: &dyn std::error::Error| Unwell::Silent(format!("port {}: {}", addr.port(), chain(error)));
    let tcp = dial.connect(addr).await?;
    let request = request(addr, page, headers, host)?;
    if !page.tls {
        return Box::pin(http1(tcp, request)).await.map_err(|error| broken(&error));
    }
    // The address is no name: none is sent, as by the kubelet.
    let name = ServerName::IpAddress(addr.ip().into());
    let tls = dial.tls.connect(name, tcp).await.map_err(|error| broken(&error))?;
    if tls.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) {
        Box::pin(http2(tls, request)).await.map_err(|error| broken(&error))
    } else {
        Box::pin(http1(tls, request)).await.map_err(|error| broken(&error))
    }
}

/// An error and what it comes of: hyper's own words rarely tell.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A request for one page.
fn request(
    addr: SocketAddr,
    page: &Page,
    headers: HeaderMap,
    host: Option<&HeaderValue>,
) -> Result<Request<()>, Unwell> {
    let Page { tls, target, .. } = page;
    let odd = |error: ::http::Error| Unwell::Answered(format!("{target:?} cannot be asked for: {error}"));
    let scheme = if *tls { "https" } else { "http" };
    let named = host.and_then(|host| host.to_str().ok()).map_or_else(|| addr.to_string(), str::to_owned);
    let mut request = Request::get(format!("{scheme}://{named}{target}")).body(()).map_err(odd)?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn http1<Io>(io: Io, request: Request<()>) -> hyper::Result<Answer>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut head, ()) = request.into_parts();
    let host = head.uri.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    head.headers.extend(host.map(|host| (HOST, host)));
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    // What stands in the request is what hyper writes.
    if let Some(target) = head.uri.path_and_query() {
        head.uri = target.clone().into();
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let exchange = async {
        let response = sender.send_request(Request::from_parts(head, Empty::<Bytes>::new())).await?;
        let answer = Answer::of(response.status(), response.headers());
        let (mut body, mut read) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
            if read > BODY_BYTES_MAX {
                break;
            }
        }
        Ok(answer)
    };
    while_driven(connection, exchange).await
}

async fn http2<Io>(io: Io, request: Request<()>) -> Result<Answer, h2::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = h2::client::handshake(io).await?;
    let exchange = async {
        let mut sender = sender.ready().await?;
        let (response, _no_body) = sender.send_request(request, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut read = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            read += data.len();
            if read > BODY_BYTES_MAX {
                break;
            }
            body.flow_control().release_capacity(data.len())?;
        }
        Ok(Answer::of(head.status, &head.headers))
    };
    while_driven(connection, exchange).await
}

/// What becomes of an exchange, while its connection is worked on beside it.
async fn while_driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    let driven = async {
        connection.await;
        // How it ended is the exchange's to tell.
        std::future::pending::<()>().await;
    };
    // Nothing is lost: the connection is of no use without the exchange.
    tokio::select! {
        biased;
        exchanged = exchange.as_mut() => exchanged,
        () = driven => exchange.await,
    }
}

/// TLS as the kubelet's probes speak it.
///
/// # Errors
/// The provider has none of the versions.
pub(super) fn tls() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anybody = Arc::new(Anybody(provider.signature_verification_algorithms.supported_schemes()));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate, made by anybody for anybody and out of date, as the kubelet does: an address of our own is asked how
/// it is, and told nothing but what the pod's own author wrote into the probe.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Not even the signature, whose check fails for certificates of kinds that are out of use: who has the key proves nothing.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
