//! What is known of a request or connection: plain fields, each set by the chapter that learns it.

use std::hash::{Hash, Hasher};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use weft_model::{ClientAddr, EndpointAddr, OriginalDst, PolicyId, ServiceKey, SpiffeId, WorkloadName};
use weft_proxy_core::classify::Class;

use super::span::Trace;
use crate::error::{Blame, Reason};

/// Which way traffic goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
}

impl Direction {
    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// Whether it travels between proxies in mesh TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mtls {
    /// In the clear, or in the application's own TLS.
    No,
    /// With both identities verified.
    Yes,
}

impl Mtls {
    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
        }
    }
}

/// What a policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Let in.
    Allow,
    /// Noted; decides nothing.
    Audit,
    /// Refused.
    Deny,
}

impl Verdict {
    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// The `class` label: that of the response, or failure where the reason is neither the client's doing nor policy's.
/// What a client did wrong, or a policy refused, is no failure.
pub(super) fn class_of(status: Option<u16>, grpc_status: Option<u16>, reason: Option<Reason>) -> Class {
    let by_reason = reason.is_some_and(|reason| match reason.blame() {
        Blame::Client | Blame::Policy => false,
        Blame::Control | Blame::Upstream | Blame::Us => true,
    });
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    if by_reason { Class::Failure } else { Class::of(status, grpc_status) }
}

/// Who speaks to whom and how: what labels are made of. Two values are equal when their labels are.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Seen from our workload.
    pub(crate) direction: Direction,
    /// What the client speaks.
    pub(crate) protocol: Protocol,
    /// Whether the way between the proxies was mesh TLS.
    pub(crate) mtls: Mtls,
    /// The verified identity of the other side.
    pub(crate) peer: Option<SpiffeId>,
    /// Who asks.
    pub(crate) source: Option<WorkloadName>,
    /// The service that is asked; inbound only where exactly one selects the port (semantics 45).
    pub(crate) service: Option<ServiceKey>,
    /// Who answers.
    pub(crate) destination: Option<WorkloadName>,
    /// The route that matched.
    pub(crate) route: Option<PolicyId>,
}

/// The label where nothing is known.
const UNKNOWN: &str = "unknown";

impl Traffic {
    /// Traffic of which only the way is known.
    pub(crate) fn new(direction: Direction, protocol: Protocol) -> Self {
        Self {
            direction,
            protocol,
            mtls: Mtls::No,
            peer: None,
            source: None,
            service: None,
            destination: None,
            route: None,
        }
    }

    /// What stands in for traffic that no series is left for.
    pub(super) fn beyond(&self) -> Self {
        const OVERFLOW: &str = "overflow";
        let workload = WorkloadName::new(OVERFLOW, OVERFLOW);
        Self {
            source: Some(workload.clone()),
            service: Some(ServiceKey::new(OVERFLOW, OVERFLOW, 0)),
            destination: Some(workload),
            ..Self::new(self.direction, self.protocol)
        }
    }

    /// Name and value of each label, in the order they are written.
    pub(super) fn labels(&self) -> [(&'static str, &str); 9] {
        let service = self.service.as_ref();
        [
            ("direction", self.direction.as_str()),
            ("protocol", self.protocol.as_str()),
            ("mtls", self.mtls.as_str()),
            ("source_workload", self.source.as_ref().map_or(UNKNOWN, |source| &source.name)),
            ("source_namespace", self.namespace(self.source.as_ref(), Direction::Inbound)),
            ("destination_service", service.map_or(UNKNOWN, |service| &service.name)),
            (
                "destination_namespace",
                service.map_or_else(
                    || self.namespace(self.destination.as_ref(), Direction::Outbound),
                    |service| &service.namespace,
                ),
            ),
            ("destination_workload", self.destination.as_ref().map_or(UNKNOWN, |destination| &destination.name)),
            ("route", self.route.as_ref().map_or("", PolicyId::as_str)),
        ]
    }

    /// A workload's namespace, or that of its certificate where it is the peer.
    fn namespace<'a>(&'a self, workload: Option<&'a WorkloadName>, where_peer: Direction) -> &'a str {
        let of_peer = self.peer.as_ref().filter(|_| self.direction == where_peer).map(SpiffeId::namespace);
        workload.map(|workload| &*workload.namespace).or(of_peer).unwrap_or(UNKNOWN)
    }
}

impl PartialEq for Traffic {
    fn eq(&self, other: &Self) -> bool {
        self.labels() == other.labels()
    }
}

impl Eq for Traffic {}

impl Hash for Traffic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (_, value) in self.labels() {
            value.hash(state);
        }
    }
}

