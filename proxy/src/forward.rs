//! Carries what was admitted: requests one by one, or bytes as they come.

// Requests, in both versions of HTTP.
pub(crate) mod http;
// Connections that are not looked into.
pub(crate) mod opaque;
// The copying itself.
pub(crate) mod tcp;
