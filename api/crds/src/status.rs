//! What Weft says about a resource.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a resource is in force, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// Whether all of it was understood and holds.
    pub accepted: bool,
    /// What was not understood or does not hold, and why; each names its field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Proxies that run this version, of those that it concerns: `3/3 proxies`.
    #[serde(default)]
    pub proxies: String,
    /// Proxies that refused it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<RefusedBy>,
}

/// A proxy that refused a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedBy {
    /// The workload beside the proxy: `namespace/name`.
    pub workload: String,
    /// The field that was wrong, and how.
    pub reason: String,
}
