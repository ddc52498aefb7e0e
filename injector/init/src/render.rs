//! From the ruleset to text that people read and `nft -f` accepts. The text is one transaction, as ours is.

use std::fmt::{self, Display, Formatter};

use ipnet::IpNet;

use crate::plan::{Base, Chain, Family, Hook, Kind, Match, Rule, Ruleset, Side, TABLE, Verdict};

impl Display for Ruleset {
    /// The first two lines make it replace what is there, whether or not anything is.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = self.family;
        writeln!(f, "table {family} {TABLE} {{}}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = &self.base {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
        })
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { kind, hook, priority } = self;
        write!(f, "type {kind} hook {hook} priority {priority}; policy accept;")
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Output => "output",
            Self::Prerouting => "prerouting",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        match self.verdict {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("ct state invalid"),
            Self::InputLoopback => f.write_str("iif \"lo\""),
            Self::Network(side, network) => write_network(f, *side, network),
            Self::NotLocal => f.write_str("fib daddr type != local"),
            Self::OutputLoopback => f.write_str("oif \"lo\""),
            Self::Port(Side::Destination, ports) => write!(f, "tcp dport {ports}"),
            Self::Port(Side::Source, ports) => write!(f, "tcp sport {ports}"),
            Self::SocketMark(mark) => write!(f, "meta mark {mark:#010x}"),
            Self::SocketUser(uid) => write!(f, "meta skuid {uid}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
        }
    }
}

fn write_network(f: &mut Formatter<'_>, side: Side, network: &IpNet) -> fmt::Result {
    let (protocol, family) = match network {
        IpNet::V4(_) => ("ip", "ipv4"),
        IpNet::V6(_) => ("ip6", "ipv6"),
    };
    if network.prefix_len() == 0 {
        return write!(f, "meta nfproto {family}");
    }
    let field = match side {
        Side::Destination => "daddr",
        Side::Source => "saddr",
    };
    if network.prefix_len() == network.max_prefix_len() {
        return write!(f, "{protocol} {field} {}", network.addr());
    }
    write!(f, "{protocol} {field} {network}")
}
