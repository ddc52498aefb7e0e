//! `Workload`: an endpoint outside Kubernetes.

#![expect(unreachable_pub, reason = "KubeSchema repeats the struct inside of a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::ResourceStatus;

/// An endpoint outside Kubernetes. Services select it by its labels (`metadata.labels`), as they select a pod.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "Workload",
    namespaced,
    shortname = "wl",
    category = "weft",
    printcolumn(json_path = ".status.accepted", name = "Accepted", type_ = "boolean"),
    printcolumn(json_path = ".status.proxies", name = "Proxies", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    status = "ResourceStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// IP address at which the workload is reached. Outside of the ranges of pods, services and nodes.
    #[x_kube(validation = Rule::new("isIP(self)").message("an IP address is expected"))]
    #[schemars(length(max = 64))]
    pub address: String,
    /// Ports that are named or declared. Services may target any other port by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPort>,
    /// Service account whose identity the workload proves: `spiffe://<trust domain>/ns/<namespace>/sa/<this>`.
    #[serde(default = "default_service_account")]
    pub service_account: String,
    /// Unique id of this instance; a proxy that gives one in its Hello must give this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Whether a Weft proxy runs beside it. Without one, plaintext is spoken and no identity is expected.
    #[serde(default = "yes")]
    pub meshed: bool,
    /// Inbound ports that the proxy does not capture; no identity is expected there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_inbound_ports: Vec<u16>,
    /// Whether it takes traffic. Services with publishNotReadyAddresses ignore this.
    #[serde(default = "yes")]
    pub ready: bool,
    /// Mark it before stopping it: its endpoints leave every service and its proxy drains.
    #[serde(default)]
    pub terminating: bool,
    /// Share of traffic relative to the others of a service; at least 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: u32,
    /// Zone in which it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Health checks that stay open where everything else is denied by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
}

/// A port of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// Name by which a Service's targetPort may call it. A prefix such as `http-` declares its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port number.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// What it speaks, as appProtocol of a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// A health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Port that is probed.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Path that is probed, exactly.
    pub path: String,
}

fn default_service_account() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}
