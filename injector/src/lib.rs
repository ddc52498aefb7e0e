//! Adds Weft's proxy to pods. [`patch::inject`] is the whole of the decision: pure, and the same for the webhook and for files on
//! disk. The rest brings pods to it.

// What users write onto a pod, and what it means.
pub mod annotations;
// What is added to a pod.
pub mod patch;

// The API server's question, and the answer.
mod webhook;
// What is counted.
mod metrics;
// The webhook's own certificate.
mod certificate;
// The way in, over TLS.
mod serve;

// What was typed, and what it means.
pub mod config;
// The wiring.
pub mod app;

// Ways in for the benchmarks.
pub mod benching;
