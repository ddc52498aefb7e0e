//! HTTP through one proxy, or two in sequence, between clients and servers that follow a script.

#![expect(clippy::large_futures, reason = "a test's whole script is one future, made once")]

mod dying;
mod filters;
mod http1;
mod http2;
mod intact;
mod kept;
mod probes;
mod reasons;
mod retry;
mod stalled;
mod world;
