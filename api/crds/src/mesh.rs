//! `MeshPolicy`: what holds for the mesh, a namespace or some workloads.

#![expect(unreachable_pub, reason = "KubeSchema repeats the struct inside of a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::Selector;
use crate::status::ResourceStatus;

/// What holds for the whole mesh (in namespace weft-system, without selector), for its namespace, or for the workloads
/// that it selects. The most specific wins; it may loosen a wider one only where that one is overridable.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "MeshPolicy",
    namespaced,
    shortname = "meshpol",
    category = "weft",
    printcolumn(json_path = ".status.accepted", name = "Accepted", type_ = "boolean"),
    printcolumn(json_path = ".status.proxies", name = "Proxies", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    status = "ResourceStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[x_kube(validation = Rule::new("!has(self.selector) || !(has(self.egress) || has(self.telemetry) || has(self.networks))")
    .message("egress, telemetry and networks hold for the whole mesh: not together with a selector"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshPolicySpec {
    /// Workloads of the policy's namespace, by label. Without it, the namespace or the whole mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Whether inbound plaintext is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// What happens where no ALLOW policy selects a port; Allow by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_authorization: Option<DefaultAuthorization>,
    /// Whether a more specific policy may loosen what this one says; false by default.
    #[serde(default)]
    pub overridable: bool,
    /// Protocols of workload ports of which neither Service nor Workload declare one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub protocols: Vec<PortProtocol>,
    /// What may leave the mesh. Only for the whole mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What is told about requests. Only for the whole mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// Networks of the cluster, in CIDR notation; added to those of the control plane's --networks. Only for the whole mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub networks: Vec<String>,
}

/// Whether inbound plaintext is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// Of all ports that are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
    /// Ports with a mode of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PortMtls>,
}

/// Whether plaintext is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Mesh TLS and plaintext.
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// Mode of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMtls {
    /// Port of the workload.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Whether plaintext is taken there.
    pub mode: MtlsMode,
}

/// What happens where no ALLOW policy selects a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DefaultAuthorization {
    /// Everybody may.
    Allow,
    /// Only peers that proved an identity may.
    Authenticated,
    /// Nobody may.
    Deny,
}

/// Protocol of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortProtocol {
    /// Port of the workload.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP/1, or HTTP/2 by prior knowledge.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Bytes that are not looked into; protocols in which the server speaks first.
    Opaque,
}

/// What may leave the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Egress {
    /// Everything.
    Allow,
    /// Only what the mesh knows.
    MeshOnly,
}

/// What is told about requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    /// Whether each proxy writes a JSON line per request to its standard output.
    #[serde(default)]
    pub access_log: bool,
    /// Where spans go, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// Where spans go, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Collector, OTLP over gRPC: `http://host:port`.
    pub otlp_endpoint: String,
    /// Of requests that do not come with a decision, how many begin a trace, per million.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub sample_per_million: u32,
}
