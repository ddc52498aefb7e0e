//! The pages a process shows to people, probes and Prometheus: a table of closures behind a small HTTP/1 server that
//! runs on a thread of its own, so that a scrape never delays traffic and traffic never fails a probe.
//!
//! Closures must be quick and must not block; what takes its time is a future ([`AdminBuilder::below`]). What shows or changes the process's inside answers only on loopback
//! ([`Access`]); nothing secret belongs into any page.

mod serve;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use http::{Method, StatusCode};
use tokio::sync::oneshot;

use crate::net;
use crate::telemetry::LogLevel;

/// OpenMetrics 1.0, which exemplars need.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Who may see a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches the port.
    Anyone,
    /// Peers on loopback, by a loopback name: a web page that a browser on this machine shows is refused (semantics
    /// 48).
    Loopback,
}

type Read = Arc<dyn Fn() -> Answer + Send + Sync>;
/// Gets the request's body.
type Write = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Gets the whole path, and the address of ours that was asked.
type Visit = Arc<dyn Fn(&str, IpAddr) -> BoxFuture<'static, Reply> + Send + Sync>;

/// What is said by something that takes its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: the connection is closed, for whoever looks at no status.
    Cut,
    /// A page of text.
    Text(StatusCode, String),
}

/// What a page says.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

/// One path. Changing it is always for [`Access::Loopback`] with the header `weft-admin: 1`.
#[derive(Clone, Default)]
struct Route {
    path: &'static str,
    read: Option<(Access, Read)>,
    write: Option<(Method, Write)>,
}

/// Everything below a path.
struct Room {
    prefix: &'static str,
    visit: Visit,
}

/// Collects pages, then binds.
#[derive(Default)]
pub struct AdminBuilder {
    routes: Vec<Route>,
    rooms: Vec<Room>,
}

/// A bound admin server that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listeners: Vec<TcpListener>,
    pages: Arc<Pages>,
}

/// The finished table.
struct Pages {
    routes: Vec<Route>,
    rooms: Vec<Room>,
}

/// A served admin server; dropping it ends the thread.
#[derive(Debug)]
pub struct AdminServer {
    addrs: Vec<SocketAddr>,
    /// Dropped to stop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Begins an empty table with `/live`, which answers as long as the thread runs.
    pub fn builder() -> AdminBuilder {
        AdminBuilder::default().text("/live", Access::Anyone, || "live\n".to_owned())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves on a thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(self) -> io::Result<AdminServer> {
        let addrs = self.addrs()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            let served = runtime.block_on(async {
                self.serve(async {
                    // Sent or dropped: both mean stop.
                    drop(stopped.await);
                })
                .await
            });
            if let Err(error) = served {
                tracing::error!(%error, "admin server ended");
            }
        };
        let thread = std::thread::Builder::new().name("weft-admin".to_owned()).spawn(serve)?;
        Ok(AdminServer { addrs, stop: Some(stop), thread: Some(thread) })
    }
}

impl AdminServer {
    /// Where it listens.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("admin thread panicked");
        }
    }
}

impl AdminBuilder {
    /// `/metrics`: the closure writes OpenMetrics text, with its `# EOF`.
    #[must_use]
    pub fn metrics(self, write: impl Fn(&mut String) + Send + Sync + 'static) -> Self {
        self.read("/metrics", Access::Anyone, move || {
            let mut body = String::new();
            write(&mut body);
            Answer { status: StatusCode::OK, content_type: OPEN_METRICS, body }
        })
    }

    /// `/ready`: 200, or 503 with what is still missing, one a line.
    #[must_use]
    pub fn ready(self, missing: impl Fn() -> Result<(), Vec<String>> + Send + Sync + 'static) -> Self {
        self.read("/ready", Access::Anyone, move || match missing() {
            Ok(()) => Answer::text(StatusCode::OK, "ready\n"),
            Err(missing) => {
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
            }
        })
    }

    /// `/config`: what the process runs by, as JSON, without secrets. On loopback only.
    #[must_use]
    pub fn config(self, write: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.json("/config", Access::Loopback, write)
    }

