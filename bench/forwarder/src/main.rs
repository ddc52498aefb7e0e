//! A bare forwarder: what hyper, tokio and rustls cost by themselves, with mutual TLS between two of them and nothing else — no
//! routes, no policy, no balancing, no telemetry. What the proxy costs beyond it is the proxy's own doing.
//!
//! A crate of its own: it is built as the proxy is, while the rig that starts both need not be.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::{Request, Response, StatusCode, Uri, Version as HttpVersion, header};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as send1, http2 as send2};
use hyper::rt::Executor as _;
use hyper::server::conn::{http1 as serve1, http2 as serve2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The windows of a busy proxy, so that none of them is what is measured.
const WINDOW: u32 = 1024 * 1024;
/// The name in the certificates that the rig makes.
const NAME: &str = "weft-bench";
/// How long a connection may take to be opened.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Forwards the HTTP that was redirected to it.
#[derive(Debug, Parser)]
struct Args {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where it forwards to, at the port that was asked for (default: the original destination).
    #[arg(long)]
    target: Option<IpAddr>,
    /// Which side has mutual TLS.
    #[arg(long)]
    tls: Side,
    /// What is spoken to it.
    #[arg(long)]
    accept: Version,
    /// What it speaks; HTTP/2 on one shared connection.
    #[arg(long)]
    send: Version,
    /// Certificate of both sides, PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// Whom it trusts, PEM.
    #[arg(long)]
    anchors: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Accept,
    Send,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Version {
    Http1,
    Http2,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("building a runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (acceptor, connector) = tls(&args)?;
    let name = ServerName::try_from(NAME)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let mut upstreams: HashMap<SocketAddr, Arc<Upstream>> = HashMap::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let asked = SockRef::from(&stream).original_dst_v4().context("a connection that was not redirected")?;
        let mut target = asked.as_socket().context("a destination that is no address")?;
        target.set_ip(args.target.unwrap_or(target.ip()));
        let upstream = upstreams.entry(target).or_insert_with(|| {
            Arc::new(Upstream {
                target,
                name: name.clone(),
                connector: (args.tls == Side::Send).then(|| connector.clone()),
                version: args.send,
                idle: Mutex::default(),
                shared: tokio::sync::Mutex::default(),
            })
        });
        let (upstream, acceptor) = (Arc::clone(upstream), (args.tls == Side::Accept).then(|| acceptor.clone()));
        TokioExecutor::new().execute(async move {
            // A connection that ends badly ends alone; the load sees it.
            match acceptor {
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, args.accept, upstream).await;
                    }
                }
                None => serve(stream, args.accept, upstream).await,
            }
        });
    }
}

fn tls(args: &Args) -> anyhow::Result<(TlsAcceptor, TlsConnector)> {
    let mut provider = rustls::crypto::ring::default_provider();
    // The cheapest first, as Weft has it.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let chain: Vec<_> = CertificateDer::pem_file_iter(&args.certificate)?.collect::<Result<_, _>>()?;
    let key = || PrivateKeyDer::from_pem_file(&args.key);
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_file_iter(&args.anchors)? {
        roots.add(anchor?)?;
    }
    let roots = Arc::new(roots);
    let versions = [&rustls::version::TLS13];
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions)?;
    let server = server.with_client_cert_verifier(clients).with_single_cert(chain.clone(), key()?)?;
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
    let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key()?)?;
    Ok((Arc::new(server).into(), Arc::new(client).into()))
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    version: Version,
    upstream: Arc<Upstream>,
) {
    let service = service_fn(move |request| {
        let upstream = Arc::clone(&upstream);
        async move { Ok::<_, Infallible>(upstream.forward(request).await) }
    });
    let io = TokioIo::new(stream);
    match version {
        Version::Http1 => drop(serve1::Builder::new().serve_connection(io, service).await),
        Version::Http2 => {
            let mut builder = serve2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW).timer(TokioTimer::new());
            drop(builder.serve_connection(io, service).await);
        }
    }
}

/// Connections to the one address.
struct Upstream {
    target: SocketAddr,
    name: ServerName<'static>,
    connector: Option<TlsConnector>,
    version: Version,
    /// Of HTTP/1: those whose answer was read are ready.
    idle: Mutex<Vec<send1::SendRequest<Incoming>>>,
    /// Of HTTP/2.
    shared: tokio::sync::Mutex<Option<send2::SendRequest<Incoming>>>,
}

type Answer = anyhow::Result<Response<Body>>;

/// An answer's body: the server's, or none.
type Body = Either<Incoming, Empty<Bytes>>;

impl Upstream {
    async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match self.version {
            Version::Http1 => self.over_http1(request).await,
            Version::Http2 => self.over_http2(request).await,
        };
        answer.unwrap_or_else(|_failed| {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }

    async fn over_http1(&self, mut request: Request<Incoming>) -> Answer {
        if request.version() == HttpVersion::HTTP_2 {
            let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
            *request.version_mut() = HttpVersion::HTTP_11;
            request.headers_mut().insert(header::HOST, authority.unwrap_or_default().parse()?);
            *request.uri_mut() =
                request.uri().path_and_query().context("a request without a path")?.as_str().parse()?;
        }
        let mut sender = match self.take_ready() {
            Some(sender) => sender,
            None => Box::pin(self.connect_http1()).await?,
        };
        let response = sender.send_request(request).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(response.map(Either::Left))
    }

    async fn over_http2(&self, mut request: Request<Incoming>) -> Answer {
        if request.version() != HttpVersion::HTTP_2 {
            let host = request.headers_mut().remove(header::HOST).context("a request without a host")?;
            request.headers_mut().remove(header::CONNECTION);
            let path = request.uri().path_and_query().context("a request without a path")?.clone();
            let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
            *request.uri_mut() = uri.build()?;
            *request.version_mut() = HttpVersion::HTTP_2;
        }
        let response = self.shared().await?.send_request(request).await?;
        Ok(response.map(Either::Left))
    }

    fn take_ready(&self) -> Option<send1::SendRequest<Incoming>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let at = idle.iter().rposition(send1::SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    async fn connect_http1(&self) -> anyhow::Result<send1::SendRequest<Incoming>> {
        let tcp = self.connect().await?;
        Ok(match &self.connector {
            Some(connector) => open_http1(connector.connect(self.name.clone(), tcp).await?).await?,
            None => open_http1(tcp).await?,
        })
    }

    async fn shared(&self) -> anyhow::Result<send2::SendRequest<Incoming>> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = Box::pin(self.connect_http2()).await?;
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn connect_http2(&self) -> anyhow::Result<send2::SendRequest<Incoming>> {
        let tcp = self.connect().await?;
        match &self.connector {
            Some(connector) => Box::pin(open_http2(connector.connect(self.name.clone(), tcp).await?)).await,
            None => open_http2(tcp).await,
        }
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let tcp = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(self.target)).await??;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}

async fn open_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<send1::SendRequest<Incoming>> {
    let (sender, connection) = send1::handshake(TokioIo::new(stream)).await?;
    TokioExecutor::new().execute(async move { drop(connection.await) });
    Ok(sender)
}

async fn open_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<send2::SendRequest<Incoming>> {
    let mut builder = send2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW).timer(TokioTimer::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    TokioExecutor::new().execute(async move { drop(connection.await) });
    Ok(sender)
}
