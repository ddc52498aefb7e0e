//! Who may ask a workload for what: the inbound policy of this proxy, compiled per port, and the verdict with the
//! policy that gave it (semantics 15, 37, 41).
//!
//! Order: a path that is probed, for who has no identity, as the kubelet; a DENY that matches; the paths that probes and
//! scrapes need; an ALLOW that matches; and where no ALLOW selects the port, the mesh's default. AUDIT decides nothing.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use weft_model::identity::SpiffeId;
use weft_model::policy::{DefaultAuthorization, MtlsMode, PolicyId};
use weft_model::resources::InboundSpec;
use weft_model::service::{AppProtocol, ServiceKey};

use crate::path::NormalPath;

mod compile;
mod rules;

use rules::RuleSet;

/// What of a request is judged. Without one a connection is judged as bytes.
#[derive(Clone, Copy, Debug)]
pub struct L7View<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path in normal form. `None` where it has no such form: then no ALLOW with a path matches and every DENY with
    /// one does.
    pub path: Option<&'a NormalPath<'a>>,
}

/// What is decided, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Let in.
    Allow {
        /// The policy that allows; `None` where nothing was said, or for the paths that stay open.
        by: Option<&'a PolicyId>,
    },
    /// Refused.
    Deny {
        /// The policy that refuses: the DENY that matched, an ALLOW that selects the port and did not match, or the one
        /// that sets the default. `None`: the built-in default.
        by: Option<&'a PolicyId>,
        /// How it came to that.
        cause: DenyCause,
    },
}

impl<'a> Verdict<'a> {
    /// Whether it lets in.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The policy that decided.
    pub fn by(&self) -> Option<&'a PolicyId> {
        match *self {
            Self::Allow { by } | Self::Deny { by, .. } => by,
        }
    }
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyCause {
    /// No ALLOW selects the port, and the default refuses.
    Default,
    /// A DENY matched.
    Denied,
    /// ALLOW policies select the port and none matched.
    NotAllowed,
}

/// The inbound policy of a workload, compiled.
#[derive(Debug)]
pub struct Policies {
    ports: HashMap<u16, PortPolicy>,
    /// What holds for every other port.
    others: PortPolicy,
    ids: Box<[PolicyId]>,
    default: DefaultAuthorization,
    default_policy: Option<PolicyId>,
}

/// What holds for one port.
#[derive(Debug)]
struct PortPolicy {
    protocol: AppProtocol,
    mtls: MtlsMode,
    service: Option<ServiceKey>,
    probe_paths: Box<[Arc<str>]>,
    scrape_paths: Box<[Arc<str>]>,
    deny: RuleSet,
    allow: RuleSet,
    audit: RuleSet,
    /// The first ALLOW that selects the port, whether or not it can match; a number of `Policies::ids`.
    first_allow: Option<usize>,
    needs_l7: bool,
    judges_paths: bool,
    /// Whether something that is no probe may be refused to who has no identity.
    may_refuse_strangers: bool,
}

impl Policies {
    /// Compiles the policy that discovery served.
    pub fn compile(spec: &InboundSpec) -> Self {
        compile::compile(spec)
    }