    /// `/log-level`: GET shows the filter, PUT replaces it.
    #[must_use]
    pub fn log_level(self, level: LogLevel) -> Self {
        let shown = level.clone();
        self.text("/log-level", Access::Anyone, move || format!("{}\n", shown.filter())).write(
            "/log-level",
            Method::PUT,
            move |filter| match level.set(filter) {
                Ok(()) => {
                    tracing::info!(filter = level.filter(), "log filter changed");
                    Answer::text(StatusCode::OK, format!("{}\n", level.filter()))
                }
                Err(error) => Answer::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            },
        )
    }

    /// `/drain`: POST begins a drain. The closure returns at once.
    #[must_use]
    pub fn drain(self, begin: impl Fn() + Send + Sync + 'static) -> Self {
        self.post("/drain", move |_| {
            begin();
            Ok("draining\n".to_owned())
        })
    }

    /// A page of text.
    #[must_use]
    pub fn text(self, path: &'static str, access: Access, write: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.read(path, access, move || Answer::text(StatusCode::OK, write()))
    }

    /// A page of JSON; the closure writes it.
    #[must_use]
    pub fn json(self, path: &'static str, access: Access, write: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.read(path, access, move || Answer { status: StatusCode::OK, content_type: JSON, body: write() })
    }

    /// Something that POST does, given the request's body (at most 4 KiB): on loopback, with `weft-admin: 1`.
    /// Answers with the text, or 400 with the error's text.
    #[must_use]
    pub fn post(
        self,
        path: &'static str,
        act: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        self.write(path, Method::POST, move |body| match act(body) {
            Ok(said) => Answer::text(StatusCode::OK, said),
            Err(error) => Answer::text(StatusCode::BAD_REQUEST, error),
        })
    }

    /// GET of anything that begins with `prefix`, for everybody who reaches the port. The future runs on the admin thread: it may
    /// wait but must not work for long. It is dropped when the client goes away, and nothing else ends it.
    #[must_use]
    pub fn below(
        mut self,
        prefix: &'static str,
        visit: impl Fn(&str, IpAddr) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
    ) -> Self {
        self.rooms.push(Room { prefix, visit: Arc::new(visit) });
        self
    }

    /// Binds all addresses; port 0 takes a free one for each.
    ///
    /// # Errors
    /// What the system says, naming the address.
    pub fn bind(self, addrs: &[SocketAddr]) -> io::Result<Admin> {
        let Self { routes, rooms } = self;
        Ok(Admin { listeners: net::listen_all(addrs)?, pages: Arc::new(Pages { routes, rooms }) })
    }

    fn read(mut self, path: &'static str, access: Access, read: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        self.route(path).read = Some((access, Arc::new(read)));
        self
    }

    fn write(
        mut self,
        path: &'static str,
        method: Method,
        write: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.route(path).write = Some((method, Arc::new(write)));
        self
    }

    fn route(&mut self, path: &'static str) -> &mut Route {
        let at = self.routes.iter().position(|route| route.path == path).unwrap_or_else(|| {
            self.routes.push(Route { path, ..Route::default() });
            self.routes.len() - 1
        });
        &mut self.routes[at]
    }
}

impl Answer {
    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }
}

impl Pages {
    fn find(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.path == path)
    }

    fn room(&self, path: &str) -> Option<&Room> {
        self.rooms.iter().find(|room| path.starts_with(room.prefix))
    }

    fn known(&self) -> String {
        let mut known: Vec<_> = self.routes.iter().map(|route| route.path).collect();
        known.sort_unstable();
        known.join("\n")
    }
}

impl Route {
    /// The value of `Allow`.
    fn allowed(&self) -> String {
        let mut allowed = Vec::new();
        if self.read.is_some() {
            allowed.extend(["GET", "HEAD"]);
        }
        allowed.extend(self.write.as_ref().map(|(method, _)| method.as_str()));
        allowed.join(", ")
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| route.path)).finish()
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| route.path)).finish()
    }
}

#[cfg(test)]
mod tests;
