//! Sets the redirect of pods from outside of them, so that no container of a pod needs the right to change its network. One program in
//! two parts, told apart by whether the container runtime has called:
//!
//! - the *plugin* ([`plugin`]), last in the chain of the node's CNI configuration. It has no daemon and no API server to ask: the
//!   runtime hands it the pod's annotations, and one of them, which the injector wrote, says what to do. So pods start while the node's
//!   part is away or being upgraded, and those of others are never kept waiting by us.
//! - the *node's part* ([`app`]), a DaemonSet's process. It puts the program and the chain's entry in place and keeps them there, and
//!   sets the redirect of pods that were made before that ([`repair`]).
//!
//! Both set the rules of `weft-init`, in the pod's own network namespace, and read them back. That connections are caught is proven
//! inside of the pod, by a container without capabilities, before the proxy starts.

// A network namespace, entered and found.
mod namespace;
// The rules in it.
mod rules;

// What the container runtime calls.
pub mod plugin;

// The chain as text: in, out.
pub mod chain;
// The node's files.
mod host;
// Keeping them as they should be.
mod keep;
// Pods that were made before the plugin was there.
mod repair;
// Whether the installation is being removed.
mod farewell;

// What was typed, and what it means.
pub mod config;
// The wiring of the node's part.
pub mod app;
