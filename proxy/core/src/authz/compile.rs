//! From inbound policy as data to rules by port and peer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, DefaultAuthorization, MtlsMode, OperationMatch, PathPattern, PeerMatch,
};
use weft_model::resources::{InboundPort, InboundSpec};
use weft_model::service::AppProtocol;

use super::rules::{Condition, Entry, Operation, Pattern, RuleSet};
use super::{Policies, PortPolicy};
use crate::path::normalize;

pub(super) fn compile(spec: &InboundSpec) -> Policies {
    let known = spec.ports.iter().map(|port| port.port);
    let mentioned = spec.authz.iter().flat_map(ports_of);
    let ports: BTreeSet<u16> = known.chain(mentioned).collect();
    let of = |port: Option<u16>| {
        let known = spec.ports.iter().find(|known| Some(known.port) == port);
        compile_port(spec, port, known)
    };
    Policies {
        ports: ports.into_iter().map(|port| (port, of(Some(port)))).collect::<HashMap<_, _>>(),
        others: of(None),
        ids: spec.authz.iter().map(|policy| policy.id.clone()).collect(),
        default: spec.default_authorization,
        default_policy: spec.default_policy.clone(),
    }
}

/// Every port that a policy mentions.
fn ports_of(policy: &AuthzPolicy) -> impl Iterator<Item = u16> + '_ {
    let in_rules = policy.rules.iter().flat_map(|rule| &rule.to).flat_map(|operation| &operation.ports);
    policy.ports.iter().chain(in_rules).copied()
}

/// What holds on `port`, or on all that are mentioned nowhere.
fn compile_port(spec: &InboundSpec, port: Option<u16>, known: Option<&InboundPort>) -> PortPolicy {
    let covers = |ports: &[u16]| ports.is_empty() || port.is_some_and(|port| ports.contains(&port));
    let mut compiled = PortPolicy {
        protocol: known.map_or(AppProtocol::Undeclared, |known| known.protocol),
        mtls: known.map_or(spec.mtls, |known| known.mtls),
        service: known.and_then(|known| known.service.clone()),
        probe_paths: known.map(|known| open_paths(&known.probe_paths)).unwrap_or_default(),
        scrape_paths: known.map(|known| open_paths(&known.scrape_paths)).unwrap_or_default(),
        deny: RuleSet::default(),
        allow: RuleSet::default(),
        audit: RuleSet::default(),
        first_allow: None,
        needs_l7: false,
        judges_paths: false,
        may_refuse_strangers: false,
    };
    for (number, policy) in spec.authz.iter().enumerate().filter(|(_, policy)| covers(&policy.ports)) {
        if policy.action == AuthzAction::Allow {
            compiled.first_allow = compiled.first_allow.or(Some(number));
        }
        for rule in &policy.rules {
            if let Some(condition) = condition(rule, policy.action, covers) {
                compiled.insert(number, policy.action, rule, condition);
            }
        }
    }
    let may_refuse = compiled.first_allow.is_some() || spec.default_authorization != DefaultAuthorization::Allow;
    if compiled.probe_paths.is_empty() && compiled.scrape_paths.is_empty() {
        return compiled;
    }
    if may_refuse {
        compiled.needs_l7 = true;
        compiled.judges_paths = true;
    }
    let is_strict = compiled.mtls == MtlsMode::Strict;
    let may_deny = !compiled.deny.anybody.is_empty();
    compiled.may_refuse_strangers = may_refuse || is_strict || may_deny;
    // What is denied as bytes may be a probe.
    compiled.needs_l7 |= !compiled.probe_paths.is_empty() && may_deny;
    // Where the port is declared to carry bytes, what they are is looked at only where plaintext would be refused.
    compiled.needs_l7 |= is_strict && compiled.protocol == AppProtocol::Opaque;
    compiled
}

impl PortPolicy {
    fn insert(&mut self, policy: usize, action: AuthzAction, rule: &AuthzRule, condition: Condition) {
        if let Condition::Http(operations) = &condition {
            self.needs_l7 = true;
            self.judges_paths |= operations.iter().any(|operation| !operation.paths.is_empty());
        }
        let set = match action {
            AuthzAction::Allow => &mut self.allow,
            AuthzAction::Audit => &mut self.audit,
            AuthzAction::Deny => &mut self.deny,
        };
        let entry = Entry { policy, condition };
        if rule.from.is_empty() {
            set.anybody.push(entry);
            return;
        }
        for peer in &rule.from {
            let list = match peer {
                PeerMatch::Authenticated => &mut set.authenticated,
                PeerMatch::Identity(identity) => set.by_identity.entry(identity.clone()).or_default(),
                PeerMatch::Namespace(namespace) => set.by_namespace.entry(Arc::clone(namespace)).or_default(),
            };
            list.push(entry.clone());
        }
    }
}

/// What a rule asks of requests on a port; `None` where it can never hold there.
fn condition(rule: &AuthzRule, action: AuthzAction, covers: impl Fn(&[u16]) -> bool) -> Option<Condition> {
    if rule.to.is_empty() {
        return Some(Condition::Anything);
    }
    let here: Vec<&OperationMatch> = rule.to.iter().filter(|operation| covers(&operation.ports)).collect();
    if here.iter().any(|operation| !operation.is_l7()) {
        return Some(Condition::Anything);
    }
    let operations: Vec<Operation> =
        here.into_iter().filter_map(|operation| compile_operation(operation, action)).collect();
    (!operations.is_empty()).then(|| Condition::Http(operations.into()))
}

/// An alternative, its paths in normal form. A path that has none can match no request: an ALLOW loses it, a DENY must
/// not become weaker by it and refuses every path instead.
fn compile_operation(operation: &OperationMatch, action: AuthzAction) -> Option<Operation> {
    let patterns: Vec<Option<Pattern>> = operation.paths.iter().map(compile_pattern).collect();
    let all_readable = patterns.iter().all(Option::is_some);
    let mut paths: Vec<Pattern> = patterns.into_iter().flatten().collect();
    if !all_readable && action == AuthzAction::Deny {
        paths = vec![Pattern::Prefix(Box::default())];
    }
    if paths.is_empty() && !operation.paths.is_empty() {
        return None;
    }
    Some(Operation { methods: operation.methods.clone().into(), paths: paths.into() })
}

fn compile_pattern(pattern: &PathPattern) -> Option<Pattern> {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = pattern;
    let normal = normalize(text).ok()?;
    Some(match pattern {
        PathPattern::Exact(_) => Pattern::Exact(normal.as_str().into()),
        PathPattern::Prefix(_) => Pattern::Prefix(normal.as_str().trim_end_matches('/').into()),
    })
}

/// The paths that stay open, in normal form. What has none is left closed.
fn open_paths(paths: &[Arc<str>]) -> Box<[Arc<str>]> {
    paths.iter().filter_map(|path| Some(Arc::from(normalize(path).ok()?.as_str()))).collect()
}
