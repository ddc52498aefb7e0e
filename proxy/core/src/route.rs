//! Where a request goes: routes, compiled when a snapshot is built and matched per request.

// HTTPRoutes attached to a service port.
pub mod http;
