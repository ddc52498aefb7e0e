//! A client that asks at a steady pace and remembers of each request when it began, how long it took and how it ended.
//!
//! Unlike the load of `weft-cli` it does not wait for an answer before it asks again: a request that hangs holds up no other,
//! as it would not where each comes from somebody else. It is for the question *when* things work again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use weft_cli::world::{Host, Stopwatch};
use weft_runtime::task::Tasks;

use crate::echo::Version;

/// An answer that takes longer has failed.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it was asked, since the start.
    pub begun: Duration,
    /// How long it took to answer or fail.
    pub took: Duration,
    /// Or how it failed.
    pub answered: Result<(), String>,
}

/// What is asked, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Which version the client speaks.
    pub version: Version,
    /// Where to.
    pub to: SocketAddr,
    /// Requests in a second.
    pub rate: u32,
    /// It ends by itself after this.
    pub length_max: Duration,
}

/// A client at work. Dropping it ends it.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    watch: Stopwatch,
    thread: Option<JoinHandle<anyhow::Result<Vec<Asked>>>>,
}

impl Steady {
    /// Starts it inside a host.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(host: &Host, pace: Pace) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (host, stopped) = (host.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("steady".to_owned());
        let thread = thread.spawn(move || host.block_on(|| ask_all(pace, stopped)));
        Ok(Self { stop, watch: Stopwatch::start(), thread: Some(thread.context("starting a client")?) })
    }

    /// How long it has been running: what [`Asked::begun`] counts in, but for the start of a thread.
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// Ends it, after the answers that are under way, and tells of every request.
    ///
    /// # Errors
    /// It could not run, or asked nothing at all.
    pub fn finish(mut self) -> anyhow::Result<Vec<Asked>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was finished before")?;
        let asked = thread.join().map_err(|_panic| anyhow!("the client panicked"))??;
        anyhow::ensure!(!asked.is_empty(), "nothing was asked");
        Ok(asked)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn ask_all(pace: Pace, stop: Arc<AtomicBool>) -> Vec<Asked> {
    let client = Arc::new(Client::new(pace.version, pace.to));
    let start = Instant::now();
    let mut turn = interval(Duration::from_secs(1) / pace.rate.max(1));
    let (mut running, mut asked) = (JoinSet::new(), Vec::new());
    while start.elapsed() < pace.length_max && !stop.load(Ordering::Relaxed) && !weft_cli::world::is_interrupted() {
        turn.tick().await;
        let client = Arc::clone(&client);
        running.spawn(async move {
            let begun = Instant::now();
            let answered = timeout(ANSWER_MAX, client.ask()).await;
            let answered = answered.unwrap_or_else(|_elapsed| Err(format!("no answer in {ANSWER_MAX:?}")));
            Asked { begun: begun - start, took: begun.elapsed(), answered }
        });
        while let Some(Ok(one)) = running.try_join_next() {
            asked.push(one);
        }
    }
    while let Some(Ok(one)) = running.join_next().await {
        asked.push(one);
    }
    asked
}

type Http1 = http1::SendRequest<Empty<Bytes>>;
type Http2 = http2::SendRequest<Empty<Bytes>>;

/// Its connections.
struct Client {
    to: SocketAddr,
    version: Version,
    /// Those that wait for their next request.
    idle: Mutex<Vec<Http1>>,
    /// The one that all requests share. Held while it is opened, so that there is one.
    shared: tokio::sync::Mutex<Option<Http2>>,
    drivers: Tasks,
}

impl Client {
    fn new(version: Version, to: SocketAddr) -> Self {
        let (idle, shared) = (Mutex::default(), tokio::sync::Mutex::new(None));
        Self { to, version, idle, shared, drivers: Tasks::new() }
    }

    async fn ask(&self) -> Result<(), String> {
        match self.version {
            Version::Http1 => self.http1().await,
            Version::Http2 => self.http2().await,
        }
    }

    async fn http1(&self) -> Result<(), String> {
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => self.connect_http1().await.map_err(|error| format!("{error:#}"))?,
        };
        let request = Request::get("/").header("host", self.to.to_string()).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        whole(sender.send_request(request).await.map_err(failure)?).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(())
    }

    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The most recently used one; what was closed meanwhile is no failure.
        std::iter::from_fn(|| idle.pop()).find(Http1::is_ready)
    }

    async fn connect_http1(&self) -> anyhow::Result<Http1> {
        let (sender, connection) = http1::handshake(self.socket().await?).await.context("connecting")?;
        // How it ended is told by the requests on it.
        self.drivers.spawn("connection", async move { drop(connection.await) });
        Ok(sender)
    }

    async fn http2(&self) -> Result<(), String> {
        let mut sender = self.share_http2().await.map_err(|error| format!("{error:#}"))?;
        let request = Request::get(format!("http://{}/", self.to)).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        whole(sender.send_request(request).await.map_err(failure)?).await
    }

    async fn share_http2(&self) -> anyhow::Result<Http2> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let handshake = http2::handshake(TokioExecutor::new(), self.socket().await?);
        let (sender, connection) = handshake.await.context("connecting")?;
        // As above.
        self.drivers.spawn("connection", async move { drop(connection.await) });
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn socket(&self) -> anyhow::Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(self.to).await.context("connecting")?;
        stream.set_nodelay(true).context("connecting")?;
        Ok(TokioIo::new(stream))
    }
}

/// Reads an answer to its end.
async fn whole(response: Response<hyper::body::Incoming>) -> Result<(), String> {
    let status = response.status();
    let reason = response.headers().get("weft-error").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told = format!("{} {reason}", status.as_u16());
    response.into_body().collect().await.map_err(failure)?;
    if status.is_success() { Ok(()) } else { Err(told) }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err asks for")]
fn failure(error: hyper::Error) -> String {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}
