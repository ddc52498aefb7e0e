//! Lines as they are written.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_model::{ClientAddr, OriginalDst, PolicyId, ServiceKey, WorkloadName};
use weft_runtime::clock::WallClock;

use super::super::facts::{Direction, HttpFacts, Mtls, RequestFacts, TcpFacts, Traffic, Verdict};
use super::{AccessLog, LINES_QUEUED_MAX, Line, Registry, TEXT_BYTES_MAX, rfc3339};
use crate::error::Reason;
use crate::record::facts::Protocol;
use crate::record::span::{Ids, Sampling, Trace};

#[tokio::test(start_paused = true)]
async fn a_request_is_one_line_of_json() {
    let facts = request_facts("/cart?token=s3cret&page=2");
    tokio::time::advance(Duration::from_millis(5)).await;
    let line = line(facts, Instant::now());
    let want = json!({
        "timestamp": "2027-01-15T08:00:00.120Z",
        "direction": "inbound",
        "protocol": "http1",
        "mtls": "yes",
        "client.addr": "10.0.0.1:40000",
        "client.id": "spiffe://cluster.local/ns/front/sa/web",
        "destination.addr": "10.0.0.9:8080",
        "destination": "shop/product-1",
        "service": "shop/product:80",
        "method": "GET",
        "uri": "/cart?token&page",
        "host": "product",
        "user_agent": "curl/8",
        "status": 403,
        "reason": "authorization",
        "policy": "AuthorizationPolicy/shop/no",
        "verdict": "deny",
        "request_bytes": 3,
        "response_bytes": 4,
        "retries": 0,
        "total_ns": 5_000_000,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
    });
    assert_eq!(line, want);
}

#[tokio::test(start_paused = true)]
async fn secrets_are_not_told() {
    let text = line(request_facts("/?a=s3cret&s=s3cret"), Instant::now()).to_string();
    assert!(!text.contains("s3cret"), "{text}");
    let mut facts = request_facts("/");
    let authority = Some("user:s3cret@host".parse().unwrap());
    facts.request = facts.request.map(|request| RequestFacts { authority, ..request });
    let text = line(facts, Instant::now());
    assert_eq!(text["host"], "host");
    assert!(!text.to_string().contains("s3cret"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_client_chose_is_bounded_and_escaped() {
    let mut facts = request_facts(&format!("/{}", "a".repeat(10_000)));
    let agent = HeaderValue::from_bytes(b"a\"\xff\xc3\xa9").unwrap();
    facts.request = facts.request.map(|request| RequestFacts { user_agent: Some(agent), ..request });
    let line = line(facts, Instant::now());
    assert_eq!(line["uri"].as_str().unwrap().len(), TEXT_BYTES_MAX);
    assert_eq!(line["user_agent"], "a\"\u{fffd}é");
    assert!(!line.to_string().contains('\n'));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_one_line_too() {
    let traffic = Traffic::new(Direction::Outbound, Protocol::Tcp);
    let mut facts = TcpFacts::new(traffic, ClientAddr(addr(1)), OriginalDst(addr(2)), Instant::now());
    facts.reason = Some(Reason::ConnectRefused);
    facts.sent_bytes = 5;
    let Value::Object(line) = Line::Connection { facts: Arc::new(facts), at: UNIX_EPOCH }.json() else { panic!() };
    assert_eq!((&line["reason"], &line["sent_bytes"]), (&json!("connect-refused"), &json!(5)));
    assert_eq!(line["timestamp"], "1970-01-01T00:00:00.000Z");
}

#[tokio::test(start_paused = true)]
async fn lines_that_wait_are_bounded_and_the_rest_is_written() {
    let out = Slow::default();
    let held = out.0.lock().unwrap();
    let log = AccessLog::start(out.clone(), Arc::new(Registry::new(&WallClock::system()))).unwrap();
    let mut taken = 0;
    for _ in 0..4 * LINES_QUEUED_MAX {
        let facts = Arc::new(request_facts("/"));
        taken += usize::from(log.tell(Line::Request { facts, at: UNIX_EPOCH }));
    }
    assert!((LINES_QUEUED_MAX..4 * LINES_QUEUED_MAX).contains(&taken), "{taken}");
    drop(held);
    drop(log);
    let written = || out.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
    while written() < taken {
        std::thread::yield_now();
    }
    assert_eq!(written(), taken);
}

#[test]
fn dates_are_gregorian() {
    for (seconds, want) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), want);
    }
}

fn line(mut facts: HttpFacts, finished: Instant) -> Value {
    facts.finished = Some(finished);
    let at = UNIX_EPOCH + Duration::from_millis(1_800_000_000_125);
    Line::Request { facts: Arc::new(facts), at }.json()
}

fn request_facts(path: &str) -> HttpFacts {
    let mut traffic = Traffic::new(Direction::Inbound, Protocol::Http1);
    traffic.mtls = Mtls::Yes;
    traffic.peer = Some("spiffe://cluster.local/ns/front/sa/web".parse().unwrap());
    traffic.destination = Some(WorkloadName::new("shop", "product-1"));
    traffic.service = Some(ServiceKey::new("shop", "product", 80));
    let client = ClientAddr("10.0.0.1:40000".parse().unwrap());
    let mut facts = HttpFacts::new(traffic, client, OriginalDst("10.0.0.9:8080".parse().unwrap()), Instant::now());
    let mut headers = HeaderMap::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    headers.insert("traceparent", HeaderValue::from_static(parent));
    facts.trace = Trace::begin(&headers, Sampling { exporting: false, logging: true, per_million: 0 }, &Ids::new());
    facts.status = Some(403);
    facts.reason = Some(Reason::Authorization);
    facts.policy = Some(PolicyId::new("AuthorizationPolicy", "shop", "no"));
    facts.verdict = Some(Verdict::Deny);
    facts.request_bytes = 3;
    facts.response_bytes = 4;
    facts.request = Some(RequestFacts {
        method: Method::GET,
        path: path.parse::<Uri>().unwrap().path_and_query().cloned(),
        host: Some(HeaderValue::from_static("product")),
        authority: None,
        user_agent: Some(HeaderValue::from_static("curl/8")),
    });
    facts
}

fn addr(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A reader that takes nothing while somebody holds the lock.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<Vec<u8>>>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
