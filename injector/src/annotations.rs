//! `config.weft.dev/*`: what users write onto a pod, and what it means. A word that is not known is an error: a misspelt setting
//! must never be a silent no.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use weft_model::PortRange;
use weft_model::kubernetes::{REWRITE_PROBES, SETTINGS_PREFIX as PREFIX, SKIP_INBOUND_PORTS};
use weft_model::ports::entries;

use crate::patch::Sidecar;

/// What a pod says about its proxy. Quantities are Kubernetes' own (`100m`, `64Mi`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSettings {
    /// Inbound ports that are not captured.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Outbound ports that are not captured.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Outbound networks that are not captured.
    pub skip_outbound_cidrs: Vec<IpNet>,
    /// What is logged.
    pub log_level: Option<String>,
    /// How long a drain waits, in seconds.
    pub drain_seconds: Option<u32>,
    /// CPU that the proxy is promised.
    pub cpu_request: Option<String>,
    /// CPU that the proxy gets at most; it has as many workers, rounded up.
    pub cpu_limit: Option<String>,
    /// Memory that the proxy is promised.
    pub memory_request: Option<String>,
    /// Memory that the proxy gets at most.
    pub memory_limit: Option<String>,
    /// Which probes and hooks the proxy performs for the kubelet.
    pub rewrite_probes: Rewrite,
    /// What kind of container the proxy is, where it is not the installation's.
    pub sidecar: Option<Sidecar>,
}

