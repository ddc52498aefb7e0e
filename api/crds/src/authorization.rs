//! `AuthorizationPolicy`: who may call what.

#![expect(unreachable_pub, reason = "KubeSchema repeats the struct inside of a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{Selector, TargetRef};
use crate::status::ResourceStatus;

/// Who may call the workloads that it selects. Any DENY that matches denies; where an ALLOW selects a port, only what
/// some ALLOW matches is let in.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    namespaced,
    shortname = "authz",
    category = "weft",
    printcolumn(json_path = ".status.accepted", name = "Accepted", type_ = "boolean"),
    printcolumn(json_path = ".status.proxies", name = "Proxies", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    status = "ResourceStatus",
    derive = "PartialEq"
)]
#[x_kube(validation = Rule::new("!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0")
    .message("selector and targetRefs exclude each other"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Workloads of the policy's namespace, by label. Not together with targetRefs; without either, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Services of the policy's namespace: holds for the target ports of their workloads, however these are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// What a match does.
    pub action: AuthorizationAction,
    /// Alternatives; a request matches when one of them does. Without any nothing matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
}

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthorizationAction {
    /// Lets the request in, unless a Deny matches.
    Allow,
    /// Counts and logs; decides nothing.
    Audit,
    /// Refuses.
    Deny,
}

/// A peer of `from` asking for something of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Alternatives; without any, everybody, proven or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<Peer>,
    /// Alternatives; without any, everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<Operation>,
}

/// Who asks: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.identities) && size(self.identities) > 0, has(self.namespaces) && \
    size(self.namespaces) > 0, has(self.authenticated)].exists_one(given, given)")
    .message("exactly one of identities, namespaces and authenticated is expected"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Any of these identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Any identity of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Any peer that proved an identity. Only true is meaningful.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// What is asked for: everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Ports of the workload (a Service's target ports).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// HTTP methods, in capitals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// HTTP paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<Path>,
}

/// A path: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Path {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// Whole segments from the start: /a matches /a and /a/b, not /ab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}
