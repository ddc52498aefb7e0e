//! Weft on a real Kubernetes. Each test has namespaces of its own; what they share is the mesh.

mod inject;
mod policy;
mod probes;
mod traffic;
