//! What was typed, and what it means. Every flag is also a variable; everything that is wrong is said at once, each
//! with the name under which it was given.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_crds::parse_duration;
use weft_model::TrustDomain;
use weft_model::identity::{is_dns_label, is_dns_subdomain};
use weft_model::kubernetes::OWN_SECRETS;
use weft_runtime::telemetry::LogFormat;

use crate::serve::mesh::DEFAULT_STREAM_AGE;

/// What was typed.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-control-plane", version, about = "Configures Weft's proxies and issues their certificates.")]
pub struct RawConfig {
    /// Where resources come from: `kubernetes` for the API server's, or `directory:PATH`, followed as it changes.
    #[arg(long, env = "WEFT_SOURCE", value_name = "SOURCE")]
    source: String,
    /// Addresses for proxies: discovery and certificates, gRPC over TLS.
    #[arg(long, env = "WEFT_LISTEN", value_name = "IP:PORT", value_delimiter = ',', default_values = ["0.0.0.0:14010", "[::]:14010"])]
    listen: Vec<String>,
    /// Addresses for people and Prometheus; what changes state answers on loopback only.
    #[arg(long, env = "WEFT_ADMIN", value_name = "IP:PORT", value_delimiter = ',', default_values = ["0.0.0.0:14011", "[::]:14011"])]
    admin: Vec<String>,
    /// Directory into which the status of each resource is written, one file each. May lie within the source.
    #[arg(long, env = "WEFT_STATUS_DIR", value_name = "PATH")]
    status_dir: Option<PathBuf>,
    /// Directory of the certificate authority; made when it is empty. Whoever can read it can be anybody. With `--source
    /// kubernetes` it is a copy of the Secret weft-authority: on a tmpfs.
    #[arg(long, env = "WEFT_CA_DIR", value_name = "PATH")]
    ca_dir: PathBuf,
    /// A Secret of the control plane's own namespace in which somebody else keeps the issuer of certificates, such as cert-manager:
    /// `tls.crt`, `tls.key` and `ca.crt`. Then the control plane makes none. Only with `--source kubernetes`.
    #[arg(long, env = "WEFT_ISSUER_SECRET", value_name = "NAME")]
    issuer_secret: Option<String>,
    /// The namespace of the control plane itself.
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAME", default_value = weft_crds::SYSTEM_NAMESPACE)]
    namespace: String,
    /// What this replica is called among the others: its pod's name.
    #[arg(long, env = "WEFT_REPLICA", value_name = "NAME", default_value = "weft-control-plane")]
    replica: String,
    /// The trust domain of every identity.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// How long a workload's certificate is valid.
    #[arg(long, env = "WEFT_LEAF_LIFETIME", value_name = "DURATION", default_value = "24h")]
    leaf_lifetime: String,
    /// Networks of the cluster: inside them proxies look unknown destinations up. MeshPolicy may name more.
    #[arg(long, env = "WEFT_NETWORKS", value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
    /// Networks of pods, services and nodes, in which no Workload may lie.
    #[arg(long, env = "WEFT_RESERVED_NETWORKS", value_name = "CIDR", value_delimiter = ',')]
    reserved_networks: Vec<String>,
    /// How long a proxy's stream lives before it is asked to open another, on average.
    #[arg(long, env = "WEFT_STREAM_AGE", value_name = "DURATION")]
    stream_age: Option<String>,
    /// How often what the watches of the API server told is compared with what it has.
    #[arg(long, env = "WEFT_COMPARE_EVERY", value_name = "DURATION", default_value = "10m")]
    compare_every: String,
    /// What is logged: a level, or `target=level` pairs.
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = DEFAULT_LOG)]
    log: String,
    /// How log lines look: `text` or `json`.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: String,
}

/// Where resources come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The files of a directory.
    Directory(PathBuf),
    /// The API server of a cluster.
    Kubernetes,
}

impl Source {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "kubernetes" => Some(Self::Kubernetes),
            Some(("directory", path)) if !path.is_empty() => Some(Self::Directory(PathBuf::from(path))),
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "directory:{}", path.display()),
            Self::Kubernetes => f.write_str("kubernetes"),
        }
    }
}

/// What it means.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where resources come from.
    pub source: Source,
    /// Addresses for proxies.
    pub listen: Vec<SocketAddr>,
    /// Addresses for people and Prometheus.
    pub admin: Vec<SocketAddr>,
    /// Where status files go.
    pub status_dir: Option<PathBuf>,
    /// The certificate authority's directory.
    pub ca_dir: PathBuf,
    /// The Secret of the issuer, where somebody else makes it.
    pub issuer_secret: Option<String>,
    /// The control plane's own namespace.
    pub namespace: String,
    /// What this replica is called.
    pub replica: String,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// How long a workload's certificate is valid.
    pub leaf_lifetime: Duration,
    /// Networks of the cluster.
    pub networks: Vec<IpNet>,
    /// Networks without workloads.
    pub reserved_networks: Vec<IpNet>,
    /// How long a stream lives.
    pub stream_age: Duration,
    /// How often watches are compared with the API server.
    pub compare_every: Duration,
    /// What is logged.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// What the client says about each answer that it does not like is said by whoever asked, once.
