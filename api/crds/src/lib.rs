//! Weft's own kinds, as Kubernetes sees them: group `weft.dev`, version `v1alpha1`. Data and its schema only; what the
//! fields *mean* together is decided in `weft-index`. It is its own crate because of kube's derive, which nothing on
//! the data path may depend on.
//!
//! Unknown fields are refused everywhere: a misspelt word in a policy must never be a silent no.

mod authorization;
mod duration;
mod mesh;
mod reference;
mod status;
mod traffic;
mod workload;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use authorization::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, Operation, Path, Peer,
};
pub use duration::{Duration, DurationError, parse_duration};
pub use mesh::{
    DefaultAuthorization, Egress, MeshPolicy, MeshPolicySpec, Mtls, MtlsMode, PortMtls, PortProtocol, Protocol,
    Telemetry, Tracing,
};
pub use reference::{Selector, TargetRef};
pub use status::{RefusedBy, ResourceStatus};
pub use traffic::{Balancing, Ejection, Retry, RetryBudget, Timeouts, TrafficPolicy, TrafficPolicySpec};
pub use workload::{Probe, Workload, WorkloadPort, WorkloadSpec};

/// The API group of every kind of this crate.
pub const GROUP: &str = "weft.dev";

/// The version of every kind of this crate.
pub const VERSION: &str = "v1alpha1";

/// The namespace whose policies hold for the whole mesh.
pub const SYSTEM_NAMESPACE: &str = "weft-system";

/// The definition of every kind, as Kubernetes is given it.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![AuthorizationPolicy::crd(), MeshPolicy::crd(), TrafficPolicy::crd(), Workload::crd()]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Kubernetes refuses a CRD whose schema says `additionalProperties: false` beside `properties`, and users read
    /// descriptions in `kubectl explain`.
    #[test]
    fn schemas_are_structural_and_every_field_is_described() {
        for crd in definitions() {
            assert_eq!(crd.spec.group, GROUP);
            let json = serde_json::to_value(&crd).unwrap();
            let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            check(schema, &crd.spec.names.kind);
        }
    }

    fn check(schema: &Value, path: &str) {
        assert_ne!(schema["additionalProperties"], Value::Bool(false), "{path}");
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                assert!(property["description"].is_string(), "{path} has no description");
                check(property, &path);
                check(&property["items"], &path);
            }
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let bad = serde_json::json!({"address": "10.0.0.1", "serviceAcount": "shop"});
        let error = serde_json::from_value::<WorkloadSpec>(bad).unwrap_err().to_string();
        assert!(error.contains("serviceAcount"), "{error}");
    }
}
