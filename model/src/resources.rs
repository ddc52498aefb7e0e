//! What one discovery answer may contain, and the keys it is asked by. Everything here was validated: a value of these
//! types is ready to be built into a snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::endpoint::{EndpointSpec, WorkloadName};
use crate::policy::{AuthzPolicy, BackendPolicy, DefaultAuthorization, MtlsMode, PolicyId, RetryBudget, RetryPolicy};
use crate::route::{HttpRoute, Timeouts};
use crate::service::{AppProtocol, ServiceKey};

/// What a proxy subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    /// What is behind an original destination. Answered with [`Destination`].
    Destination(SocketAddr),
    /// The endpoints of a service port. Answered with [`EndpointsDelta`].
    Endpoints(ServiceKey),
    /// The subscriber's own inbound configuration. Answered with [`InboundSpec`].
    Inbound,
    /// What holds for the whole mesh. Answered with [`MeshSpec`].
    Mesh,
    /// A service port's routes and policies. Answered with [`ServiceSpec`].
    Service(ServiceKey),
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(addr) => write!(f, "destination {addr}"),
            Self::Endpoints(key) => write!(f, "endpoints {key}"),
            Self::Inbound => f.write_str("inbound"),
            Self::Mesh => f.write_str("mesh"),
            Self::Service(key) => write!(f, "service {key}"),
        }
    }
}

/// One answer: a value under a key, at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// What it answers.
    pub key: ResourceKey,
    /// Grows with each change of this key within one control plane; acknowledged as it is.
    pub version: u64,
    /// The value.
    pub resource: Resource,
}

/// The value of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// See [`Destination`].
    Destination(Destination),
    /// See [`EndpointsDelta`].
    Endpoints(EndpointsDelta),
    /// See [`InboundSpec`].
    Inbound(InboundSpec),
    /// See [`MeshSpec`].
    Mesh(MeshSpec),
    /// See [`ServiceSpec`].
    Service(ServiceSpec),
}

/// What is behind an original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Inside the cluster's networks, and nothing that is known.
    NotFound,
    /// A Service's address, with a port that the Service does not have: refused, as kube-proxy does.
    PortNotFound,
    /// A Service's address and port.
    Service(ServiceKey),
    /// A workload's own address (a pod dialled directly, a headless service).
    Workload(WorkloadDestination),
}

/// A workload dialled by its own address: identity and policy apply, there is no balancing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadDestination {
    /// The one endpoint.
    pub endpoint: EndpointSpec,
    /// What the port is declared to speak.
    pub protocol: AppProtocol,
    /// The service whose port this is, where exactly one selects it; for telemetry.
    pub service: Option<ServiceKey>,
}

/// A service port as a client's proxy needs it: everything but its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Which service port.
    pub key: ServiceKey,
    /// What it is declared to speak.
    pub protocol: AppProtocol,
    /// `HTTPRoute`s attached to it; empty means "everything to the service itself".
    pub http_routes: Vec<HttpRoute>,
    /// Deadlines where no rule has its own.
    pub timeouts: Timeouts,
    /// Retries where no rule has its own.
    pub retry: Option<RetryPolicy>,
    /// What retries may cost.
    pub retry_budget: RetryBudget,
    /// Clients of one address keep one endpoint (`sessionAffinity: ClientIP`).
    pub client_ip_affinity: bool,
    /// The `TrafficPolicy` in force, where there is one.
    pub policy: Option<PolicyId>,
}

impl ServiceSpec {
    /// A service port of which nothing is said.
    pub fn plain(key: ServiceKey) -> Self {
        Self {
            key,
            protocol: AppProtocol::Undeclared,
            http_routes: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            retry_budget: RetryBudget::default(),
            client_ip_affinity: false,
            policy: None,
        }
    }
}

/// A change to the endpoints of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsDelta {
    /// Whether `upserted` is the whole set (first answer, resync) and what is not in it is gone.
    pub reset: bool,
    /// New or changed endpoints; an address stands here once.
    pub upserted: Vec<EndpointSpec>,
    /// Addresses that are gone.
    pub removed: Vec<SocketAddr>,
    /// Balancing and ejection.
    pub policy: BackendPolicy,
}

/// The subscriber's own inbound configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundSpec {
    /// Who we are.
    pub workload: WorkloadName,
    /// Ports about which something is known; a port stands here once.
    pub ports: Vec<InboundPort>,
    /// mTLS mode of all other ports.
    pub mtls: MtlsMode,
    /// What happens where no ALLOW selects the port.
    pub default_authorization: DefaultAuthorization,
    /// The `MeshPolicy` that says so, where one does; named in verdicts by default.
    pub default_policy: Option<PolicyId>,
    /// Policies that select this workload.
    pub authz: Vec<AuthzPolicy>,
    /// How far its end is.
    pub lifecycle: Lifecycle,
}

/// One port of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The port the application listens on.
    pub port: u16,
    /// What it is declared to speak.
    pub protocol: AppProtocol,
    /// Whether plaintext is taken.
    pub mtls: MtlsMode,
    /// The service whose target it is, where exactly one is; for telemetry.
    pub service: Option<ServiceKey>,
    /// Paths that the kubelet probes, who has no identity: open to all who read, and to who has none whatever the policy; exact.
    pub probe_paths: Vec<Arc<str>>,
    /// Paths that annotations of the pod name for scrapes: open to all who read, unless a DENY says otherwise; exact.
    pub scrape_paths: Vec<Arc<str>>,
}

/// Where a workload stands between start and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// Removal of its endpoints was acknowledged by every proxy that held them.
    Released,
    /// In service.
    #[default]
    Serving,
    /// Marked as terminating; some proxies may still send.
    Terminating,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSpec {
    /// Trust anchors, DER. Never empty.
    pub trust_anchors: Vec<Vec<u8>>,
    /// The cluster's networks: inside them unknown destinations are looked up.
    pub networks: Vec<IpNet>,
    /// What may leave the mesh.
    pub egress: EgressMode,
    /// What is told about requests.
    pub telemetry: TelemetrySpec,
}

/// What may leave the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EgressMode {
    /// Everything.
    #[default]
    Allow,
    /// Only what discovery knows.
    MeshOnly,
}

/// What is told about requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetrySpec {
    /// Whether a JSON line per request goes to stdout.
    pub access_log: bool,
    /// Requests without a sampled parent that begin a trace, per million.
    pub trace_per_million: u32,
    /// Where spans go (`http://host:port`, OTLP over gRPC). `None`: nowhere.
    pub otlp_endpoint: Option<Arc<str>>,
}
