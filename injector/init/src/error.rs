//! What can go wrong, with the facts an operator needs. `run` maps each to an exit code.

use std::error::Error;
use std::io;

use crate::prove::ProofError;

/// Why the rules are not in force, or not proven to be.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The kernel has no such part, or a sandbox hides it.
    #[error(
        "this kernel cannot {operation}: it needs {needs} (load the module on the node; a sandboxed kernel such as \
         gVisor has none: give the pod another runtime class)"
    )]
    KernelLacks {
        /// What was tried.
        operation: String,
        /// Module and kernel option.
        needs: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer does not parse.
    #[error("the kernel's answer is not understood: {0}")]
    Malformed(&'static str),
    /// We may not change the packet filter.
    #[error(
        "no permission to {operation}: this needs CAP_NET_ADMIN in the user namespace that owns the network namespace \
         (in a pod: securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NoPermission {
        /// What was tried.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else was to set the rules.
    #[error(
        "capture is not proven, and this container may not set the rules itself: that is for the CNI plugin weft-cni. Is its \
         DaemonSet ready on this node? (weft check)"
    )]
    NotSet(#[source] ProofError),
    /// The proxy was waited for.
    #[error("the proxy is not ready after {seconds} s: {said}")]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// What it said last, or why it did not.
        said: String,
    },
    /// The kernel refused for another reason.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// What was tried.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The rules are not in force as they should be.
    #[error("capture is not proven")]
    Unproven(#[from] ProofError),
}

impl InitError {
    /// Sorts the kernel's answer to an operation; `needs` is the part of the kernel that the operation depends on.
    pub(crate) fn refused(operation: String, needs: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoPermission { operation, source },
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
                Self::KernelLacks { operation, needs, source }
            }
            _ => Self::Refused { operation, source },
        }
    }

    /// Whether the kernel lacks a part: the one error that a plainer ruleset may get around.
    pub(crate) const fn is_unsupported(&self) -> bool {
        matches!(self, Self::KernelLacks { .. })
    }
}

/// An error and each of its causes after a colon, on one line.
pub fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
