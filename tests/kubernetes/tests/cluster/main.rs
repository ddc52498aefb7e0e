//! Weft on a real Kubernetes. Each test has namespaces of its own; what they share is the mesh.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

mod inject;
mod policy;
mod probes;
mod traffic;
