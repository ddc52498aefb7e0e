//! The data plane of Weft: one transparent proxy beside each workload.
//!
//! `README.md` beside this crate tells the life of a connection and of a request. The modules below stand in the order
//! of that story; none uses a later one, but the two stories use all, and `app` builds them.

// Comments, not docs: with those, links in a module's own head would not resolve.

// What was typed, and what it means.
pub mod config;

// The closed set of reasons for which Weft ends something itself.
pub mod error;

// Chapter 7: metrics, span and access log, written once. First here, because every chapter fills the record.
mod record;

// The byte streams of the data plane.
mod io;

// HTTP/1 messages over a connection.
mod h1;

// What outlives a restart: credentials and snapshots, in a directory in memory, believed only if whole and ours.
mod state;

// The way to the control plane.
mod control;

// Our certificate: asked for, renewed, published.
mod identity;

// What is known of the mesh: the control stream and the snapshots that workers read.
mod discovery;

// Chapter 1: takes connections from the kernel and learns where they were going.
mod accept;

// What is known of a destination before a byte is read.
mod resolve;

// Chapter 2: what a connection speaks.
mod detect;

// Chapter 3: which backend it is for, and by which rule.
mod route;

// Chapter 4: whether it may.
mod admit;

// Chapter 5: which endpoint takes it.
mod balance;

// Chapter 6: a connection to that endpoint.
mod connect;

// Carries what was admitted.
mod forward;

// What becomes of a connection that the application opened.
mod outbound;

// What becomes of a connection to the application.
mod inbound;

// What the kubelet asks of the application by way of the proxy: beside the story, on the admin thread.
mod probe;

// The wiring: builds all parts and joins them.
pub mod app;

// Ways in for the fuzz targets.
pub mod fuzzing;

// Ways in for the benchmarks.
pub mod benching;
