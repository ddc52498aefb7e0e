//! Sends finished spans to a collector, over OTLP, from the control thread. A collector that is slow or away costs
//! spans, which are counted, never traffic.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use weft_model::{PolicyId, SpiffeId, WorkloadName};
use weft_proxy_core::classify::Class;

use super::super::access_log;
use super::super::facts::{Direction, HttpFacts, Protocol, class_of};
use super::super::metrics::{Event, Registry};
use super::{Finished, Place, Trace};

/// Spans that wait for the exporter.
pub(in crate::record) const SPANS_QUEUED_MAX: usize = 2_048;
/// Spans in one request to the collector; OpenTelemetry's default.
const BATCH_MAX: usize = 512;
/// How long a span waits for company.
const BATCH_DELAY: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Turns finished requests into spans and sends them; run it on the control thread.
#[derive(Debug)]
pub(crate) struct Exporter {
    finished: mpsc::Receiver<Finished>,
    endpoint: watch::Receiver<Option<Arc<str>>>,
    out: Out,
}

/// The sending half, apart from what it is fed by.
struct Out {
    metrics: Arc<Registry>,
    resource: Resource,
    scope: InstrumentationScope,
    collector: Option<SpanExporter>,
    batch: Vec<SpanData>,
}

impl Exporter {
    pub(in crate::record) fn new(
        finished: mpsc::Receiver<Finished>,
        endpoint: watch::Receiver<Option<Arc<str>>>,
        metrics: Arc<Registry>,
        workload: WorkloadName,
    ) -> Self {
        let WorkloadName { namespace, name } = workload;
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", name),
                KeyValue::new("service.namespace", namespace),
                KeyValue::new("telemetry.sdk.language", "rust"),
            ])
            .build();
        let scope = InstrumentationScope::builder("weft-proxy").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { finished, endpoint, out: Out { metrics, resource, scope, collector: None, batch: Vec::new() } }
    }

    /// Exports until all telemetry is gone. Our own connections carry `socket_mark`, so that the redirect leaves them
    /// alone.
    ///
    /// **Cancel:** loses the spans that wait.
    pub(crate) async fn run(mut self, socket_mark: Option<u32>) {
        let mut flush_at = Instant::now();
        let mut waiting = Vec::with_capacity(BATCH_MAX);
        self.connect(socket_mark);
        let mut is_told = true;
        loop {
            // No arm loses anything when another wins: all three are cancel-safe and the batch is ours.
            tokio::select! {
                changed = self.endpoint.changed(), if is_told => {
                    is_told = changed.is_ok();
                    self.connect(socket_mark);
                }
                received = self.finished.recv_many(&mut waiting, BATCH_MAX) => {
                    if received == 0 {
                        break;
                    }
                    if self.out.batch.is_empty() {
                        flush_at = Instant::now() + BATCH_DELAY;
                    }
                    let scope = &self.out.scope;
                    self.out.batch.extend(waiting.drain(..).filter_map(|finished| span(&finished, scope)));
                    if self.out.batch.len() >= BATCH_MAX {
                        self.out.flush().await;
                    }
                }
                () = tokio::time::sleep_until(flush_at), if !self.out.batch.is_empty() => self.out.flush().await,
            }
        }
        self.out.flush().await;
    }

    fn connect(&mut self, socket_mark: Option<u32>) {
        let endpoint = self.endpoint.borrow_and_update().clone();
        self.out.connect(endpoint.as_deref(), socket_mark);
    }
}

impl Out {
    fn connect(&mut self, endpoint: Option<&str>, socket_mark: Option<u32>) {
        self.collector = endpoint.and_then(|endpoint| {
            collector(endpoint, socket_mark, &self.resource)
                .inspect_err(|error| tracing::warn!(endpoint, error, "traces cannot be exported"))
                .ok()
        });
    }

    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len();
        let Some(collector) = self.collector.as_ref().filter(|_| spans > 0) else {
            return self.tell(Event::SpanDropped, spans);
        };
        match tokio::time::timeout(EXPORT_TIMEOUT, collector.export(batch)).await {
            Ok(Ok(())) => self.tell(Event::SpanExported, spans),
            Ok(Err(error)) => {
                tracing::debug!(%error, spans, "export of spans failed");
                self.tell(Event::SpanDropped, spans);
            }
            Err(_) => self.tell(Event::SpanDropped, spans),
        }
    }

    fn tell(&self, event: Event, spans: usize) {
        for _ in 0..spans {
            self.metrics.count(event);
        }
    }
}