    /// Judges a connection (`request` is `None`) or a request.
    ///
    /// **Cost:** rules are found by the peer's identity and namespace; what is scanned are only those that speak of this
    /// peer on this port. No allocation.
    pub fn judge(&self, port: u16, peer: Option<&SpiffeId>, request: Option<L7View<'_>>) -> Verdict<'_> {
        let policy = self.port(port);
        if peer.is_none() && policy.is_probe(request) {
            return Verdict::Allow { by: None };
        }
        if let Some(denied) = policy.deny.find(peer, |condition| condition.is_denied(request)) {
            return Verdict::Deny { by: self.ids.get(denied), cause: DenyCause::Denied };
        }
        if policy.is_open(request) {
            return Verdict::Allow { by: None };
        }
        let Some(first_allow) = policy.first_allow else { return self.judge_by_default(peer) };
        match policy.allow.find(peer, |condition| condition.is_allowed(request)) {
            Some(allowed) => Verdict::Allow { by: self.ids.get(allowed) },
            None => Verdict::Deny { by: self.ids.get(first_allow), cause: DenyCause::NotAllowed },
        }
    }

    /// Calls `seen` with each AUDIT policy that matches, each once.
    pub fn audit<'a>(
        &'a self,
        port: u16,
        peer: Option<&SpiffeId>,
        request: Option<L7View<'_>>,
        mut seen: impl FnMut(&'a PolicyId),
    ) {
        let mut last = None;
        self.port(port).audit.visit(peer, |policy, condition| {
            if last != Some(policy) && condition.is_allowed(request) {
                last = Some(policy);
                self.ids.get(policy).into_iter().for_each(&mut seen);
            }
        });
    }

    /// Whether some rule of the port asks for what only HTTP can answer: then even bytes inside `weft/tcp` are looked at.
    pub fn needs_l7(&self, port: u16) -> bool {
        self.port(port).needs_l7
    }

    /// Whether some rule of the port asks for a path: then a path that has no normal form is answered 400.
    pub fn judges_paths(&self, port: u16) -> bool {
        self.port(port).judges_paths
    }

    /// Whether the port takes plaintext.
    pub fn mtls(&self, port: u16) -> MtlsMode {
        self.port(port).mtls
    }

    /// Whether the request reads a path of the port that stays open, a probe's or a scrape's, written exactly so (semantics 41):
    /// otherwise what is judged here and what the application reads might be two things.
    pub fn is_open(&self, port: u16, request: Option<L7View<'_>>) -> bool {
        request.and_then(|request| request.path).is_some_and(NormalPath::is_unchanged)
            && self.port(port).is_open(request)
    }

    /// Whether the request is a probe for which an exception is made, on a port where others without an identity may be refused.
    pub fn is_excepted(&self, port: u16, request: L7View<'_>) -> bool {
        let policy = self.port(port);
        policy.may_refuse_strangers && policy.is_probe(Some(request))
    }

    /// What the port is declared to speak.
    pub fn protocol(&self, port: u16) -> AppProtocol {
        self.port(port).protocol
    }

    /// The service whose target the port is, where exactly one is.
    pub fn service(&self, port: u16) -> Option<&ServiceKey> {
        self.port(port).service.as_ref()
    }

    fn port(&self, port: u16) -> &PortPolicy {
        self.ports.get(&port).unwrap_or(&self.others)
    }

    fn judge_by_default(&self, peer: Option<&SpiffeId>) -> Verdict<'_> {
        let by = self.default_policy.as_ref();
        let allowed = match self.default {
            DefaultAuthorization::Allow => true,
            DefaultAuthorization::Authenticated => peer.is_some(),
            DefaultAuthorization::Deny => false,
        };
        if allowed { Verdict::Allow { by } } else { Verdict::Deny { by, cause: DenyCause::Default } }
    }
}

impl PortPolicy {
    /// Whether the request reads a path that is probed, written exactly so: nothing else holds for it.
    fn is_probe(&self, request: Option<L7View<'_>>) -> bool {
        let Some(path) = read(request) else { return false };
        path.is_unchanged() && self.probe_paths.iter().any(|open| **open == *path.as_str())
    }

    /// Whether the request reads one of the paths that stay open.
    fn is_open(&self, request: Option<L7View<'_>>) -> bool {
        let Some(path) = read(request) else { return false };
        self.probe_paths.iter().chain(&self.scrape_paths).any(|open| **open == *path.as_str())
    }
}

/// What is read by a request that only reads, as probes and scrapes do.
fn read<'a>(request: Option<L7View<'a>>) -> Option<&'a NormalPath<'a>> {
    let L7View { method, path } = request?;
    path.filter(|_| matches!(*method, Method::GET | Method::HEAD))
}

#[cfg(test)]
mod tests;