/// Which probes and hooks of a pod the proxy performs in the kubelet's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rewrite {
    /// Every one that goes over the network.
    All,
    /// Those that would not get through, or would ask the proxy and not the application.
    #[default]
    Needed,
    /// None.
    None,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The annotation, or another field of the pod.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl PodSettings {
    /// Reads the annotations of a pod; those that are not ours are left alone.
    ///
    /// # Errors
    /// Every one of ours that makes no sense.
    pub fn read<'a>(annotations: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<Problem>> {
        let ours = annotations.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
        let ours: BTreeMap<&str, &str> = ours.collect();
        let mut settings = Self::default();
        let mut problems = Vec::new();
        for (name, value) in ours {
            if let Err(expected) = settings.set(name, value) {
                problems.push(Problem {
                    field: format!("metadata.annotations[{PREFIX}{name}]"),
                    message: format!("{value:?} {expected}"),
                });
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// Takes one setting; else says what it should have been.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = || Some(value.to_owned());
        match name {
            SKIP_INBOUND_PORTS => self.skip_inbound_ports = list(value, PORTS)?,
            "skip-outbound-ports" => self.skip_outbound_ports = list(value, PORTS)?,
            "skip-outbound-cidrs" => self.skip_outbound_cidrs = list(value, "network such as 10.0.0.0/8")?,
            "log-level" if is_filter(value) => self.log_level = text(),
            "log-level" => return Err("is not a log level or filter, such as debug or weft_proxy=debug".to_owned()),
            "drain-seconds" => {
                let read = value.parse().map_err(|_error| "is not a number of seconds".to_owned());
                self.drain_seconds = Some(read?);
            }
            "proxy-cpu-request" => self.cpu_request = quantity(value)?,
            "proxy-cpu-limit" => self.cpu_limit = quantity(value)?,
            "proxy-memory-request" => self.memory_request = quantity(value)?,
            "proxy-memory-limit" => self.memory_limit = quantity(value)?,
            REWRITE_PROBES => {
                self.rewrite_probes = match value {
                    "all" => Rewrite::All,
                    "needed" => Rewrite::Needed,
                    "none" => Rewrite::None,
                    _ => return Err("is not all, needed or none".to_owned()),
                }
            }
            "sidecar" => {
                let read = value.parse().map_err(|_error| "is not native or ordinary".to_owned());
                self.sidecar = Some(read?);
            }
            _ => return Err(format!("is for a setting that does not exist; there are {}", NAMES.join(", "))),
        }
        Ok(())
    }
}

/// Every setting.
pub const NAMES: [&str; 11] = [
    SKIP_INBOUND_PORTS,
    "skip-outbound-ports",
    "skip-outbound-cidrs",
    "log-level",
    "drain-seconds",
    "proxy-cpu-request",
    "proxy-cpu-limit",
    "proxy-memory-request",
    "proxy-memory-limit",
    REWRITE_PROBES,
    "sidecar",
];

/// What an entry of a list of ports is, for messages.
const PORTS: &str = "port and no range of ports such as 8000-8100";

fn list<T: FromStr>(value: &str, what: &str) -> Result<Vec<T>, String> {
    let read = |entry: &str| entry.parse().map_err(|_error| format!("has {entry:?}, which is no {what}"));
    entries(value).map(read).collect()
}

fn is_filter(value: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_:=,-".contains(c);
    !value.is_empty() && value.chars().all(is_word)
}

/// A quantity as Kubernetes reads it (apimachinery's `resource.Quantity`), of CPU or memory.
fn quantity(value: &str) -> Result<Option<String>, String> {
    const SUFFIXES: [&str; 14] = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, suffix) = value.split_at(end);
    let is_one = number.parse::<f64>().is_ok_and(|number| number > 0.0) && SUFFIXES.contains(&suffix);
    if is_one { Ok(Some(value.to_owned())) } else { Err("is not a quantity such as 100m or 64Mi".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<PodSettings, Vec<String>> {
        PodSettings::read(pairs.iter().copied()).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn settings_are_read_and_what_is_not_ours_is_left_alone() {
        let settings = read(&[
            ("config.weft.dev/skip-inbound-ports", " 9100, 8000-8010 "),
            ("config.weft.dev/skip-outbound-cidrs", "10.1.0.0/16,fd00::/8"),
            ("config.weft.dev/log-level", "info,weft_proxy=debug"),
            ("config.weft.dev/drain-seconds", "45"),
            ("config.weft.dev/proxy-cpu-request", "0.5"),
            ("config.weft.dev/proxy-memory-limit", "128Mi"),
            ("config.weft.dev/rewrite-probes", "all"),
            ("config.weft.dev/sidecar", "ordinary"),
            ("example.org/other", "anything"),
        ])
        .unwrap();
        let want = PodSettings {
            skip_inbound_ports: vec![PortRange::new(9100, 9100).unwrap(), PortRange::new(8000, 8010).unwrap()],
            skip_outbound_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            log_level: Some("info,weft_proxy=debug".to_owned()),
            drain_seconds: Some(45),
            cpu_request: Some("0.5".to_owned()),
            memory_limit: Some("128Mi".to_owned()),
            rewrite_probes: Rewrite::All,
            sidecar: Some(Sidecar::Ordinary),
            ..PodSettings::default()
        };
        assert_eq!(settings, want);
    }

    #[test]
    fn everything_that_makes_no_sense_is_named_at_once() {
        let problems = read(&[
            ("config.weft.dev/skip-inbound-ports", "80,http"),
            ("config.weft.dev/skip-outbound-ports", "0"),
            ("config.weft.dev/skip-outbound-cidrs", "10.0.0.0/33"),
            ("config.weft.dev/log-level", "loud; rm"),
            ("config.weft.dev/drain-seconds", "soon"),
            ("config.weft.dev/proxy-cpu-limit", "0"),
            ("config.weft.dev/proxy-memory-limit", "1 GB"),
            ("config.weft.dev/skip-inbound-port", "80"),
            ("config.weft.dev/rewrite-probes", "false"),
            ("config.weft.dev/sidecar", "none"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 10, "{problems:#?}");
        for said in [
            "skip-inbound-ports]: \"80,http\" has \"http\", which is no port and no range of ports such as 8000-8100",
            "skip-outbound-cidrs]: \"10.0.0.0/33\" has \"10.0.0.0/33\", which is no network such as 10.0.0.0/8",
        ] {
            assert!(problems.iter().any(|problem| problem.ends_with(said)), "{said}: {problems:#?}");
        }
        assert!(
            problems.iter().any(|problem| problem.contains("skip-inbound-port]") && problem.contains("does not exist"))
        );
    }
}
