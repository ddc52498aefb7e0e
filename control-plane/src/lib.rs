//! The control plane of Weft: discovery, policy, certificate authority.

// The wiring.
pub mod app;
// The certificate authority: signs workloads' certificates, rotates its issuer and its anchor.
pub mod ca;
// What was typed, and what it means.
pub mod config;
// Ways in for the fuzz targets, behind what they could never get past.
#[doc(hidden)]
pub mod fuzzing;
// The index on one side, the proxies on the other.
pub mod hub;
// What is done by Kubernetes' API, beside watching it.
pub mod kubernetes;
// The control plane's own figures.
pub mod metrics;
// What replicas tell each other.
mod replica;
// The gRPC services.
pub mod serve;
// Where resources come from.
pub mod source;
// Status files.
pub mod status;
// Join tokens: the first proof of a machine without Kubernetes.
pub mod token;