const DEFAULT_LOG: &str = "info,kube_client=error";

/// The shortest life of a certificate: renewal begins at 70 % of it, and clocks differ.
const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(5);

/// Streams that live shorter would be more greeting than talk.
const STREAM_AGE_MIN: Duration = Duration::from_secs(1);

/// A comparison waits for the watch for ten seconds, and is to end before the next begins.
const COMPARE_EVERY_MIN: Duration = Duration::from_secs(15);

impl Config {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// Everything that makes none.
    pub fn new(raw: RawConfig) -> Result<Self, ConfigErrors> {
        let RawConfig {
            source,
            listen,
            admin,
            status_dir,
            ca_dir,
            issuer_secret,
            namespace,
            replica,
            trust_domain,
            leaf_lifetime,
            networks,
            reserved_networks,
            stream_age,
            compare_every,
            log,
            log_format,
        } = raw;
        let mut errors = Errors::default();
        let read_source = Source::parse(&source);
        if read_source.is_none() {
            errors.add("--source", "WEFT_SOURCE", &source, "kubernetes or directory:PATH");
        }
        let config = Self {
            source: read_source.clone().unwrap_or(Source::Kubernetes),
            listen: errors.addrs("--listen", "WEFT_LISTEN", &listen),
            admin: errors.addrs("--admin", "WEFT_ADMIN", &admin),
            status_dir,
            ca_dir,
            issuer_secret: issuer_secret.and_then(|name| errors.issuer_secret(&name, read_source.as_ref())),
            namespace: errors.namespace(&namespace),
            replica,
            trust_domain: errors.read(
                ("--trust-domain", "WEFT_TRUST_DOMAIN"),
                &trust_domain,
                "1 to 255 lower-case letters, digits, '.', '-' or '_'",
                |text| text.parse().ok(),
            ),
            leaf_lifetime: errors.read(
                ("--leaf-lifetime", "WEFT_LEAF_LIFETIME"),
                &leaf_lifetime,
                "a duration such as 30s or 24h, at least 5s",
                |text| parse_duration(text).ok().filter(|life| *life >= LEAF_LIFETIME_MIN),
            ),
            networks: errors.networks("--networks", "WEFT_NETWORKS", &networks),
            reserved_networks: errors.networks("--reserved-networks", "WEFT_RESERVED_NETWORKS", &reserved_networks),
            stream_age: stream_age.map_or(DEFAULT_STREAM_AGE, |text| {
                errors.read(("--stream-age", "WEFT_STREAM_AGE"), &text, "a duration such as 30m, at least 1s", |text| {
                    parse_duration(text).ok().filter(|age| *age >= STREAM_AGE_MIN)
                })
            }),
            compare_every: errors.read(
                ("--compare-every", "WEFT_COMPARE_EVERY"),
                &compare_every,
                "a duration such as 10m, at least 15s",
                |text| parse_duration(text).ok().filter(|every| *every >= COMPARE_EVERY_MIN),
            ),
            log,
            log_format: errors
                .read(("--log-format", "WEFT_LOG_FORMAT"), &log_format, "text or json", |text| {
                    text.parse::<LogFormat>().ok().map(Some)
                })
                .unwrap_or(LogFormat::Text),
        };
        if errors.0.is_empty() { Ok(config) } else { Err(ConfigErrors(errors.0)) }
    }

    /// It as JSON, for `/config`. There is nothing secret in it.
    pub fn to_json(&self) -> String {
        let text = |items: &[IpNet]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        serde_json::json!({
            "source": self.source.to_string(),
            "listen": self.listen,
            "admin": self.admin,
            "statusDir": self.status_dir,
            "caDir": self.ca_dir,
            "issuerSecret": self.issuer_secret,
            "namespace": self.namespace,
            "replica": self.replica,
            "trustDomain": self.trust_domain.as_str(),
            "leafLifetimeSeconds": self.leaf_lifetime.as_secs(),
            "networks": text(&self.networks),
            "reservedNetworks": text(&self.reserved_networks),
            "streamAgeSeconds": self.stream_age.as_secs(),
            "compareEverySeconds": self.compare_every.as_secs(),
            "log": self.log,
        })
        .to_string()
    }
}

/// Whether it names a Secret that Weft does not write itself.
fn is_anothers_secret(name: &str) -> bool {
    is_dns_subdomain(name) && !OWN_SECRETS.contains(&name)
}

