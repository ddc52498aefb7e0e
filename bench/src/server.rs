//! What is behind the proxies: nginx for HTTP, a gRPC echo, and a server of bytes. Each counts what it served: so a figure's
//! divisor comes from where requests arrive, whoever sent them.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_cli::mesh::http as page;
use weft_cli::world::{Host, Process, World, wait_for};

/// nginx, HTTP/1.1.
pub(crate) const HTTP1_PORT: u16 = 8080;
/// nginx, HTTP/2 by prior knowledge.
pub(crate) const HTTP2_PORT: u16 = 8081;
/// The gRPC echo.
pub(crate) const GRPC_PORT: u16 = 8082;
/// The server of bytes.
pub(crate) const BYTES_PORT: u16 = 9000;
/// All of them, with the names by which their protocols are declared.
pub(crate) const PORTS: [(&str, u16); 4] =
    [("http", HTTP1_PORT), ("http2", HTTP2_PORT), ("grpc", GRPC_PORT), ("tcp", BYTES_PORT)];

/// First byte of a connection for bytes: one comes back, and the connection ends.
pub(crate) const ECHO: u8 = b'e';
/// One comes back, and the connection stays.
pub(crate) const STAY: u8 = b's';
/// All that follows is counted and thrown away.
pub(crate) const TAKE: u8 = b't';

/// Where nginx tells what it counted; on loopback, which no redirect touches.
const STATUS_PORT: u16 = 8089;
/// What nginx answers with.
const BODY_BYTES: usize = 1024;
/// What a gRPC answer holds, and its five bytes of framing.
const MESSAGE_BYTES: u8 = 100;
const WITHIN: Duration = Duration::from_secs(10);

/// The servers of one host.
#[derive(Debug)]
pub(crate) struct Servers {
    host: Host,
    /// Ends with the value.
    _nginx: Process,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    connections: AtomicU64,
    taken: AtomicU64,
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Bytes that were taken.
    Bytes,
    /// Calls of gRPC.
    Calls,
    /// Connections for one byte.
    Connections,
    /// Requests to nginx.
    Requests,
}

impl Servers {
    /// Starts them.
    pub(crate) fn start(world: &World, host: &Host) -> anyhow::Result<Self> {
        let counts = Arc::<Counts>::default();
        let listen = |port| host.listen((Ipv4Addr::UNSPECIFIED, port).into());
        let (grpc, bytes, counting) = (listen(GRPC_PORT)?, listen(BYTES_PORT)?, Arc::clone(&counts));
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(grpc, bytes, &counting))
        };
        std::thread::Builder::new().name("servers".to_owned()).spawn(serve).context("starting a thread")?;
        let nginx = nginx(host, &world.directory().join("nginx"))?;
        let servers = Self { host: host.clone(), _nginx: nginx, counts };
        wait_for("nginx", WITHIN, || servers.count(Counter::Requests).ok())?;
        Ok(servers)
    }

    /// How many there were so far.
    pub(crate) fn count(&self, counter: Counter) -> anyhow::Result<u64> {
        Ok(match counter {
            Counter::Bytes => self.counts.taken.load(Ordering::Relaxed),
            Counter::Calls => self.counts.calls.load(Ordering::Relaxed),
            Counter::Connections => self.counts.connections.load(Ordering::Relaxed),
            Counter::Requests => {
                let status = page::get(&self.host, (Ipv4Addr::LOCALHOST, STATUS_PORT).into(), "/")?.success()?;
                requests(&status).with_context(|| format!("nginx counts nothing: {status}"))?
            }
        })
    }
}

/// The third number of `stub_status`'s third line: connections accepted, handled, requests.
fn requests(status: &str) -> Option<u64> {
    status.lines().nth(2)?.split_whitespace().nth(2)?.parse().ok()
}

fn nginx(host: &Host, directory: &Path) -> anyhow::Result<Process> {
    fs::create_dir(directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("nginx.conf");
    let body = "x".repeat(BODY_BYTES);
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; server_tokens off;\n\
         server {{ listen {HTTP1_PORT} backlog=4096; location / {{ return 200 \"{body}\"; }} }}\n\
         server {{ listen {HTTP2_PORT} http2 backlog=4096; location / {{ return 200 \"{body}\"; }} }}\n\
         server {{ listen 127.0.0.1:{STATUS_PORT}; location / {{ stub_status; }} }} }}\n",
        directory.display()
    );
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    host.launch("nginx", "nginx").arg("-c").arg(&path).arg("-p").arg(directory).arg("-e").arg("stderr").start()
}

async fn serve(grpc: StdListener, bytes: StdListener, counts: &Arc<Counts>) -> std::io::Result<()> {
    for listener in [&grpc, &bytes] {
        listener.set_nonblocking(true)?;
    }
    let (grpc, bytes) = (TcpListener::from_std(grpc)?, TcpListener::from_std(bytes)?);
    let mut connections = JoinSet::new();
    loop {
        // Nothing is lost: an accepted connection is always one arm's.
        tokio::select! {
            accepted = grpc.accept() => drop(connections.spawn(calls(accepted?.0, Arc::clone(counts)))),
            accepted = bytes.accept() => drop(connections.spawn(take(accepted?.0, Arc::clone(counts)))),
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn calls(stream: TcpStream, counts: Arc<Counts>) {
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request: Request<Incoming>| {
        counts.calls.fetch_add(1, Ordering::Relaxed);
        async move {
            let asked = request.into_body().collect().await;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(if asked.is_ok() { "0" } else { "13" }));
            let body = Full::new(message()).with_trailers(async move { Some(Ok(trailers)) });
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok::<_, Infallible>(response)
        }
    });
    // A connection that ends badly is the load's matter.
    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

/// A message of gRPC, framed.
pub(crate) fn message() -> Bytes {
    let mut message = vec![0, 0, 0, 0, MESSAGE_BYTES];
    message.resize(message.len() + usize::from(MESSAGE_BYTES), b'x');
    message.into()
}

async fn take(mut stream: TcpStream, counts: Arc<Counts>) {
    drop(stream.set_nodelay(true));
    let Ok(first) = stream.read_u8().await else { return };
    let mut piece = vec![0; if first == TAKE { 256 * 1024 } else { 1 }];
    if first != TAKE && stream.write_u8(first).await.is_err() {
        return;
    }
    if first == ECHO {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        drop(stream.shutdown().await);
    }
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        counts.taken.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// The counter of what a port serves.
pub(crate) fn counter(port: u16) -> anyhow::Result<Counter> {
    Ok(match port {
        HTTP1_PORT | HTTP2_PORT => Counter::Requests,
        GRPC_PORT => Counter::Calls,
        other => bail!("port {other} counts more than one thing"),
    })
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn nginx_is_understood() {
        let status = "Active connections: 2 \nserver accepts handled requests\n 16 16 31070 \nReading: 0 Writing: 1\n";
        assert_eq!(requests(status), Some(31_070));
        assert_eq!(requests("Active connections: 2 \n"), None);
    }
}
