//! Flags and environment to what is to be done. Every mistake is reported at once, each naming flag, variable and what
//! was expected.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_model::PortRange;
use weft_model::ports::entries;

use crate::options::Options;

/// So many entries a list may have: each becomes two rules, and the transaction must fit into a socket buffer.
pub(crate) const ENTRIES_MAX: usize = 128;

/// A pod that is not captured by then never is.
const WAIT_SECONDS_MAX: u64 = 600;

/// Sets the rules that turn a workload's connections to its proxy, and proves that they work.
///
/// The rules are one nftables table (inet weft) of the network namespace that this program runs in. It is replaced in
/// one transaction, so running again is harmless. Needs `CAP_NET_ADMIN`, but for --prove-capture, --await-proxy and --linger.
///
/// Exit codes: 0 done and proven; 64 wrong flags or variables; 69 the kernel lacks something; 70 capture is not proven;
/// 71 the kernel refused; 77 no permission.
#[derive(Debug, Parser)]
#[command(name = "weft-init", version, color = clap::ColorChoice::Never)]
pub(crate) struct Raw {
    /// Port on loopback that outgoing connections are turned to.
    #[arg(long, env = "WEFT_OUTBOUND_PORT", default_value = "14001")]
    outbound_port: String,
    /// Port that incoming connections are turned to.
    #[arg(long, env = "WEFT_INBOUND_PORT", default_value = "14002")]
    inbound_port: String,
    /// The proxy's admin port, never turned.
    #[arg(long, env = "WEFT_ADMIN_PORT", default_value = "14003")]
    admin_port: String,
    /// User whose connections pass, because they are the proxy's; "none" if only the mark tells.
    #[arg(long, env = "WEFT_PROXY_UID", default_value = "2140")]
    proxy_uid: String,
    /// Socket mark whose connections pass, because they are the proxy's (decimal, or 0x and hexadecimal).
    /// Whoever has `CAP_NET_RAW` can set any mark: meant for user namespaces, where one user is all there is.
    #[arg(long, env = "WEFT_PROXY_MARK", default_value = "none")]
    proxy_mark: String,
    /// Ports whose incoming connections pass, such as 22,9000-9100.
    #[arg(long, env = "WEFT_SKIP_INBOUND_PORTS", default_value = "", value_name = "PORTS")]
    skip_inbound_ports: String,
    /// Ports to which outgoing connections pass.
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_PORTS", default_value = "", value_name = "PORTS")]
    skip_outbound_ports: String,
    /// Networks to which outgoing connections pass, such as `10.96.0.1,2001:db8::/32`.
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_CIDRS", default_value = "", value_name = "CIDRS")]
    skip_outbound_cidrs: String,
    /// Between setting the rules and proving them, wait until the proxy of this pod is ready, however long that takes, and say what
    /// is waited for: for an init container behind the proxy, which then starts one step of the kubelet sooner.
    #[arg(long, env = "WEFT_UNTIL_READY", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    until_ready: String,
    #[command(flatten)]
    mode: Mode,
}

/// At most one of these; an environment may set several to false.
#[derive(Debug, clap::Args)]
struct Mode {
    /// Only print the ruleset, as `nft -f` takes it.
    #[arg(long, env = "WEFT_DRY_RUN", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    dry_run: String,
    /// Remove the rules.
    #[arg(long, env = "WEFT_REMOVE", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    remove: String,
    /// Set the rules and prove nothing.
    #[arg(long, env = "WEFT_NO_PROVE", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_prove: String,
    /// Only prove rules that were set before with the same options.
    #[arg(long, env = "WEFT_PROVE_ONLY", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    prove_only: String,
    /// Only prove, by connections and without any capability, that rules are in force which somebody else set.
    #[arg(long, env = "WEFT_PROVE_CAPTURE", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    prove_capture: String,
    /// Only wait until the proxy of this pod is ready: for the postStart hook of a proxy that is an ordinary container.
    #[arg(long, env = "WEFT_AWAIT_PROXY", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    await_proxy: String,
    /// Only let --wait seconds pass: for the preStop hook of such a proxy.
    #[arg(long, env = "WEFT_LINGER", default_value = "false", hide_default_value = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    linger: String,
    /// How many seconds --prove-capture, --await-proxy and --linger may take.
    #[arg(long, env = "WEFT_WAIT", default_value = "0", value_name = "SECONDS")]
    wait: String,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Apply,
    ApplyAndProve {
        /// Whether the proxy has to be ready in between.
        until_ready: bool,
    },
    /// It may take so long.
    AwaitProxy(Duration),
    /// For so long.
    Linger(Duration),
    Prove,
    /// It may take so long.
    ProveCapture(Duration),
    Remove,
    Render,
}

