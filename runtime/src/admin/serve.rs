//! Serves the pages: connections, limits, and who may ask for what.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::{Access, Admin, Answer, Pages, Reply, TEXT};
use crate::task::Tasks;

/// Connections served at once, and of them from one address: a neighbour that holds its share cannot lock probes out.
const CONNECTIONS_MAX: usize = 128;
const CONNECTIONS_PER_PEER_MAX: usize = 16;
/// How long a request's head may take, the pause before it included. Above Prometheus' usual interval of 15 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may live: a reader that takes a page byte by byte ends here. A reply that takes longer is waited for.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 4 * 1024;
/// hyper's smallest useful buffer; heads beyond it get 431.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Who asks, and over which of our addresses.
#[derive(Clone, Copy)]
struct Ends {
    peer: IpAddr,
    local: IpAddr,
}

impl Admin {
    /// Serves on the current runtime until `stop` resolves, then drops what is open.
    ///
    /// # Errors
    /// A listener cannot be handed to the runtime.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let tasks = Tasks::new();
        let door = Arc::new(Door::default());
        let mut loops = Vec::new();
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            let (pages, door, inner) = (Arc::clone(&self.pages), Arc::clone(&door), tasks.clone());
            loops.push(tasks.spawn("admin-accept", async move { accept(listener, pages, door, inner).await }));
        }
        stop.await;
        for accept in loops {
            accept.abort();
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>, door: Arc<Door>, tasks: Tasks) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "admin accept failed");
                // Out of descriptors: at once again would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = door.enter(peer) else {
            tracing::debug!(%peer, "too many admin connections");
            continue;
        };
        let pages = Arc::clone(&pages);
        tasks.spawn("admin-connection", async move {
            let visiting = Arc::new(AsyncMutex::new(()));
            let over = async {
                tokio::time::sleep(CONNECTION_TIMEOUT).await;
                drop(visiting.lock().await);
            };
            // What is under way when it is open too long is lost; a reply that is ready is written first.
            tokio::select! {
                biased;
                () = connection(tcp, peer, pages, Arc::clone(&visiting)) => {}
                () = over => tracing::debug!(%peer, "admin connection was open too long"),
            }
            drop(place);
        });
    }
}

async fn connection(tcp: TcpStream, peer: SocketAddr, pages: Arc<Pages>, visiting: Arc<AsyncMutex<()>>) {
    let Ok(local) = tcp.local_addr() else { return };
    let ends = Ends { peer: peer.ip().to_canonical(), local: local.ip().to_canonical() };
    let service = service_fn(move |request: Request<Incoming>| {
        let (pages, visiting) = (Arc::clone(&pages), Arc::clone(&visiting));
        async move {
            let _visiting = visiting.lock().await;
            respond(&pages, ends, request).await
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "admin connection failed");
    }
}

/// An error closes the connection without an answer.
async fn respond(pages: &Pages, ends: Ends, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    // Pages on loopback are for this machine's people, not for a web site that resolves its own name to 127.0.0.1.
    if ends.local.is_loopback() && head.headers.contains_key(HOST) && !names_loopback(&head.headers) {
        return Ok(refused("the Host header must name loopback\n"));
    }
    if let Some(room) = pages.room(head.uri.path()) {
        if head.method != Method::GET {
            return Ok(page(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "allowed: GET\n")));
        }
        return match (room.visit)(head.uri.path(), ends.local).await {
            Reply::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
            Reply::Text(status, text) => Ok(page(Answer::text(status, text))),
        };
    }
    Ok(answer(pages, ends, head, body).await)
}

