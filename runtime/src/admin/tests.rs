//! The pages over real sockets on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use http::StatusCode;

use super::{Access, Admin, AdminServer, Reply};

#[test]
fn the_pages_answer() {
    let (server, _drained) = start();
    for (request, status, part) in [
        ("GET /live HTTP/1.1\r\nHost: localhost\r\n", 200, "live"),
        ("GET /ready HTTP/1.1\r\nHost: localhost\r\n", 503, "waiting for identity, policy"),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", 200, "application/openmetrics-text"),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", 200, "# EOF"),
        ("GET /config HTTP/1.1\r\nHost: localhost\r\n", 200, "{\"a\":1}"),
        ("GET /config HTTP/1.1\r\nHost: evil.example\r\n", 403, "loopback"),
        ("GET /status?x=1 HTTP/1.1\r\nHost: localhost\r\n", 200, "[]"),
        ("GET /none HTTP/1.1\r\nHost: localhost\r\n", 404, "/config\n/drain\n/falls\n/live\n/metrics\n/ready\n/status"),
        ("POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", 405, "allow: GET, HEAD"),
        ("GET /drain HTTP/1.1\r\nHost: localhost\r\n", 405, "allow: POST"),
        ("GET /slow/a/b?c HTTP/1.1\r\nHost: localhost\r\n", 503, "/slow/a/b at 127.0.0.1"),
        ("GET /slow/a HTTP/1.1\r\nHost: evil.example\r\n", 403, "loopback"),
        ("POST /slow/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", 405, "allowed: GET"),
        ("GET /slow HTTP/1.1\r\nHost: localhost\r\n", 404, "known paths"),
    ] {
        let answer = ask(server.addrs()[0], request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains(part), "{request}: {answer}");
    }
}

#[test]
fn a_change_needs_the_header() {
    let (server, drained) = start();
    let without = ask(server.addrs()[0], "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
    assert!(without.starts_with("HTTP/1.1 403 ") && without.contains("weft-admin: 1"), "{without}");
    assert_eq!(drained.load(Ordering::SeqCst), 0);
    let head = "POST /drain HTTP/1.1\r\nHost: localhost\r\nWeft-Admin: 1\r\nContent-Length: 0\r\n";
    let with = ask(server.addrs()[0], head);
    assert!(with.starts_with("HTTP/1.1 200 "), "{with}");
    assert_eq!(drained.load(Ordering::SeqCst), 1);
}

#[test]
fn a_body_is_bounded() {
    let (server, _drained) = start();
    let head = "POST /drain HTTP/1.1\r\nHost: localhost\r\nWeft-Admin: 1\r\nContent-Length: 100000\r\n";
    let answer = ask(server.addrs()[0], head);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn a_handler_that_panics_costs_one_connection() {
    let (server, _drained) = start();
    assert_eq!(ask(server.addrs()[0], "GET /falls HTTP/1.1\r\nHost: localhost\r\n"), "");
    assert!(ask(server.addrs()[0], "GET /live HTTP/1.1\r\nHost: localhost\r\n").contains("live"));
}

#[test]
fn a_reply_may_be_none() {
    let (server, _drained) = start();
    assert_eq!(ask(server.addrs()[0], "GET /slow/cut HTTP/1.1\r\nHost: localhost\r\n"), "");
    assert!(ask(server.addrs()[0], "GET /live HTTP/1.1\r\nHost: localhost\r\n").contains("live"));
}

#[test]
fn dropping_the_server_frees_the_port() {
    let (server, _drained) = start();
    let addr = server.addrs()[0];
    drop(server);
    assert!(TcpStream::connect(addr).is_err());
}

fn start() -> (AdminServer, Arc<AtomicUsize>) {
    let drained = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&drained);
    let server = Admin::builder()
        .metrics(|out| out.push_str("# EOF\n"))
        .ready(|| Err(vec!["identity".to_owned(), "policy".to_owned()]))
        .config(|| "{\"a\":1}".to_owned())
        .drain(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .json("/status", Access::Anyone, || "[]".to_owned())
        .below("/slow/", |path, own| {
            let cut = path.ends_with("/cut");
            let text = format!("{path} at {own}");
            async move { if cut { Reply::Cut } else { Reply::Text(StatusCode::SERVICE_UNAVAILABLE, text) } }.boxed()
        })
        .text("/falls", Access::Anyone, || panic!("on purpose"))
        .bind(&["127.0.0.1:0".parse().unwrap()])
        .unwrap()
        .start()
        .unwrap();
    (server, drained)
}

/// Sends one request on a connection of its own and reads until the end.
fn ask(addr: SocketAddr, head: &str) -> String {
    let mut tcp = TcpStream::connect(addr).unwrap();
    tcp.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}