/// What is known of one request.
#[derive(Clone, Debug)]
pub(crate) struct HttpFacts {
    /// Who speaks to whom.
    pub(crate) traffic: Traffic,
    /// Who opened the connection.
    pub(crate) client: ClientAddr,
    /// Where the connection was going.
    pub(crate) dst: OriginalDst,
    /// Where the (last) attempt went.
    pub(crate) endpoint: Option<EndpointAddr>,
    /// The policy that decided; set by [`super::HttpRecord::judged`].
    pub(crate) policy: Option<PolicyId>,
    /// What it said.
    pub(crate) verdict: Option<Verdict>,
    /// The status that the client was sent.
    pub(crate) status: Option<u16>,
    /// The gRPC status that the client was sent.
    pub(crate) grpc_status: Option<u16>,
    /// Why Weft itself ended it, where it did.
    pub(crate) reason: Option<Reason>,
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// Bytes of the request's body.
    pub(crate) request_bytes: u64,
    /// Bytes of the response's body.
    pub(crate) response_bytes: u64,
    /// When the head was complete.
    pub(crate) started: Instant,
    /// When the response's first byte was sent; set by [`super::HttpRecord::first_byte`].
    pub(crate) first_byte: Option<Instant>,
    /// When it was over; set when it is written.
    pub(crate) finished: Option<Instant>,
    /// What the client asked for, where somebody will read it; never a label.
    pub(crate) request: Option<RequestFacts>,
    /// Its place in a trace.
    pub(crate) trace: Trace,
}

impl HttpFacts {
    pub(super) fn new(traffic: Traffic, client: ClientAddr, dst: OriginalDst, started: Instant) -> Self {
        Self {
            traffic,
            client,
            dst,
            endpoint: None,
            policy: None,
            verdict: None,
            status: None,
            grpc_status: None,
            reason: None,
            retries: 0,
            request_bytes: 0,
            response_bytes: 0,
            started,
            first_byte: None,
            finished: None,
            request: None,
            trace: Trace::None,
        }
    }
}

/// What a client asked for: for log and span only.
#[derive(Clone, Debug)]
pub(crate) struct RequestFacts {
    /// Its method.
    pub(crate) method: Method,
    /// Its path, with a query whose values are never told.
    pub(crate) path: Option<PathAndQuery>,
    /// Its `Host` header.
    pub(crate) host: Option<HeaderValue>,
    /// Its `:authority`, or that of an absolute target.
    pub(crate) authority: Option<Authority>,
    /// Its `User-Agent` header.
    pub(crate) user_agent: Option<HeaderValue>,
}

/// What is known of one opaque connection.
#[derive(Clone, Debug)]
pub(crate) struct TcpFacts {
    /// Who speaks to whom.
    pub(crate) traffic: Traffic,
    /// Who opened it.
    pub(crate) client: ClientAddr,
    /// Where it was going.
    pub(crate) dst: OriginalDst,
    /// Where it went.
    pub(crate) endpoint: Option<EndpointAddr>,
    /// The policy that decided; set by [`super::TcpRecord::judged`].
    pub(crate) policy: Option<PolicyId>,
    /// What it said.
    pub(crate) verdict: Option<Verdict>,
    /// Why Weft itself ended it, where it did.
    pub(crate) reason: Option<Reason>,
    /// Application bytes from client to server; set by [`super::TcpRecord::passed`].
    pub(crate) sent_bytes: u64,
    /// Application bytes from server to client; set by [`super::TcpRecord::passed`].
    pub(crate) received_bytes: u64,
    /// When it was accepted.
    pub(crate) started: Instant,
    /// When it was over; set when it is written.
    pub(crate) finished: Option<Instant>,
}

impl TcpFacts {
    pub(super) fn new(traffic: Traffic, client: ClientAddr, dst: OriginalDst, started: Instant) -> Self {
        Self {
            traffic,
            client,
            dst,
            endpoint: None,
            policy: None,
            verdict: None,
            reason: None,
            sent_bytes: 0,
            received_bytes: 0,
            started,
            finished: None,
        }
    }
}
