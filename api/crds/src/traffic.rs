//! `TrafficPolicy`: how clients treat the endpoints of a service.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::reference::TargetRef;
use crate::status::ResourceStatus;

/// How clients balance, eject, retry and time out towards a Service. What is not said keeps Weft's default.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    shortname = "trafficpol",
    category = "weft",
    printcolumn(json_path = ".status.accepted", name = "Accepted", type_ = "boolean"),
    printcolumn(json_path = ".status.proxies", name = "Proxies", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    status = "ResourceStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// Services of the policy's namespace; sectionName is the name of a port. Of two policies for one port the older wins.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// When an endpoint that fails is left out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// How long connecting may take, TLS included; 1s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// What is tried again beyond that which provably was not processed. A rule of a route that says otherwise wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What retries may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// Deadlines. A rule of a route that says otherwise wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
}

/// Power of two choices over a peak-sensitive moving average of latency.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Balancing {
    /// What an endpoint without measurements is taken to need; 30ms by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_rtt: Option<Duration>,
    /// How long a peak is remembered; 10s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Duration>,
}

/// Outlier ejection by consecutive failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ejection {
    /// Whether endpoints are ejected at all; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Failures in a row that eject; 7 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub consecutive_failures: Option<u32>,
    /// Length of the first ejection; it doubles each time in a row. 1s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// Length of the longest ejection; 60s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
    /// Share of the endpoints that may be out at once, in percent; 50 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_ejected_percent: Option<u8>,
    /// With fewer healthy than this, in percent, ejections are ignored; 50 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub panic_percent: Option<u8>,
}

/// What is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// HTTP status codes that are tried again, 400 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// gRPC status codes that are tried again, 1 to 16. Every gRPC call is a POST, so listing any means nonIdempotent too
    /// (beside codes it must be written out); a connection that fails in flight is then tried again only where 14
    /// (UNAVAILABLE) is listed, unless onReset says otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grpc_codes: Vec<u16>,
    /// Whether a connection that fails in flight is tried again; true by default, with grpcCodes only where these list 14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_reset: Option<bool>,
    /// How many further attempts at most; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// Shortest pause before a further attempt; 25ms by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
    /// Whether methods that are not idempotent are tried again too; false by default, true where grpcCodes are listed.
    #[serde(default)]
    pub non_idempotent: bool,
}

/// What retries may cost: a share of the requests plus a floor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries per hundred requests; 20 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u8>,
    /// Retries per second that are always allowed; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_per_second: Option<u32>,
}

/// Deadlines; 0s means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, over all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// From sending one attempt to the end of its response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}