/// Everything that is wrong, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines.join("\n"))]
pub(crate) struct ConfigErrors {
    lines: Vec<String>,
}

impl Raw {
    /// From what was written to what is meant.
    pub(crate) fn resolve(self) -> Result<(Action, Options), ConfigErrors> {
        let Self {
            outbound_port,
            inbound_port,
            admin_port,
            proxy_uid,
            proxy_mark,
            skip_inbound_ports,
            skip_outbound_ports,
            skip_outbound_cidrs,
            until_ready,
            mode,
        } = self;
        let mut wrong = Wrong::default();
        let until_ready = wrong.take("until-ready", &until_ready, switch) == Some(true);
        let action = match mode.action(&mut wrong) {
            Action::ApplyAndProve { .. } => Action::ApplyAndProve { until_ready },
            action if until_ready => {
                wrong.lines.push(format!("{} goes with setting and proving the rules alone", named("until-ready")));
                action
            }
            action => action,
        };
        let options = Options {
            outbound_port: wrong.take("outbound-port", &outbound_port, port).unwrap_or(Options::OUTBOUND_PORT),
            inbound_port: wrong.take("inbound-port", &inbound_port, port).unwrap_or(Options::INBOUND_PORT),
            admin_port: wrong.take("admin-port", &admin_port, port).unwrap_or(Options::ADMIN_PORT),
            proxy_uid: wrong.take("proxy-uid", &proxy_uid, uid).flatten(),
            proxy_mark: wrong.take("proxy-mark", &proxy_mark, mark).flatten(),
            skip_inbound_ports: wrong.take_list("skip-inbound-ports", &skip_inbound_ports, port_range),
            skip_outbound_ports: wrong.take_list("skip-outbound-ports", &skip_outbound_ports, port_range),
            skip_outbound_cidrs: wrong.take_list("skip-outbound-cidrs", &skip_outbound_cidrs, cidr),
        };
        wrong.check_together(&options);
        if wrong.lines.is_empty() { Ok((action, options)) } else { Err(ConfigErrors { lines: wrong.lines }) }
    }
}

impl Mode {
    fn action(&self, wrong: &mut Wrong) -> Action {
        let Self { dry_run, remove, no_prove, prove_only, prove_capture, await_proxy, linger, wait } = self;
        let wait = wrong.take("wait", wait, seconds).unwrap_or_default();
        let switches = [
            ("dry-run", dry_run, Action::Render),
            ("remove", remove, Action::Remove),
            ("no-prove", no_prove, Action::Apply),
            ("prove-only", prove_only, Action::Prove),
            ("prove-capture", prove_capture, Action::ProveCapture(wait)),
            ("await-proxy", await_proxy, Action::AwaitProxy(wait)),
            ("linger", linger, Action::Linger(wait)),
        ];
        let set: Vec<_> =
            switches.into_iter().filter(|(flag, text, _)| wrong.take(flag, text, switch) == Some(true)).collect();
        if set.len() > 1 {
            let flags: Vec<String> = set.iter().map(|(flag, ..)| named(flag)).collect();
            wrong.lines.push(format!("at most one of these may be set: {}", flags.join(", ")));
        }
        set.first().map_or(Action::ApplyAndProve { until_ready: false }, |(_, _, action)| *action)
    }
}

