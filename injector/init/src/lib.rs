//! Sets the redirect rules of a workload's network namespace, proves them, and removes them on request.
//!
//! The way of a run: `config` turns flags into [`Options`], `plan` turns those into a `Ruleset` (plain data),
//! `netlink` puts it into the kernel as one transaction, `prove` reads it back and catches a connection.
//! `render` writes the same data as text for people and for `nft -f`.
//!
//! It is not a library for packet filters: it knows exactly the matches that its own table needs, and it never touches
//! any other table. Callers are the `weft-init` program, the demo and the namespace tests; each acts on the network
//! namespace of the calling thread. Invariant: the kernel holds either the whole table of one run or the one before it.

mod annotation;
mod config;
mod error;
mod netlink;
mod options;
mod plan;
mod prove;
mod ready;
mod render;
mod run;

pub use annotation::AnnotationError;
pub use error::{InitError, told};
pub use options::Options;
pub use prove::{Evidence, Proof, ProofError};
pub use run::run;

use netlink::Held;
use plan::Family;

/// Puts the redirect rules in force, replacing those of an earlier run in the same transaction.
///
/// # Errors
/// Whatever the kernel refused, by operation; nothing has changed then.
pub fn apply(options: &Options) -> Result<(), InitError> {
    let refused = match netlink::replace(&plan::plan(options, Family::Inet)) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // Tables of family inet need a kernel with IPv6. Without one there is no IPv6 traffic that could pass us by.
    if refused.is_unsupported() && !kernel_has_ipv6() {
        return netlink::replace(&plan::plan(options, Family::Ipv4));
    }
    Err(refused)
}

/// Proves that the rules of these options are in force: reads the whole table back, then catches connections of its own
/// in OUTPUT, one per address family that has a route.
///
/// # Errors
/// [`InitError::Unproven`] says what differs or what was not caught; the others say why the kernel could not be asked.
pub fn prove(options: &Options) -> Result<Proof, InitError> {
    let (family, held) = read()?;
    prove::prove(options, family, held.as_ref())
}

/// Proves only by reading back that the kernel holds the rules of these options: what can be told of a namespace whose
/// interfaces are not all up yet.
///
/// # Errors
/// As for [`prove()`].
pub fn compare(options: &Options) -> Result<(), InitError> {
    let (family, held) = read()?;
    prove::compare(options, family, held.as_ref())
}

/// Proves only by connections that rules are in force, which takes no capability: the kernel shows its rules to nobody
/// without. As the table is put in force as a whole, a connection that is caught speaks for all of it.
///
/// # Errors
/// As for [`prove()`].
pub fn prove_capture(options: &Options) -> Result<Proof, InitError> {
    prove::capture(options, if kernel_has_ipv6() { Family::Inet } else { Family::Ipv4 })
}

/// The table that the kernel holds, and the family that it is, or should be, of.
fn read() -> Result<(Family, Option<Held>), InitError> {
    match netlink::read(Family::Inet) {
        Ok(Some(held)) => Ok((Family::Inet, Some(held))),
        Err(error) if !error.is_unsupported() || kernel_has_ipv6() => Err(error),
        Ok(None) if kernel_has_ipv6() => Ok((Family::Inet, None)),
        Ok(None) | Err(_) => Ok((Family::Ipv4, netlink::read(Family::Ipv4)?)),
    }
}

/// Removes the rules. That there are none is no error.
///
/// # Errors
/// Whatever the kernel refused.
pub fn remove() -> Result<(), InitError> {
    match netlink::remove(Family::Inet) {
        Err(error) if !error.is_unsupported() || kernel_has_ipv6() => return Err(error),
        Ok(()) if kernel_has_ipv6() => return Ok(()),
        Ok(()) | Err(_) => {}
    }
    netlink::remove(Family::Ipv4)
}

/// The ruleset as text: what [`apply`] does, in the syntax of `nft -f`.
pub fn render(options: &Options) -> String {
    plan::plan(options, Family::Inet).to_string()
}

/// Whether anything speaks for IPv6 in this kernel. A sandbox may hide the sockets from us and not from the
/// application, so one trace is enough: falling back to IPv4 alone must never leave a way around the proxy.
fn kernel_has_ipv6() -> bool {
    use socket2::{Domain, Socket, Type};
    // Not /proc/net, which is the namespace of the process' first thread.
    ["/proc/thread-self/net/if_inet6", "/proc/sys/net/ipv6"].iter().any(|path| std::path::Path::new(path).exists())
        || Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}
