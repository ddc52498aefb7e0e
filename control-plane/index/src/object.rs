//! What goes in.

use std::fmt;
use std::sync::Arc;

use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_crds::{AuthorizationPolicy, MeshPolicy, TrafficPolicy, Workload};
use weft_model::WorkloadName;

/// A resource of one of the kinds that are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// Who may call what.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// Addresses of a Service that were written down by hand or by another controller.
    EndpointSlice(Box<EndpointSlice>),
    /// Routes of gRPC methods attached to Services.
    GrpcRoute(Box<GrpcRoute>),
    /// Routes attached to Services.
    HttpRoute(Box<HttpRoute>),
    /// What holds for the mesh, a namespace or some workloads.
    MeshPolicy(Box<MeshPolicy>),
    /// Where Pods run, of which only the labels are read.
    Node(Box<Node>),
    /// A workload that Kubernetes runs.
    Pod(Box<Pod>),
    /// A name and an address for endpoints.
    Service(Box<Service>),
    /// Balancing, ejection, retries.
    TrafficPolicy(Box<TrafficPolicy>),
    /// An endpoint.
    Workload(Box<Workload>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::MeshPolicy(_) => Kind::MeshPolicy,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::Workload(_) => Kind::Workload,
        }
    }

    /// Its key. A resource without a namespace is in `default`.
    pub fn key(&self) -> ObjectKey {
        let meta = self.meta();
        let namespace = meta.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("default");
        ObjectKey::new(self.kind(), namespace, meta.name.as_deref().unwrap_or_default())
    }

    /// Which of its versions it is, as Kubernetes counts them; `None` where nobody counts.
    pub fn generation(&self) -> Option<i64> {
        self.meta().generation
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::GrpcRoute(o) => &o.metadata,
            Self::HttpRoute(o) => &o.metadata,
            Self::MeshPolicy(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::TrafficPolicy(o) => &o.metadata,
            Self::Workload(o) => &o.metadata,
        }
    }
}

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `weft.dev/v1alpha1`.
    AuthorizationPolicy,
    /// `discovery.k8s.io/v1`.
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1`.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1`.
    HttpRoute,
    /// `weft.dev/v1alpha1`.
    MeshPolicy,
    /// `v1`.
    Node,
    /// `v1`.
    Pod,
    /// `v1`.
    Service,
    /// `weft.dev/v1alpha1`.
    TrafficPolicy,
    /// `weft.dev/v1alpha1`.
    Workload,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::AuthorizationPolicy,
        Self::EndpointSlice,
        Self::GrpcRoute,
        Self::HttpRoute,
        Self::MeshPolicy,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::TrafficPolicy,
        Self::Workload,
    ];

    /// As `kind` says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::EndpointSlice => "EndpointSlice",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::MeshPolicy => "MeshPolicy",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::Workload => "Workload",
        }
    }

    /// As `apiVersion` says it.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy | Self::MeshPolicy | Self::TrafficPolicy | Self::Workload => "weft.dev/v1alpha1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::GrpcRoute | Self::HttpRoute => "gateway.networking.k8s.io/v1",
            Self::Node | Self::Pod | Self::Service => "v1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a resource is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: Arc::from(namespace), name: Arc::from(name) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// A namespace and a name: what a resource is called among its kind. Ordered by namespace, so that the resources of one
/// namespace are one range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Name {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }

    pub(crate) fn of_workload(workload: &WorkloadName) -> Self {
        Self { namespace: Arc::clone(&workload.namespace), name: Arc::clone(&workload.name) }
    }

    pub(crate) fn of(key: &ObjectKey) -> Self {
        Self { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
