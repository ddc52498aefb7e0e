//! What was typed, and what it means: [`Args`] is read from flags and `WEFT_*` variables, [`Config`] is what the proxy
//! runs by. All mistakes are reported at once, each naming its variable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use weft_model::probes::Probes;
use weft_model::{SpiffeId, TrustDomain, WorkloadName};

/// The data plane of the Weft service mesh: one transparent proxy beside each workload.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, about, max_term_width = 100)]
pub struct Args {
    /// Where the control plane listens: an address or a name, with a port. A name is looked up at each connection.
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "HOST:PORT")]
    control_plane: HostPort,

    /// File with the trust anchors, PEM; the control plane must prove itself against them.
    #[arg(long, env = "WEFT_TRUST_ANCHORS", value_name = "FILE")]
    trust_anchors: PathBuf,

    /// File with a join token; read anew at each use.
    #[arg(long, env = "WEFT_JOIN_TOKEN_FILE", value_name = "FILE")]
    join_token_file: Option<PathBuf>,

    /// File with a projected service-account token for the audience identity.weft.dev; read anew at each use, and taken before a
    /// join token.
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT_TOKEN_FILE", value_name = "FILE")]
    service_account_token_file: Option<PathBuf>,

    /// Directory for what a restarted proxy resumes from while the control plane is away: on a tmpfs, of the proxy's user,
    /// mode 0700 (default: none, it waits).
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// The trust domain of the mesh.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    trust_domain: TrustDomain,

    /// The namespace of the workload.
    #[arg(long, env = "WEFT_WORKLOAD_NAMESPACE", value_name = "NAME")]
    workload_namespace: String,

    /// The name of the workload.
    #[arg(long, env = "WEFT_WORKLOAD_NAME", value_name = "NAME")]
    workload_name: String,

    /// The service account of the workload.
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", default_value = "default", value_name = "NAME")]
    service_account: String,

    /// The uid of the workload, where the platform gives one.
    #[arg(long, env = "WEFT_WORKLOAD_UID", default_value = "", value_name = "UID")]
    workload_uid: String,

    /// Socket mark of the proxy's own connections, which the redirect leaves alone (default: none, the user id tells).
    #[arg(long, env = "WEFT_SOCKET_MARK", value_name = "MARK")]
    socket_mark: Option<u32>,

    /// Worker threads (default: the CPU limit rounded up, at most 2 where there is none).
    #[arg(long, env = "WEFT_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// Port for what the application sends.
    #[arg(long, env = "WEFT_OUTBOUND_PORT", default_value_t = 14001, value_name = "PORT")]
    outbound_port: u16,

    /// Port for what is sent to the application.
    #[arg(long, env = "WEFT_INBOUND_PORT", default_value_t = 14002, value_name = "PORT")]
    inbound_port: u16,

    /// Port for metrics, health and the like.
    #[arg(long, env = "WEFT_ADMIN_PORT", default_value_t = 14003, value_name = "PORT")]
    admin_port: u16,

    /// Connections served at once in each direction, over all workers; more wait in the kernel's queue.
    #[arg(long, env = "WEFT_MAX_CONNECTIONS", default_value_t = 20_000, value_name = "N")]
    max_connections: u32,

    /// HTTP requests in flight at once, over all workers; more get 503 `overloaded`.
    #[arg(long, env = "WEFT_MAX_REQUESTS", default_value_t = 100_000, value_name = "N")]
    max_requests: u32,

    /// Seconds after which a destination that the application no longer talks to is not followed any more; the next
    /// connection to it asks the control plane anew.
    #[arg(long, env = "WEFT_DESTINATION_IDLE", default_value_t = DESTINATION_IDLE_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..), value_name = "SECONDS")]
    destination_idle: u64,

    /// How long a drain waits for what is in flight, in seconds.
    #[arg(long, env = "WEFT_DRAIN_SECONDS", default_value_t = 30, value_name = "SECONDS")]
    drain_seconds: u64,

    /// Probes and hooks that are performed for the kubelet on the admin port, as the injector writes them (default: none).
    #[arg(long, env = "WEFT_PROBES", default_value = "", hide_default_value = true, value_name = "JSON")]
    probes: String,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `weft_proxy=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// How it is logged.
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"], value_name = "FORMAT")]
    log_format: String,
}

/// A host, by address or by name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// An IP address without brackets, or a DNS name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let expected =
            || "expected HOST:PORT, such as 10.0.0.1:14010, [fd00::1]:14010 or control-plane.example:14010".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        // A name may end with the root's dot.
        if !weft_model::identity::is_dns_subdomain(host.strip_suffix('.').unwrap_or(host)) {
            return Err(expected());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Five minutes (design §3).
const DESTINATION_IDLE_SECONDS: u64 = 5 * 60;

/// What the proxy runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane listens.
    pub control_plane: HostPort,
    /// PEM file with the trust anchors to begin with.
    pub trust_anchors: PathBuf,
    /// File with the join token.
    pub join_token_file: Option<PathBuf>,
    /// File with the service-account token.
    pub service_account_token_file: Option<PathBuf>,
    /// Where state is kept for a restart, if anywhere.
    pub state_dir: Option<PathBuf>,
    /// Who we are to peers.
    pub identity: SpiffeId,
    /// The mesh we belong to.
    pub trust_domain: TrustDomain,
    /// Who we are to people.
    pub workload: WorkloadName,
    /// The workload's uid, or empty.
    pub workload_uid: String,
    /// Mark of our own sockets.
    pub socket_mark: Option<u32>,
    /// How many worker threads.
    pub workers: NonZeroUsize,
    /// Listening ports.
    pub ports: Ports,
    /// Connections served at once in each direction.
    pub connections_max: u32,
    /// Requests in flight at once.
    pub requests_max: u32,
    /// What nobody has used for so long is no longer subscribed to.
    pub destination_idle: Duration,
    /// How long a drain waits.
    pub drain_deadline: Duration,
    /// What is performed for the kubelet.
    pub probes: Probes,
    /// The log filter to begin with.
    pub log: String,
    /// Whether log lines are JSON.
    pub log_json: bool,
}

/// The ports we listen on.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For what the application sends; loopback only.
    pub outbound: u16,
    /// For what is sent to the application.
    pub inbound: u16,
    /// For people and Prometheus.
    pub admin: u16,
}

impl Ports {
    /// Whether a port is one of ours.
    pub(crate) fn contains(self, port: u16) -> bool {
        self.all().contains(&port)
    }

    /// Every one.
    pub(crate) fn all(self) -> [u16; 3] {
        let Self { outbound, inbound, admin } = self;
        [outbound, inbound, admin]
    }

    /// Where the outbound listeners bind.
    pub(crate) fn outbound_addrs(self) -> [SocketAddr; 2] {
        [
            (IpAddr::V4(Ipv4Addr::LOCALHOST), self.outbound).into(),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), self.outbound).into(),
        ]
    }

    /// Where the inbound listeners bind.
    pub(crate) fn inbound_addrs(self) -> [SocketAddr; 2] {
        unspecified(self.inbound)
    }

    /// Where the admin listeners bind.
    pub(crate) fn admin_addrs(self) -> [SocketAddr; 2] {
        unspecified(self.admin)
    }
}

fn unspecified(port: u16) -> [SocketAddr; 2] {
    [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into(), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into()]
}

impl Config {
    /// Gives what was typed its meaning.
    ///
    /// # Errors
    /// Every mistake, one a line, each naming its variable.
    pub fn from_args(args: Args) -> Result<Self, String> {
        let Args {
            control_plane,
            trust_anchors,
            join_token_file,
            service_account_token_file,
            state_dir,
            trust_domain,
            workload_namespace,
            workload_name,
            service_account,
            workload_uid,
            socket_mark,
            workers,
            outbound_port,
            inbound_port,
            admin_port,
            max_connections,
            max_requests,
            destination_idle,
            drain_seconds,
            probes,
            log,
            log_format,
        } = args;
        let mut wrong = Vec::new();
        let identity = SpiffeId::new(&trust_domain, &workload_namespace, &service_account)
            .map_err(|error| wrong.push(format!("WEFT_WORKLOAD_NAMESPACE, WEFT_SERVICE_ACCOUNT: {error}")))
            .ok();
        if !weft_model::identity::is_dns_subdomain(&workload_name) {
            wrong.push(format!("WEFT_WORKLOAD_NAME: {workload_name:?} is not a DNS subdomain name"));
        }
        if outbound_port == inbound_port || inbound_port == admin_port || outbound_port == admin_port {
            wrong.push(
                "WEFT_OUTBOUND_PORT, WEFT_INBOUND_PORT, WEFT_ADMIN_PORT: expected three different ports".to_owned(),
            );
        }
        let probes = Probes::parse(&probes).map_err(|error| wrong.push(format!("WEFT_PROBES: {error}"))).ok();
        let both = identity.zip(probes).filter(|_| wrong.is_empty());
        let Some((identity, probes)) = both else { return Err(wrong.join("\n")) };
        Ok(Self {
            control_plane,
            trust_anchors,
            join_token_file,
            service_account_token_file,
            state_dir,
            identity,
            trust_domain,
            workload: WorkloadName::new(&workload_namespace, &workload_name),
            workload_uid,
            socket_mark,
            workers: workers.unwrap_or_else(default_workers),
            ports: Ports { outbound: outbound_port, inbound: inbound_port, admin: admin_port },
            connections_max: max_connections,
            requests_max: max_requests,
            destination_idle: Duration::from_secs(destination_idle),
            drain_deadline: Duration::from_secs(drain_seconds),
            probes,
            log,
            log_json: log_format == "json",
        })
    }
}

/// The CPU limit rounded up; without one min(2, cores) (semantics 23).
fn default_workers() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|text| cpu_limit(&text));
    limit.unwrap_or_else(|| cores.min(NonZeroUsize::MIN.saturating_add(1)))
}

/// Reads cgroup v2's `cpu.max`: `<quota µs> <period µs>`, or `max …` for none.
fn cpu_limit(cpu_max: &str) -> Option<NonZeroUsize> {
    let mut words = cpu_max.split_whitespace();
    let quota: usize = words.next()?.parse().ok()?;
    let period: usize = words.next()?.parse().ok().filter(|period| *period > 0)?;
    NonZeroUsize::new(quota.div_ceil(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let base = ["weft-proxy", "--control-plane", "127.0.0.1:14010", "--trust-anchors", "a.pem"];
        let args = Args::try_parse_from(base.iter().chain(args)).map_err(|error| error.to_string())?;
        Config::from_args(args)
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let error =
            parse(&["--workload-namespace", "A", "--workload-name", "-", "--admin-port", "14001", "--probes", "[{}]"])
                .unwrap_err();
        for name in ["WEFT_WORKLOAD_NAMESPACE", "WEFT_WORKLOAD_NAME", "WEFT_ADMIN_PORT", "WEFT_PROBES"] {
            assert!(error.contains(name), "{name} is not in: {error}");
        }
    }

    #[test]
    fn an_identity_comes_of_namespace_and_account() {
        let config =
            parse(&["--workload-namespace", "shop", "--workload-name", "order-1", "--service-account", "order"]);
        assert_eq!(config.unwrap().identity.as_str(), "spiffe://cluster.local/ns/shop/sa/order");
    }

    #[test]
    fn the_control_plane_has_an_address_or_a_name() {
        for text in ["10.0.0.1:14010", "[fd00::1]:14010", "weft.weft-system.svc:14010", "weft.weft-system.svc.:14010"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["", "weft", "weft:", "weft:0", "weft:65536", ":14010", "fd00::1:14010", "we ft:14010"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cpu_limit_is_rounded_up() {
        for (text, want) in [("max 100000\n", None), ("150000 100000", Some(2)), ("50000 100000", Some(1)), ("", None)]
        {
            assert_eq!(cpu_limit(text).map(NonZeroUsize::get), want, "{text:?}");
        }
    }
}
