//! The vocabulary of Weft, shared by every process: what an address, an identity, a service, an endpoint, a route and
//! a policy *are*. Data and parsing only: no IO, no clock, no runtime. It is its own crate so that Cargo can forbid
//! tokio, hyper and kube to all who decide with these words.

// Socket addresses by the role they play.
pub mod addr;
// Endpoints: where a service's traffic may go.
pub mod endpoint;
// SPIFFE identities and trust domains.
pub mod identity;
// Names that the parts of Weft agree on inside of a cluster.
pub mod kubernetes;
// Ports as people write them.
pub mod ports;
// What the kubelet asks for by way of the proxy.
pub mod probes;
// Services and the protocols their ports speak.
pub mod service;
// Which versions of Weft work together.
pub mod version;

// Authorization and traffic policy.
pub mod policy;
// Routes attached to a service: matches, filters, backends, timeouts, retries.
pub mod route;

// How much of it.
pub mod bounds;
// What one discovery answer may contain, and the keys it is asked by.
pub mod resources;

pub use addr::{ClientAddr, EndpointAddr, OriginalDst};
pub use endpoint::{EndpointSpec, Health, WorkloadName};
pub use identity::{SpiffeId, TrustDomain};
pub use policy::PolicyId;
pub use ports::PortRange;
pub use service::{AppProtocol, ServiceKey};
