//! An HTTP server on hyper, inside a host: it sends back what it gets, and counts what it did.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use weft_cli::world::Host;
use weft_runtime::task::Tasks;

/// Largest body that is made up.
const BODY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Which version it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// What it counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections.
    pub connections: AtomicU64,
    /// Requests.
    pub requests: AtomicU64,
}

impl Counts {
    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Serves until the process ends. `name` is told in the header `served-by`.
///
/// A request's body is the answer's, as it comes; `/count` reads all of it first and answers with its length; `GET /bytes/N` gives
/// N bytes of [`pattern`]; `/status/N` answers with that status without reading the body; all headers of the request come back
/// as `seen-…`.
///
/// # Errors
/// The port is taken.
pub fn serve(host: &Host, port: u16, version: Version, name: &str) -> anyhow::Result<Arc<Counts>> {
    let addrs = [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    let listeners = host.run(|| weft_runtime::net::listen_all(&addrs))?;
    let listeners = listeners.with_context(|| format!("port {port} of {}", host.name()))?;
    let counts = Arc::new(Counts::default());
    for listener in listeners {
        let (counts, name) = (Arc::clone(&counts), name.to_owned());
        // Not inside the host, which would keep the world: a socket stays where it was opened.
        let serving = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            drop(runtime.and_then(|runtime| runtime.block_on(accept(listener, version, counts, name))));
        };
        std::thread::Builder::new().name("echo".to_owned()).spawn(serving).context("starting a thread")?;
    }
    Ok(counts)
}

async fn accept(listener: TcpListener, version: Version, counts: Arc<Counts>, name: String) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let tasks = Tasks::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let (counts, name) = (Arc::clone(&counts), name.clone());
        let service = service_fn(move |request| {
            counts.requests.fetch_add(1, Ordering::Relaxed);
            let name = name.clone();
            async move { Ok::<_, Infallible>(answer(request, &name).await) }
        });
        tasks.spawn("echo", async move {
            let io = TokioIo::new(stream);
            // A connection that ends badly is the test's matter.
            match version {
                Version::Http1 => drop(http1::Builder::new().half_close(true).serve_connection(io, service).await),
                Version::Http2 => {
                    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
                }
            }
        });
    }
}

type Body = Either<Incoming, Full<Bytes>>;

async fn answer(request: Request<Incoming>, name: &str) -> Response<Body> {
    let mut response = Response::builder().header("served-by", name);
    for (header, value) in request.headers() {
        response = response.header(format!("seen-{header}"), value);
    }
    let path = request.uri().path().to_owned();
    let number = |prefix| path.strip_prefix(prefix).and_then(|rest| rest.parse::<usize>().ok());
    let built = if let Some(length) = number("/bytes/") {
        response.body(Either::Right(Full::new(Bytes::from(pattern(length.min(BODY_BYTES_MAX))))))
    } else if let Some(status) = number("/status/").and_then(|it| StatusCode::from_u16(u16::try_from(it).ok()?).ok()) {
        response.status(status).body(Either::Right(Full::new(Bytes::from_static(b"as asked\n"))))
    } else if path == "/count" {
        let counted = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        response.body(Either::Right(Full::new(Bytes::from(format!("{counted}\n")))))
    } else if request.method() == "POST" || request.method() == "PUT" {
        response.body(Either::Left(request.into_body()))
    } else {
        response.body(Either::Right(Full::new(Bytes::from(format!("{name}\n")))))
    };
    built.unwrap_or_else(|_| Response::new(Either::Right(Full::new(Bytes::from_static(b"no answer can be made\n")))))
}

/// Bytes that repeat only after a long while, so that a piece that is lost, doubled or moved shows.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
