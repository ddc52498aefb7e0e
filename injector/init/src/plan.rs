//! From options to the ruleset, as plain data. Decides what is captured; knows neither text nor netlink.
//!
//! The conditions under which a connection is *not* captured stand once, in `skip_outbound` and `skip_inbound`. The nat
//! chains ask them for the first packet of a connection, the state chains for a packet that conntrack calls invalid:
//! such a packet is not translated back, so it would reach a socket that never saw the connection (which answers with a
//! reset), or leave for the network in clear. Those of captured connections are dropped.

use std::num::{NonZeroU16, NonZeroU32};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_model::PortRange;

use crate::options::Options;

/// The name of our table, in whichever family.
pub(crate) const TABLE: &str = "weft";

/// Just before dstnat (-100), so that a redirect of ours comes before Docker's, say (semantics.md 1).
const PRIORITY_NAT: i32 = -101;
/// The priority called mangle: after conntrack has classified a packet (-200), before any translation.
const PRIORITY_STATE: i32 = -150;

/// RFC 3927.
const LINK_LOCAL_V4: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16);
/// RFC 4291, 2.5.6.
const LINK_LOCAL_V6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// One table with its chains, in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) family: Family,
    pub(crate) chains: Vec<Chain>,
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// For kernels without IPv6.
    Ipv4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// Where packets enter; none for a chain that others jump to.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// A chain that the kernel itself calls; what no rule decides is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kind: Kind,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Filter,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Output,
    Prerouting,
}

/// All matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Conntrack knows no connection that this packet fits.
    Invalid,
    /// Came in through `lo`.
    InputLoopback,
    Network(Side, IpNet),
    /// The destination is not an address of this namespace.
    NotLocal,
    /// Goes out through `lo`.
    OutputLoopback,
    /// TCP, and its port is one of these.
    Port(Side, PortRange),
    SocketMark(NonZeroU32),
    SocketUser(u32),
    Tcp,
}

/// Which end of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Destination,
    Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ends this base chain, also from a chain that was jumped to.
    Accept,
    Drop,
    Jump(&'static str),
    /// To this port of this namespace.
    Redirect(NonZeroU16),
}

impl Family {
    fn sees(self, network: &IpNet) -> bool {
        match self {
            Self::Inet => true,
            Self::Ipv4 => matches!(network, IpNet::V4(_)),
        }
    }
}

/// What is to be in force for these options.
pub(crate) fn plan(options: &Options, family: Family) -> Ruleset {
    let nat = |hook| Some(Base { kind: Kind::Nat, hook, priority: PRIORITY_NAT });
    let state = |hook| Some(Base { kind: Kind::Filter, hook, priority: PRIORITY_STATE });
    let mut chains = vec![
        Chain { name: "skip_outbound", base: None, rules: skip_outbound(options) },
        Chain { name: "skip_inbound", base: None, rules: skip_inbound(options) },
        Chain { name: "invalid_outbound", base: None, rules: invalid_outbound(options) },
        Chain { name: "invalid_inbound", base: None, rules: invalid_inbound(options) },
        Chain { name: "output", base: nat(Hook::Output), rules: capture("skip_outbound", options.outbound_port) },
        Chain { name: "prerouting", base: nat(Hook::Prerouting), rules: capture("skip_inbound", options.inbound_port) },
        Chain { name: "output_state", base: state(Hook::Output), rules: vec![judge_invalid("invalid_outbound")] },
        Chain {
            name: "prerouting_state",
            base: state(Hook::Prerouting),
            rules: vec![judge_invalid("invalid_inbound")],
        },
    ];
    let unseen = |rule: &Rule| rule.matches.iter().any(|m| matches!(m, Match::Network(_, net) if !family.sees(net)));
    for chain in &mut chains {
        chain.rules.retain(|rule| !unseen(rule));
    }
    Ruleset { family, chains }
}

/// What leaves and is not the application's, or not to be captured.
fn skip_outbound(options: &Options) -> Vec<Rule> {
    let mut rules = vec![accept(Match::OutputLoopback)];
    rules.extend(options.proxy_uid.map(|uid| accept(Match::SocketUser(uid))));
    rules.extend(options.proxy_mark.map(|mark| accept(Match::SocketMark(mark))));
    rules.extend(to_skipped(options, Side::Destination));
    rules
}

/// What arrives and is not for us, or not to be captured.
fn skip_inbound(options: &Options) -> Vec<Rule> {
    let mut rules = vec![accept(Match::InputLoopback), accept(Match::NotLocal)];
    rules.extend(link_local(Side::Destination));
    rules.extend(at_skipped(options, Side::Destination));
    rules
}

/// Of captured connections are: the proxy's answers (they bear its port), and what [`skip_outbound`] does not know,
/// except the answers of connections that came in past us.
fn invalid_outbound(options: &Options) -> Vec<Rule> {
    let answers =
        |port| Rule { matches: vec![Match::Port(Side::Source, PortRange::single(port))], verdict: Verdict::Drop };
    let mut rules = vec![answers(options.outbound_port), answers(options.inbound_port)];
    rules.extend(at_skipped(options, Side::Source));
    rules.push(Rule { matches: Vec::new(), verdict: Verdict::Jump("skip_outbound") });
    rules.push(Rule { matches: Vec::new(), verdict: Verdict::Drop });
    rules
}

/// Of captured connections is what [`skip_inbound`] does not know, except the answers to connections that left past us.
fn invalid_inbound(options: &Options) -> Vec<Rule> {
    let mut rules = to_skipped(options, Side::Source);
    rules.push(Rule { matches: Vec::new(), verdict: Verdict::Jump("skip_inbound") });
    rules.push(Rule { matches: Vec::new(), verdict: Verdict::Drop });
    rules
}

fn capture(skip: &'static str, port: NonZeroU16) -> Vec<Rule> {
    vec![
        Rule { matches: Vec::new(), verdict: Verdict::Jump(skip) },
        Rule { matches: vec![Match::Tcp], verdict: Verdict::Redirect(port) },
    ]
}

fn judge_invalid(chain: &'static str) -> Rule {
    Rule { matches: vec![Match::Tcp, Match::Invalid], verdict: Verdict::Jump(chain) }
}

/// Remote ends that are not captured, by where the remote end stands in the packet.
fn to_skipped(options: &Options, remote: Side) -> Vec<Rule> {
    let mut rules = link_local(remote);
    rules.extend(options.skip_outbound_ports.iter().map(|ports| accept(Match::Port(remote, *ports))));
    rules.extend(options.skip_outbound_cidrs.iter().map(|network| accept(Match::Network(remote, network.trunc()))));
    rules
}

/// Ports of ours that are not captured, by where our end stands in the packet.
fn at_skipped(options: &Options, ours: Side) -> Vec<Rule> {
    let admin = PortRange::single(options.admin_port);
    std::iter::once(&admin).chain(&options.skip_inbound_ports).map(|ports| accept(Match::Port(ours, *ports))).collect()
}

fn link_local(side: Side) -> Vec<Rule> {
    vec![accept(Match::Network(side, IpNet::V4(LINK_LOCAL_V4))), accept(Match::Network(side, IpNet::V6(LINK_LOCAL_V6)))]
}

fn accept(condition: Match) -> Rule {
    Rule { matches: vec![condition], verdict: Verdict::Accept }
}

#[cfg(test)]
mod tests;