/// Collects what is wrong while values are parsed.
#[derive(Debug, Default)]
struct Wrong {
    lines: Vec<String>,
}

impl Wrong {
    fn take<T>(&mut self, flag: &str, text: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Option<T> {
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.lines.push(format!("{}: \"{}\" is not {expected}", named(flag), text.escape_debug()));
                None
            }
        }
    }

    fn take_list<T>(&mut self, flag: &str, text: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Vec<T> {
        let entries: Vec<&str> = entries(text).collect();
        if entries.len() > ENTRIES_MAX {
            self.lines.push(format!("{}: {} entries are more than {ENTRIES_MAX}", named(flag), entries.len()));
            return Vec::new();
        }
        entries.into_iter().filter_map(|entry| self.take(flag, entry, &parse)).collect()
    }

    fn check_together(&mut self, options: &Options) {
        let Options { outbound_port, inbound_port, admin_port, proxy_uid, proxy_mark, .. } = options;
        if !self.lines.is_empty() {
            return;
        }
        if outbound_port == inbound_port || outbound_port == admin_port || inbound_port == admin_port {
            let flags = ["outbound-port", "inbound-port", "admin-port"].map(named).join(", ");
            self.lines.push(format!("three different ports are expected: {flags}"));
        }
        if proxy_uid.is_none() && proxy_mark.is_none() {
            let flags = ["proxy-uid", "proxy-mark"].map(named).join(" or ");
            self.lines.push(format!("the proxy's own connections must be told apart by {flags}"));
        }
    }
}

/// Flag and variable.
fn named(flag: &str) -> String {
    format!("--{flag} (WEFT_{})", flag.replace('-', "_").to_uppercase())
}

fn switch(text: &str) -> Result<bool, &'static str> {
    text.parse().or(Err("true or false"))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let parsed = text.parse().ok().filter(|seconds| *seconds <= WAIT_SECONDS_MAX);
    parsed.map(Duration::from_secs).ok_or("a number of seconds up to 600")
}

fn port(text: &str) -> Result<NonZeroU16, &'static str> {
    NonZeroU16::from_str(text).or(Err("a port from 1 to 65535"))
}

fn uid(text: &str) -> Result<Option<u32>, &'static str> {
    if text == "none" {
        return Ok(None);
    }
    // The highest number means "no user" to the kernel.
    let parsed = text.parse().ok().filter(|uid| *uid != u32::MAX);
    parsed.map(Some).ok_or("a user id or \"none\"")
}

fn mark(text: &str) -> Result<Option<NonZeroU32>, &'static str> {
    if text == "none" {
        return Ok(None);
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    parsed.and_then(NonZeroU32::new).map(Some).ok_or("a socket mark from 1 to 0xffffffff or \"none\"")
}

pub(crate) fn port_range(text: &str) -> Result<PortRange, &'static str> {
    text.parse().or(Err(PortRange::EXPECTED))
}

pub(crate) fn cidr(text: &str) -> Result<IpNet, &'static str> {
    const EXPECTED: &str = "an address or a network such as 10.0.0.0/8 or 2001:db8::/32";
    let network = IpNet::from_str(text).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).or(Err(EXPECTED))?;
    match network {
        // No packet bears such an address; meant is the IPv4 network.
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(EXPECTED),
        IpNet::V4(_) | IpNet::V6(_) => Ok(network.trunc()),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "set, not proven",
            Self::ApplyAndProve { .. } => "set and proven",
            Self::AwaitProxy(_) | Self::Linger(_) => "not touched",
            Self::Prove | Self::ProveCapture(_) => "proven",
            Self::Remove => "removed",
            Self::Render => "printed",
        })
    }
}

#[cfg(test)]
mod tests;
