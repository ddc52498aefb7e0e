//! Spans as a collector sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Uri};
use opentelemetry::Value;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::Resource;
use weft_model::resources::TelemetrySpec;
use weft_model::{ClientAddr, OriginalDst, PolicyId, WorkloadName};
use weft_runtime::clock::WallClock;

use super::super::super::facts::{Direction, Protocol};
use super::{Exporter, SPANS_QUEUED_MAX, collector, span};
use crate::error::Reason;
use crate::record::{Event, Telemetry};

#[tokio::test(start_paused = true)]
async fn a_span_says_what_happened() {
    let (telemetry, mut exporter) = traced();
    let recorder = telemetry.recorder();
    let mut record = recorder.http(Direction::Outbound, Protocol::Http1, ClientAddr(addr(1)), OriginalDst(addr(2)));
    record.request(&Method::GET, &Uri::from_static("/a?secret=1"), &parent());
    record.traffic.route = Some(PolicyId::new("HTTPRoute", "shop", "canary"));
    record.status = Some(503);
    tokio::time::advance(Duration::from_millis(7)).await;
    record.finish(Err(Reason::NoEndpoints));
    let span = span(&exporter.finished.recv().await.unwrap(), &exporter.out.scope).unwrap();
    assert_eq!(span.name, "GET HTTPRoute/shop/canary");
    assert_eq!(span.span_kind, SpanKind::Client);
    assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert_ne!(span.span_context.span_id(), span.parent_span_id);
    assert_eq!(span.end_time.duration_since(span.start_time).unwrap(), Duration::from_millis(7));
    assert_eq!(span.status, Status::error("no-endpoints"));
    let told = |key: &str| {
        let found = span.attributes.iter().find(|pair| pair.key.as_str() == key);
        found.map(|pair| pair.value.clone())
    };
    for (key, want) in [
        ("http.request.method", Value::from("GET")),
        ("url.path", Value::from("/a")),
        ("http.response.status_code", Value::from(503_i64)),
        ("error.type", Value::from("no-endpoints")),
        ("weft.source", Value::from("shop/web-1")),
    ] {
        assert_eq!(told(key), Some(want), "{key}");
    }
    assert!(!format!("{span:?}").contains("secret"));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_counted_spans() {
    let (telemetry, exporter) = traced();
    let recorder = telemetry.recorder();
    for _ in 0..SPANS_QUEUED_MAX + 10 {
        let mut record = recorder.http(Direction::Outbound, Protocol::Http1, ClientAddr(addr(1)), OriginalDst(addr(2)));
        record.request(&Method::GET, &Uri::from_static("/"), &parent());
        record.finish(Ok(()));
    }
    assert_eq!(telemetry.counted(Event::SpanDropped), 10, "the queue is bounded");
    // Turned off: what waits has nowhere to go.
    telemetry.apply(&TelemetrySpec::default());
    let metrics = Arc::clone(&exporter.out.metrics);
    drop((recorder, telemetry));
    exporter.run(None).await;
    assert_eq!(metrics.counted(Event::SpanDropped), 10 + SPANS_QUEUED_MAX as u64);
}

#[tokio::test]
async fn a_collector_gets_the_span_over_grpc() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (telemetry, exporter) = traced();
    telemetry.apply(&TelemetrySpec { otlp_endpoint: Some(endpoint.into()), ..TelemetrySpec::default() });
    let recorder = telemetry.recorder();
    let mut record = recorder.http(Direction::Inbound, Protocol::Http2, ClientAddr(addr(1)), OriginalDst(addr(2)));
    record.request(&Method::GET, &Uri::from_static("/"), &parent());
    record.finish(Ok(()));
    drop((recorder, telemetry));
    let metrics = Arc::clone(&exporter.out.metrics);
    let collect = async {
        let mut server = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        let mut body = request.into_body();
        // Somebody must drive the connection while the body is read; and in the end it is closed from the other side.
        let answer = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                bytes.extend_from_slice(&chunk);
            }
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(bytes::Bytes::from_static(&[0; 5]), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers).unwrap();
            bytes
        };
        let drive = async { while server.accept().await.is_some() {} };
        tokio::join!(answer, drive).0
    };
    let both = Box::pin(async { tokio::join!(collect, exporter.run(None)) });
    let (bytes, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(has(&0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()), "trace id");
    assert!(has(b"service.name") && has(b"web-1") && has(b"weft.direction"));
    assert_eq!((metrics.counted(Event::SpanExported), metrics.counted(Event::SpanDropped)), (1, 0));
}

#[test]
fn only_plain_http_endpoints_are_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let resource = Resource::builder_empty().build();
    for (endpoint, good) in [
        ("http://127.0.0.1:4317", true),
        ("http://collector.observability", true),
        ("https://127.0.0.1:4317", false),
        ("127.0.0.1:4317", false),
        ("nonsense", false),
        ("", false),
    ] {
        assert_eq!(collector(endpoint, None, &resource).is_ok(), good, "{endpoint:?}");
    }
}

fn traced() -> (Telemetry, Exporter) {
    let (clock, _hand) = WallClock::manual(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let (telemetry, exporter) = Telemetry::new(WorkloadName::new("shop", "web-1"), clock);
    telemetry.apply(&TelemetrySpec { otlp_endpoint: Some("http://127.0.0.1:9".into()), ..TelemetrySpec::default() });
    (telemetry, exporter)
}

fn parent() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", HeaderValue::from_static(value));
    headers
}

fn addr(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