/// Everything that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

#[derive(Default)]
struct Errors(Vec<String>);

impl Errors {
    fn add(&mut self, flag: &str, variable: &str, value: &str, expected: &str) {
        self.0.push(format!("{flag} ({variable}): {value:?} is not {expected}"));
    }

    fn read<T: Default>(
        &mut self,
        (flag, variable): (&str, &str),
        value: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        read(value).unwrap_or_else(|| {
            self.add(flag, variable, value, expected);
            T::default()
        })
    }

    fn namespace(&mut self, text: &str) -> String {
        let expected = "the name of a namespace (lower-case letters, digits and '-')";
        self.read(("--namespace", "WEFT_NAMESPACE"), text, expected, |text| is_dns_label(text).then(|| text.to_owned()))
    }

    fn issuer_secret(&mut self, name: &str, source: Option<&Source>) -> Option<String> {
        let (flag, variable) = ("--issuer-secret", "WEFT_ISSUER_SECRET");
        if let Some(Source::Directory(_)) = source {
            self.0.push(format!("{flag} ({variable}): a directory has no Secrets: it takes --source kubernetes"));
        }
        let expected = "the name of a Secret other than Weft's own (lower-case letters, digits, '-' and '.')";
        self.read((flag, variable), name, expected, |text| is_anothers_secret(text).then(|| Some(text.to_owned())))
    }

    fn addrs(&mut self, flag: &str, variable: &str, values: &[String]) -> Vec<SocketAddr> {
        let mut addrs = Vec::new();
        for value in values {
            match value.parse() {
                Ok(addr) => addrs.push(addr),
                Err(_) => self.add(flag, variable, value, "an address such as 0.0.0.0:14010 or [::]:14010"),
            }
        }
        addrs
    }

    fn networks(&mut self, flag: &str, variable: &str, values: &[String]) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for value in values.iter().filter(|value| !value.is_empty()) {
            match value.parse::<IpNet>() {
                Ok(network) => networks.push(network.trunc()),
                Err(_) => self.add(flag, variable, value, "a network such as 10.0.0.0/8"),
            }
        }
        networks
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Config, RawConfig, Source};

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = ["weft-control-plane", "--ca-dir", "/ca"].iter().chain(args);
        let raw = RawConfig::try_parse_from(args).map_err(|error| error.to_string())?;
        Config::new(raw).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_typed_means_something() {
        let config = config(&["--source", "directory:/etc/weft", "--networks", "10.1.2.3/8,fd00::/8"]).unwrap();
        assert_eq!(config.source, Source::Directory("/etc/weft".into()));
        assert_eq!(config.networks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(config.leaf_lifetime.as_secs(), 86_400);
        assert_eq!(config.listen.len(), 2);
        assert!(config.to_json().contains("\"trustDomain\":\"cluster.local\""));
    }

    #[test]
    fn a_source_is_one_of_two() {
        assert_eq!(config(&["--source", "kubernetes"]).unwrap().source, Source::Kubernetes);
        for bad in ["", "directory:", "directory", "kubernetes:", "kube"] {
            assert_eq!(Source::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_issuer_may_be_that_of_a_secret_of_kubernetes() {
        let with = |name| config(&["--source", "kubernetes", "--issuer-secret", name]);
        assert_eq!(with("weft-issuer").unwrap().issuer_secret.as_deref(), Some("weft-issuer"));
        for bad in ["", "Weft", "a/b", "weft-authority", "weft-injector-tls"] {
            assert!(with(bad).unwrap_err().contains("WEFT_ISSUER_SECRET"), "{bad}");
        }
        let elsewhere = config(&["--source", "directory:/etc/weft", "--issuer-secret", "weft-issuer"]).unwrap_err();
        assert!(elsewhere.contains("--issuer-secret (WEFT_ISSUER_SECRET): a directory has no Secrets"), "{elsewhere}");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let errors = config(&[
            "--source",
            "etcd:x",
            "--listen",
            "nowhere",
            "--networks",
            "10.0.0.0/33",
            "--leaf-lifetime",
            "1s",
            "--trust-domain",
            "UPPER",
            "--log-format",
            "xml",
            "--stream-age",
            "never",
            "--compare-every",
            "1s",
        ]);
        let errors = errors.unwrap_err();
        for name in [
            "WEFT_SOURCE",
            "WEFT_LISTEN",
            "WEFT_NETWORKS",
            "WEFT_LEAF_LIFETIME",
            "WEFT_TRUST_DOMAIN",
            "WEFT_LOG_FORMAT",
            "WEFT_STREAM_AGE",
            "WEFT_COMPARE_EVERY",
        ] {
            assert!(errors.contains(name), "{name} in:\n{errors}");
        }
        assert_eq!(errors.lines().count(), 8);
    }
}
