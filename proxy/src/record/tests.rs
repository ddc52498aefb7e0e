//! Records as chapters use them, seen through the scrape.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Uri};
use weft_model::resources::TelemetrySpec;
use weft_model::{ClientAddr, OriginalDst, PolicyId, ServiceKey, SpiffeId, WorkloadName};
use weft_runtime::clock::WallClock;

use super::{Direction, Event, Gauge, HttpRecord, Kind, Mtls, Protocol, Recorder, Telemetry, Verdict};
use crate::error::Reason;

const CLIENT: &str = "10.0.0.1:40000";
const DST: &str = "10.0.0.9:8080";

#[tokio::test(start_paused = true)]
async fn a_request_is_counted_once_with_all_its_labels() {
    let telemetry = telemetry();
    let mut record = outbound(&telemetry.recorder());
    record.traffic.mtls = Mtls::Yes;
    record.traffic.route = Some(PolicyId::new("HTTPRoute", "shop", "canary"));
    record.status = Some(200);
    record.retries = 1;
    record.request_bytes = 10;
    record.response_bytes = 20;
    tokio::time::advance(Duration::from_millis(3)).await;
    record.first_byte();
    tokio::time::advance(Duration::from_secs(3)).await;
    record.first_byte();
    record.finish(Ok(()));
    let labels = "direction=\"outbound\",protocol=\"http1\",mtls=\"yes\",source_workload=\"web-1\",source_namespace=\"shop\",\
                  destination_service=\"product\",destination_namespace=\"shop\",destination_workload=\"product-1\",\
                  route=\"HTTPRoute/shop/canary\"";
    let end = "status_code=\"200\",grpc_status=\"\",class=\"success\",reason=\"\"";
    let text = scrape(&telemetry);
    for line in [
        format!("weft_requests_total{{{labels},{end}}} 1"),
        format!("weft_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 0"),
        format!("weft_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
        format!("weft_request_duration_seconds_bucket{{{labels},le=\"1.0\"}} 1"),
        format!("weft_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
        format!("weft_request_duration_seconds_count{{{labels}}} 1"),
        format!("weft_request_duration_seconds_sum{{{labels}}} 0.003"),
        format!("weft_request_bytes_total{{{labels}}} 10"),
        format!("weft_response_bytes_total{{{labels}}} 20"),
        format!("weft_retries_total{{{labels}}} 1"),
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_dropped_says_that_the_client_is_gone() {
    let telemetry = telemetry();
    let recorder = telemetry.recorder();
    drop(outbound(&recorder));
    let mut named = outbound(&recorder);
    named.reason = Some(Reason::RequestTimeout);
    drop(named);
    drop(recorder.tcp(Direction::Inbound, client(), dst()));
    let text = scrape(&telemetry);
    assert_eq!(
        count(&text, "weft_requests_total", &["reason=\"client-gone\"", "class=\"success\"", "status_code=\"\""]),
        1
    );
    assert_eq!(count(&text, "weft_requests_total", &["reason=\"request-timeout\"", "class=\"failure\""]), 1);
    assert_eq!(count(&text, "weft_tcp_connections_closed_total", &["reason=\"client-gone\""]), 1);
    assert_eq!(count(&text, "weft_tcp_connections_opened_total", &["direction=\"inbound\""]), 1);
    assert_eq!(count(&text, "weft_request_duration_seconds_count", &[]), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_reason_stands() {
    let telemetry = telemetry();
    let mut record = outbound(&telemetry.recorder());
    record.reason = Some(Reason::NoEndpoints);
    record.status = Some(503);
    record.finish(Err(Reason::Internal));
    assert_eq!(count(&scrape(&telemetry), "weft_requests_total", &["reason=\"no-endpoints\""]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_connection_shows_before_its_end() {
    let telemetry = telemetry();
    let mut record = telemetry.recorder().tcp(Direction::Outbound, client(), dst());
    record.opened();
    record.passed(100, 200);
    let text = scrape(&telemetry);
    assert_eq!(count(&text, "weft_tcp_connections_opened_total", &["protocol=\"tcp\""]), 1);
    assert_eq!(count(&text, "weft_tcp_sent_bytes_total", &[]), 100);
    assert_eq!(count(&text, "weft_tcp_received_bytes_total", &[]), 200);
    assert_eq!(count(&text, "weft_tcp_connections_closed_total", &[]), 0);
    record.finish(Ok(()));
    let text = scrape(&telemetry);
    assert_eq!(count(&text, "weft_tcp_connections_opened_total", &[]), 1);
    assert_eq!(count(&text, "weft_tcp_connections_closed_total", &["class=\"success\"", "reason=\"\""]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_trial_leaves_nothing() {
    let telemetry = telemetry();
    telemetry.recorder().tcp(Direction::Outbound, client(), dst()).discard();
    assert_eq!(count(&scrape(&telemetry), "weft_tcp_connections", &[]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_counted_and_an_audit_decides_nothing() {
    let telemetry = telemetry();
    let mut record = telemetry.recorder().http(Direction::Inbound, Protocol::Http2, client(), dst());
    let (audit, deny) =
        (PolicyId::new("AuthorizationPolicy", "shop", "watch"), PolicyId::new("AuthorizationPolicy", "shop", "no"));
    record.judged(Some(&deny), Verdict::Deny);
    record.judged(Some(&audit), Verdict::Audit);
    assert_eq!((record.policy.clone(), record.verdict), (Some(deny), Some(Verdict::Deny)));
    record.judged(None, Verdict::Allow);
    record.finish(Err(Reason::Authorization));
    let text = scrape(&telemetry);
    for (policy, verdict) in
        [("AuthorizationPolicy/shop/no", "deny"), ("AuthorizationPolicy/shop/watch", "audit"), ("default", "allow")]
    {
        let labels = [format!("policy=\"{policy}\""), format!("verdict=\"{verdict}\"")];
        assert_eq!(count(&text, "weft_authorization_total", &[&labels[0], &labels[1]]), 1, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_source_has_the_namespace_of_its_certificate() {
    let telemetry = telemetry();
    let mut record = telemetry.recorder().http(Direction::Inbound, Protocol::Http2, client(), dst());
    record.traffic.peer = Some("spiffe://cluster.local/ns/front/sa/web".parse::<SpiffeId>().unwrap());
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    record.request(&Method::POST, &Uri::from_static("/a.B/C"), &headers);
    record.grpc_status = Some(14);
    record.finish(Ok(()));
    let labels = [
        "source_workload=\"unknown\"",
        "source_namespace=\"front\"",
        "destination_service=\"unknown\"",
        "destination_workload=\"web-1\"",
        "protocol=\"grpc\"",
        "grpc_status=\"14\"",
        "class=\"failure\"",
    ];
    assert_eq!(count(&scrape(&telemetry), "weft_requests_total", &labels), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sampled_request_is_an_example_and_reaches_the_exporter() {
    let (clock, _hand) = WallClock::manual(UNIX_EPOCH + Duration::from_millis(1_800_000_000_250));
    let (telemetry, _exporter) = Telemetry::new(WorkloadName::new("shop", "web-1"), clock);
    telemetry.apply(&TelemetrySpec {
        access_log: false,
        trace_per_million: 0,
        otlp_endpoint: Some("http://127.0.0.1:4317".into()),
    });
    let mut headers = HeaderMap::new();
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    headers.insert("traceparent", parent.clone());
    let mut record = outbound(&telemetry.recorder());
    record.request(&Method::GET, &Uri::from_static("/"), &headers);
    record.inject(&mut headers);
    assert_ne!(headers.get("traceparent"), Some(&parent), "our span is the next hop's parent");
    tokio::time::advance(Duration::from_millis(2)).await;
    record.first_byte();
    record.finish(Ok(()));
    let example = "# {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.002 1800000000.250";
    let text = scrape(&telemetry);
    let line = text.lines().find(|line| line.contains(example)).unwrap_or_else(|| panic!("no example in {text}"));
    assert!(line.contains("le=\"0.0025\""), "{line}");
}

#[tokio::test(start_paused = true)]
async fn events_gauges_and_hooks_are_told() {
    let telemetry = telemetry();
    telemetry.recorder().count(Event::DetectTimeout);
    telemetry.set(Gauge::Draining, 1);
    telemetry.change(Gauge::UpstreamIdle, 2);
    telemetry.change(Gauge::UpstreamIdle, -1);
    telemetry.on_scrape(|text| {
        text.family("weft_endpoints", Kind::Gauge, "Endpoints.");
        text.sample(&[("destination_service", "a\"b\\c\nd")], 3);
    });
    let tasks = weft_runtime::task::Tasks::new();
    telemetry.watch_tasks(tasks.clone());
    tasks.spawn("falls", async { panic!("on purpose") });
    tasks.close();
    tasks.wait().await;
    let text = scrape(&telemetry);
    for line in [
        "weft_detect_timeouts_total 1",
        "weft_draining 1",
        "weft_upstream_idle_connections 1",
        "weft_task_panics_total 1",
        "weft_endpoints{destination_service=\"a\\\"b\\\\c\\nd\"} 3",
        concat!("weft_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn families_are_contiguous_and_named_once() {
    let telemetry = telemetry();
    outbound(&telemetry.recorder()).finish(Ok(()));
    let text = scrape(&telemetry);
    let mut families = Vec::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(name) = line.strip_prefix("# TYPE ") {
            families.push(name.split(' ').next().unwrap());
        } else if !line.starts_with("# HELP ") {
            assert!(line.starts_with(families.last().unwrap()), "{line} stands under {families:?}");
        }
    }
    let all = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all);
}

fn telemetry() -> Telemetry {
    let (telemetry, _exporter) = Telemetry::new(WorkloadName::new("shop", "web-1"), WallClock::system());
    telemetry
}

fn outbound(recorder: &Recorder) -> HttpRecord {
    let mut record = recorder.http(Direction::Outbound, Protocol::Http1, client(), dst());
    record.traffic.service = Some(ServiceKey::new("shop", "product", 80));
    record.traffic.destination = Some(WorkloadName::new("shop", "product-1"));
    record
}

fn client() -> ClientAddr {
    ClientAddr(CLIENT.parse().unwrap())
}

fn dst() -> OriginalDst {
    OriginalDst(DST.parse().unwrap())
}

fn scrape(telemetry: &Telemetry) -> String {
    let mut text = String::new();
    telemetry.write(&mut text);
    text
}

/// The sum of a metric's samples that have all these labels.
fn count(text: &str, name: &str, labels: &[&str]) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