fn collector(endpoint: &str, socket_mark: Option<u32>, resource: &Resource) -> Result<SpanExporter, String> {
    let uri: Uri = endpoint.parse().map_err(|error| format!("not a URI: {error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err("expected http://host:port".to_owned());
    }
    let channel: Channel =
        Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(Dial { socket_mark });
    let mut collector = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    collector.set_resource(resource);
    Ok(collector)
}

/// Connects to the collector with our mark.
#[derive(Clone, Copy)]
struct Dial {
    socket_mark: Option<u32>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mark = self.socket_mark;
        Box::pin(async move {
            // 4317 is OTLP's registered port.
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let mut failure = io::Error::new(io::ErrorKind::NotFound, "the collector's name has no address");
            for addr in tokio::net::lookup_host((host, uri.port_u16().unwrap_or(4317))).await? {
                match dial(addr, mark).await {
                    Ok(tcp) => return Ok(TokioIo::new(tcp)),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        })
    }
}

async fn dial(addr: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(addr).await
}

fn span(finished: &Finished, scope: &InstrumentationScope) -> Option<SpanData> {
    let facts = &finished.facts;
    let Trace::Recorded(Place { trace_id, span_id, parent_id, flags }) = facts.trace else { return None };
    let total = facts.finished?.saturating_duration_since(facts.started);
    let failed = class_of(facts.status, facts.grpc_status, facts.reason) == Class::Failure;
    let method = facts.request.as_ref().map_or("HTTP", |request| request.method.as_str());
    Some(SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(trace_id.to_be_bytes()),
            SpanId::from_bytes(span_id.to_be_bytes()),
            TraceFlags::new(flags),
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::from_bytes(parent_id.to_be_bytes()),
        parent_span_is_remote: parent_id != 0,
        span_kind: match facts.traffic.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        },
        // Low cardinality, as OpenTelemetry asks: the route where there is one, never the path.
        name: match &facts.traffic.route {
            Some(route) => format!("{method} {route}").into(),
            None => method.to_owned().into(),
        },
        start_time: finished.at.checked_sub(total).unwrap_or(finished.at),
        end_time: finished.at,
        attributes: attributes(facts),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match facts.reason {
            Some(reason) if failed => Status::error(reason.as_str()),
            None if failed => Status::error(""),
            Some(_) | None => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    })
}

/// OpenTelemetry's semantic conventions for HTTP spans, 1.37, and ours.
fn attributes(facts: &HttpFacts) -> Vec<KeyValue> {
    let traffic = &facts.traffic;
    let version = match traffic.protocol {
        Protocol::Http1 => "1.1",
        Protocol::Grpc | Protocol::Http2 | Protocol::Tcp => "2",
    };
    let mut told = vec![
        KeyValue::new("network.protocol.name", "http"),
        KeyValue::new("network.protocol.version", version),
        KeyValue::new("client.address", facts.client.ip().to_string()),
        KeyValue::new("client.port", i64::from(facts.client.port())),
        KeyValue::new("http.request.body.size", whole(facts.request_bytes)),
        KeyValue::new("http.response.body.size", whole(facts.response_bytes)),
        KeyValue::new("weft.direction", traffic.direction.as_str()),
        KeyValue::new("weft.mtls", traffic.mtls.as_str()),
    ];
    let mut text = |key: &'static str, value: Option<String>| {
        told.extend(value.map(|value| KeyValue::new(key, value)));
    };
    text("network.peer.address", facts.endpoint.map(|endpoint| endpoint.ip().to_string()));
    text("weft.peer", traffic.peer.as_ref().map(SpiffeId::to_string));
    text("weft.source", traffic.source.as_ref().map(ToString::to_string));
    text("weft.destination", traffic.destination.as_ref().map(ToString::to_string));
    text("weft.service", traffic.service.as_ref().map(ToString::to_string));
    text("weft.route", traffic.route.as_ref().map(PolicyId::to_string));
    text("weft.policy", facts.policy.as_ref().map(PolicyId::to_string));
    text("weft.reason", facts.reason.map(|reason| reason.to_string()));
    text("error.type", error_type(facts));
    if let Some(request) = &facts.request {
        text("http.request.method", Some(request.method.to_string()));
        text("url.path", request.path.as_ref().map(access_log::path));
        text("server.address", access_log::host(request));
        text("user_agent.original", request.user_agent.as_ref().map(access_log::header));
    }
    let mut number = |key: &'static str, value: Option<i64>| {
        told.extend(value.map(|value| KeyValue::new(key, value)));
    };
    number("http.response.status_code", facts.status.map(i64::from));
    number("rpc.grpc.status_code", facts.grpc_status.map(i64::from));
    number("http.request.resend_count", (facts.retries > 0).then(|| i64::from(facts.retries)));
    told
}

/// Set on failures only: the reason where Weft has one, else the status.
fn error_type(facts: &HttpFacts) -> Option<String> {
    if class_of(facts.status, facts.grpc_status, facts.reason) == Class::Success {
        return None;
    }
    let reason = facts.reason.map(|reason| reason.to_string());
    reason.or_else(|| facts.grpc_status.or(facts.status).map(|status| status.to_string()))
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("batch", &self.batch.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
