//! Every way in which an installation can be wrong, as a named check. What was gathered from the cluster is plain data ([`Facts`]), and
//! each check a pure function of it; `docs/checks.md` says of each what it means.

// What the cluster says.
mod facts;
// Asking it.
mod gather;

// Kubernetes itself.
mod cluster;
// What its network does to connections before the proxy sees them.
mod network;
// Weft's own parts.
mod installed;
// What runs with a proxy, and what should.
mod workloads;

pub(crate) use facts::{Fact, Facts, Labelled};
pub(crate) use gather::{Stage, gather, get, list, told};
pub(crate) use installed::installed_version;
pub(crate) use workloads::{has_proxy, is_running, version_of};

/// One check.
#[derive(Debug)]
pub(crate) struct Check {
    /// What it is called, here and in `docs/checks.md`.
    pub(crate) name: &'static str,
    /// When it says something.
    pub(crate) when: When,
    /// Both results are a verdict; an error is one that came early.
    pub(crate) decide: fn(&Facts) -> Result<Verdict, Verdict>,
}

/// When a check says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// After the installation alone.
    After,
    /// Always.
    Always,
    /// Before it alone.
    Before,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    /// What was found.
    pub(crate) said: String,
    /// What to do about it; empty where there is nothing to do.
    pub(crate) remedy: String,
}

/// How bad it is, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// It works, and something is not as it should be or could not be seen.
    Warning,
    /// It does not work, or not as promised.
    Failure,
}

impl Verdict {
    fn good(said: impl Into<String>) -> Self {
        Self { level: Level::Good, said: said.into(), remedy: String::new() }
    }

    fn warning(said: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, said: said.into(), remedy: remedy.into() }
    }

    fn failure(said: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Failure, said: said.into(), remedy: remedy.into() }
    }
}

/// Every check, in the order in which they are told.
pub(crate) const ALL: &[Check] = &[
    Check { name: "api-server", when: When::Always, decide: cluster::api_server },
    Check { name: "kubernetes-version", when: When::Always, decide: cluster::kubernetes_version },
    Check { name: "nodes", when: When::Always, decide: cluster::nodes },
    Check { name: "rights", when: When::Before, decide: cluster::rights },
    Check { name: "gateway-api", when: When::Always, decide: cluster::gateway_api },
    Check { name: "cilium-socket-lb", when: When::Always, decide: network::cilium_socket_lb },
    Check { name: "cilium-exclusive", when: When::Always, decide: network::cilium_exclusive },
    Check { name: "calico-ebpf", when: When::Always, decide: network::calico_ebpf },
    Check { name: "kube-proxy", when: When::Always, decide: network::kube_proxy },
    Check { name: "definitions", when: When::After, decide: installed::definitions },
    Check { name: "control-plane", when: When::After, decide: installed::control_plane },
    Check { name: "injector", when: When::After, decide: installed::injector },
    Check { name: "cni", when: When::After, decide: installed::cni },
    Check { name: "webhook", when: When::After, decide: installed::webhook },
    Check { name: "webhook-certificate", when: When::After, decide: installed::webhook_certificate },
    Check { name: "version", when: When::After, decide: installed::version },
    Check { name: "pod-security", when: When::Always, decide: workloads::pod_security },
    Check { name: "trust-bundle", when: When::After, decide: workloads::trust_bundle },
    Check { name: "authority-expiry", when: When::After, decide: workloads::authority_expiry },
    Check { name: "issuer-secret", when: When::After, decide: installed::issuer_secret },
    Check { name: "issuer-expiry", when: When::After, decide: installed::issuer_expiry },
    Check { name: "injection", when: When::After, decide: workloads::injection },
    Check { name: "proxy-version", when: When::After, decide: workloads::proxy_version },
];

/// The verdicts of a stage. Without an API server there is nothing more to say.
pub(crate) fn verdicts(facts: &Facts, stage: Stage) -> Vec<(&'static str, Verdict)> {
    let other = match stage {
        Stage::After => When::Before,
        Stage::Before => When::After,
    };
    let wanted = ALL.iter().filter(|check| check.when != other);
    let mut told = Vec::new();
    for Check { name, decide, .. } in wanted {
        let verdict = decide(facts).unwrap_or_else(|early| early);
        let is_over = *name == "api-server" && verdict.level == Level::Failure;
        told.push((*name, verdict));
        if is_over {
            break;
        }
    }
    told
}

#[cfg(test)]
mod tests;
