//! The decisions of the data plane: pure, synchronous, without IO, clock or randomness of its own.
//!
//! `now` and `roll` (a random number) are arguments. It is its own crate so that Cargo can forbid tokio, hyper, rustls
//! and h2 to everything that decides. Nothing here allocates on the way of a request; `tests/alloc.rs` holds it to that.

// In the order of a connection's way. Outer comments, not docs: with those, links in a module's own head would not resolve.

// Which protocol a connection speaks, from its first bytes.
pub mod detect;
// The ClientHello of a TLS connection: name and protocols.
pub mod client_hello;
// Learning that a server speaks first.
pub mod learn;
// The HTTP/1 codec.
pub mod h1;

// Which rule and which backend a request belongs to.
pub mod route;
// The one reading of a path.
pub mod path;
// Who may ask for what.
pub mod authz;
// How much at once, how much per second.
pub mod limit;

// The endpoints of a service port at one moment.
pub mod snapshot;
// An endpoint and what was seen of it.
pub mod endpoint;
// Which endpoint takes a request.
pub mod balance;
// Leaving out what fails.
pub(crate) mod breaker;

// What follows a failed attempt.
pub mod retry;
// Success or failure.
pub mod classify;

// Which trace a request belongs to.
pub mod trace_context;

// Time and chance as numbers.
pub(crate) mod ticks;
