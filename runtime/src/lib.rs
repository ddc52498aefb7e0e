//! What each of Weft's processes needs once: snapshots, tasks, drain, clock, logs, signals and the admin server.
//!
//! It is its own crate because every binary uses it and none of it knows what a mesh is. It owns the places where a
//! process touches the world as a whole: here alone tasks are spawned, the wall clock is read and `arc_swap` is used.

// An HTTP server for people and Prometheus, on a thread that carries no traffic.
pub mod admin;
// The wall clock, injected.
pub mod clock;
// Two-phase shutdown as a value.
pub mod drain;
// Exit codes and last words.
pub mod exit;
// Snapshots: one writer publishes, many readers take.
pub mod live;
// Listening sockets.
pub mod net;
// SIGTERM and SIGINT.
pub mod signal;
// Named tasks that are counted and joined.
pub mod task;
// Logs: where they go, how they look, how much is said.
pub mod telemetry;

pub use live::Live;