async fn answer(pages: &Pages, ends: Ends, head: Parts, body: Incoming) -> Response<Full<Bytes>> {
    let Some(route) = pages.find(head.uri.path()) else {
        return page(Answer::text(StatusCode::NOT_FOUND, format!("known paths:\n{}\n", pages.known())));
    };
    if let Some((access, read)) = &route.read
        && matches!(head.method, Method::GET | Method::HEAD)
    {
        return match access {
            Access::Loopback if !is_local(ends, &head.headers) => refused("answers on loopback only\n"),
            Access::Anyone | Access::Loopback => page(read()),
        };
    }
    let Some((_, write)) = route.write.as_ref().filter(|(method, _)| *method == head.method) else {
        let mut answer = page(Answer::text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {}\n", route.allowed())));
        if let Ok(allowed) = HeaderValue::try_from(route.allowed()) {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        return answer;
    };
    if !is_local(ends, &head.headers) {
        return refused("changes are taken on loopback only\n");
    }
    // An application that is tricked into a request cannot send this (semantics 48).
    if head.headers.get("weft-admin").is_none_or(|value| value != "1") {
        return refused("changes need the header weft-admin: 1\n");
    }
    match small_text(body).await {
        Some(body) => page(write(&body)),
        None => {
            let expected = format!("expected at most {BODY_BYTES_MAX} bytes of UTF-8, at once\n");
            page(Answer::text(StatusCode::BAD_REQUEST, expected))
        }
    }
}

async fn small_text(body: Incoming) -> Option<String> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return None;
    }
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await.ok()?.ok()?;
    String::from_utf8(collected.to_bytes().into()).ok()
}

fn is_local(ends: Ends, headers: &HeaderMap) -> bool {
    let origin_is_ours = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<http::Uri>().ok());
        origin.and_then(|origin| origin.host().map(is_loopback_name)).unwrap_or(false)
    };
    ends.peer.is_loopback() && names_loopback(headers) && headers.get(ORIGIN).is_none_or(origin_is_ours)
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| is_loopback_name(authority.host()))
}

fn is_loopback_name(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn refused(why: &'static str) -> Response<Full<Bytes>> {
    page(Answer { status: StatusCode::FORBIDDEN, content_type: TEXT, body: why.to_owned() })
}

fn page(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Counts connections, all and by peer.
#[derive(Debug)]
struct Door {
    places: Arc<Semaphore>,
    /// Addresses with at least one connection, so never more than [`CONNECTIONS_MAX`]. The lock is held for one look.
    peers: Mutex<BTreeMap<IpAddr, usize>>,
}

impl Default for Door {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), peers: Mutex::default() }
    }
}

impl Door {
    /// A place, or none where the limits are reached: the connection is dropped, for waiting would block probes.
    fn enter(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let peer = peer.ip().to_canonical();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        drop(peers);
        Some(Place { door: Arc::clone(self), peer, _permit: permit })
    }
}

/// One connection's place.
struct Place {
    door: Arc<Door>,
    peer: IpAddr,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.door.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let left = peers.get(&self.peer).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            peers.remove(&self.peer);
        } else {
            peers.insert(self.peer, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, Door, Ends, is_local};

    #[test]
    fn one_peer_cannot_take_all_places() {
        let door = Arc::new(Door::default());
        let places: Vec<_> = (0..CONNECTIONS_MAX).filter_map(|_| door.enter(([192, 0, 2, 1], 1).into())).collect();
        assert_eq!(places.len(), CONNECTIONS_PER_PEER_MAX);
        assert!(door.enter(([192, 0, 2, 2], 1).into()).is_some());
        drop(places);
        assert!(door.peers.lock().unwrap().is_empty());
    }

    #[test]
    fn local_means_peer_host_and_origin() {
        for (peer, host, origin, want) in [
            ("127.0.0.1", Some("localhost:14003"), None, true),
            ("127.0.0.1", Some("127.0.0.1"), Some("http://localhost:3000"), true),
            ("::1", Some("[::1]:14003"), None, true),
            ("10.0.0.1", Some("localhost"), None, false),
            ("127.0.0.1", Some("evil.example"), None, false),
            ("127.0.0.1", Some("localhost.evil.example"), None, false),
            ("127.0.0.1", None, None, false),
            ("127.0.0.1", Some("localhost"), Some("http://evil.example"), false),
            ("127.0.0.1", Some("localhost"), Some("null"), false),
        ] {
            let mut headers = http::HeaderMap::new();
            host.map(|host| headers.insert("host", http::HeaderValue::from_static(host)));
            origin.map(|origin| headers.insert("origin", http::HeaderValue::from_static(origin)));
            let peer = peer.parse().unwrap();
            assert_eq!(is_local(Ends { peer, local: peer }, &headers), want, "{peer} {headers:?}");
        }
    }
}
