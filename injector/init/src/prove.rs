//! Proves that capture works, as far as it can be proven from inside (semantics.md 6): the whole table is read back and
//! compared with the plan, and OUTPUT must turn a connection of ours to where the proxy will listen.
//! PREROUTING sees only what comes from outside, so for it the comparison is the proof.

mod output;
mod target;

use std::fmt;
use std::io;
use std::net::IpAddr;

use weft_model::OriginalDst;

use crate::error::InitError;
use crate::netlink::Held;
use crate::options::Options;
use crate::plan::{Family, plan};

/// What was proven, by address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// About IPv4.
    pub v4: Evidence,
    /// About IPv6.
    pub v6: Evidence,
}

/// How far capture in OUTPUT is proven for one address family. The rules themselves were compared in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Somebody, presumably the proxy, already listens on the outbound port; a connection to an address that nobody
    /// has was answered.
    Answered(OriginalDst),
    /// A connection there arrived at the outbound port, with this original destination.
    Caught(OriginalDst),
    /// All that could be tried is in the skipped networks.
    Skipped,
    /// The namespace has no route in this family: nothing can leave.
    Unroutable,
}

/// Why capture is not proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The connection did not arrive at the outbound port.
    #[error(
        "a connection to {target} was not turned to port {port}: another packet filter decides before ours, or the \
         kernel does not translate (sandboxed kernels do not)"
    )]
    Escaped {
        /// Where it went.
        target: OriginalDst,
        /// The outbound port.
        port: u16,
        /// How it ended.
        source: io::Error,
    },
    /// Whatever is captured goes through `lo`.
    #[error("the interface lo is down, through which captured connections go: bring it up first")]
    LoopbackDown,
    /// Capturing would cut this family's connections.
    #[error(
        "nothing can listen on {address} port {port}, where connections are turned to: leave this address \
         family on the interface lo"
    )]
    NoLoopback {
        /// 127.0.0.1 or `::1`.
        address: IpAddr,
        /// The outbound port.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There was no connection to try, in neither family.
    #[error(
        "no connection could be tried: the namespace has no route in either family, or all that it reaches is \
         skipped; give it an address first, or use --no-prove"
    )]
    NothingToTry,
    /// Our own sockets pass.
    #[error("this process runs as user {uid}, whose connections are not captured: prove as another user")]
    OwnUser {
        /// The proxy's user, who is also ours.
        uid: u32,
    },
    /// The kernel holds other rules.
    #[error("the rules in the kernel are not those of these options: {difference}")]
    RulesDiffer {
        /// The first difference.
        difference: String,
    },
    /// A socket call failed on the way.
    #[error("cannot {attempt} to prove capture")]
    Socket {
        /// What was tried.
        attempt: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It arrived, and the kernel names another destination.
    #[error("a connection to {target} arrived with the original destination {named}")]
    WrongDestination {
        /// Where it went.
        target: OriginalDst,
        /// What the kernel says.
        named: OriginalDst,
    },
}

/// Compares what the kernel holds, then tries a connection in each family.
pub(crate) fn prove(options: &Options, family: Family, held: Option<&Held>) -> Result<Proof, InitError> {
    compare(options, family, held)?;
    capture(options, family)
}

/// Compares what the kernel holds with what these options ask for.
pub(crate) fn compare(options: &Options, family: Family, held: Option<&Held>) -> Result<(), InitError> {
    let difference = match held {
        None => Some(format!("there is no table {family} {}", crate::plan::TABLE)),
        Some(held) => held.difference(&Held::expected(&plan(options, family))).map(|found| found.to_string()),
    };
    difference.map_or(Ok(()), |difference| Err(ProofError::RulesDiffer { difference }.into()))
}

/// Tries a connection in each family.
pub(crate) fn capture(options: &Options, family: Family) -> Result<Proof, InitError> {
    let uid = nix::unistd::geteuid().as_raw();
    if options.proxy_uid == Some(uid) {
        return Err(ProofError::OwnUser { uid }.into());
    }
    if !target::loopback_is_up()? {
        return Err(ProofError::LoopbackDown.into());
    }
    let v4 = output::prove(options, output::Loopback::V4)?;
    let v6 = match family {
        Family::Inet => output::prove(options, output::Loopback::V6)?,
        Family::Ipv4 => Evidence::Unroutable,
    };
    let tried = |evidence| matches!(evidence, Evidence::Answered(_) | Evidence::Caught(_));
    if tried(v4) || tried(v6) { Ok(Proof { v4, v6 }) } else { Err(ProofError::NothingToTry.into()) }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv4: {}; IPv6: {}", self.v4, self.v6)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(target) => {
                write!(f, "a connection to {target} was answered by who already has the outbound port")
            }
            Self::Caught(target) => write!(f, "a connection to {target} was caught"),
            Self::Skipped => f.write_str("not tried, all that is routed is skipped"),
            Self::Unroutable => f.write_str("not tried, there is no route"),
        }
    }
}
