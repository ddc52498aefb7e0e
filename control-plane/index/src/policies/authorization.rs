//! `AuthorizationPolicy`, as it is meant.

use std::sync::Arc;

use http::Method;
use weft_crds::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Operation, Path, Peer, Selector};
use weft_model::bounds::{AUTHZ_ALTERNATIVES_MAX, AUTHZ_RULES_MAX, METHOD_BYTES_MAX, PATH_BYTES_MAX};
use weft_model::identity::is_dns_label;
use weft_model::policy::{AuthzAction, AuthzRule, OperationMatch, PathPattern, PeerMatch};
use weft_model::{PolicyId, SpiffeId};

use super::{Target, service_targets};
use crate::object::{Kind, Name};
use crate::problem::Problem;
use crate::read::{Read, at_most, plain};

/// An `AuthorizationPolicy`, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthzEntry {
    pub(crate) id: PolicyId,
    pub(crate) scope: Scope,
    pub(crate) action: AuthzAction,
    pub(crate) rules: Vec<AuthzRule>,
}

/// Whose policy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every workload of the namespace.
    Namespace,
    /// Workloads with these labels.
    Selector(Selector),
    /// Workloads of these Services, at their target ports.
    Services(Vec<Target>),
}

/// Reads an `AuthorizationPolicy`.
///
/// One that is understood only in part is not in force in part: the last good version stays. Where there is none,
/// [`AuthzEntry::closed`] is what holds.
pub(crate) fn read(name: &Name, policy: &AuthorizationPolicy) -> Read<AuthzEntry> {
    let spec = &policy.spec;
    let mut problems = Vec::new();
    let scope = match (&spec.selector, spec.target_refs.is_empty()) {
        (None, true) => Scope::Namespace,
        (Some(selector), true) => Scope::Selector(selector.clone()),
        (None, false) => Scope::Services(service_targets(name, &spec.target_refs, &mut problems)),
        (Some(_), false) => {
            let message = "a policy has either a selector or targetRefs";
            return Read::refused(Problem::refused("spec.targetRefs", message));
        }
    };
    let mut rules = Vec::new();
    if let Err(message) = at_most(spec.rules.len(), AUTHZ_RULES_MAX) {
        problems.push(Problem::refused("spec.rules", message));
    }
    for (i, rule) in spec.rules.iter().enumerate() {
        rules.push(read_rule(rule, &format!("spec.rules[{i}]"), &mut problems));
    }
    if !problems.is_empty() {
        return Read { entry: None, problems };
    }
    let id = PolicyId::new(Kind::AuthorizationPolicy.as_str(), &name.namespace, &name.name);
    Read { entry: Some(AuthzEntry { id, scope, action: action(spec.action), rules }), problems }
}

impl AuthzEntry {
    /// What holds where a policy was never understood, as far as its scope is: nobody is let in by it.
    pub(crate) fn closed(name: &Name, policy: &AuthorizationPolicy) -> Self {
        let spec = &policy.spec;
        let scope = match &spec.selector {
            Some(selector) => Scope::Selector(selector.clone()),
            None if spec.target_refs.is_empty() => Scope::Namespace,
            None => Scope::Services(service_targets(name, &spec.target_refs, &mut Vec::new())),
        };
        let rules = match spec.action {
            AuthorizationAction::Allow | AuthorizationAction::Audit => Vec::new(),
            AuthorizationAction::Deny => vec![AuthzRule::default()],
        };
        let id = PolicyId::new(Kind::AuthorizationPolicy.as_str(), &name.namespace, &name.name);
        Self { id, scope, action: action(spec.action), rules }
    }
}

fn action(written: AuthorizationAction) -> AuthzAction {
    match written {
        AuthorizationAction::Allow => AuthzAction::Allow,
        AuthorizationAction::Audit => AuthzAction::Audit,
        AuthorizationAction::Deny => AuthzAction::Deny,
    }
}

fn read_rule(rule: &AuthorizationRule, field: &str, problems: &mut Vec<Problem>) -> AuthzRule {
    let mut from = Vec::new();
    for (i, peer) in rule.from.iter().enumerate() {
        match read_peer(peer) {
            Ok(peers) => from.extend(peers),
            Err(message) => problems.push(Problem::refused(format!("{field}.from[{i}]"), message)),
        }
    }
    let mut to = Vec::new();
    for (i, operation) in rule.to.iter().enumerate() {
        match read_operation(operation) {
            Ok(operation) => to.push(operation),
            Err((at, message)) => problems.push(Problem::refused(format!("{field}.to[{i}].{at}"), message)),
        }
    }
    for (at, count) in [("from", from.len()), ("to", to.len())] {
        if let Err(message) = at_most(count, AUTHZ_ALTERNATIVES_MAX) {
            problems.push(Problem::refused(format!("{field}.{at}"), message));
        }
    }
    AuthzRule { from, to }
}

fn read_peer(peer: &Peer) -> Result<Vec<PeerMatch>, String> {
    match (peer.identities.as_slice(), peer.namespaces.as_slice(), peer.authenticated) {
        ([], [], Some(true)) => Ok(vec![PeerMatch::Authenticated]),
        (identities @ [_, ..], [], None) => identities
            .iter()
            .map(|text| text.parse::<SpiffeId>().map(PeerMatch::Identity).map_err(|e| e.to_string()))
            .collect(),
        ([], namespaces @ [_, ..], None) => namespaces
            .iter()
            .map(|ns| {
                let named = || PeerMatch::Namespace(Arc::from(ns.as_str()));
                is_dns_label(ns).then(named).ok_or_else(|| format!("{ns:?} is not the name of a namespace"))
            })
            .collect(),
        _ => Err("says exactly one of identities, namespaces and authenticated: true".to_owned()),
    }
}

fn read_operation(operation: &Operation) -> Result<OperationMatch, (&'static str, String)> {
    if operation == &Operation::default() {
        return Err(("", "says nothing; leave `to` out to mean everything".to_owned()));
    }
    let counts = [("ports", operation.ports.len()), ("methods", operation.methods.len())];
    for (field, count) in counts.into_iter().chain([("paths", operation.paths.len())]) {
        at_most(count, AUTHZ_ALTERNATIVES_MAX).map_err(|message| (field, message))?;
    }
    if operation.ports.contains(&0) {
        return Err(("ports", "0 is not a port".to_owned()));
    }
    let methods = operation
        .methods
        .iter()
        .map(|text| {
            let upper = (1..=METHOD_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| upper);
            let shown: String = text.chars().take(METHOD_BYTES_MAX).collect();
            method.ok_or_else(|| ("methods", format!("{shown:?} is not a method in capitals")))
        })
        .collect::<Result<_, _>>()?;
    let paths = operation.paths.iter().map(read_path).collect::<Result<_, _>>().map_err(|e| ("paths", e))?;
    Ok(OperationMatch { ports: operation.ports.clone(), methods, paths })
}

/// Paths are compared with normalised ones, so that one which is not normal itself would never match.
fn read_path(path: &Path) -> Result<PathPattern, String> {
    let (text, pattern): (_, fn(Arc<str>) -> PathPattern) = match (&path.exact, &path.prefix) {
        (Some(text), None) => (text, PathPattern::Exact),
        (None, Some(text)) => (text, PathPattern::Prefix),
        _ => return Err("says exactly one of exact and prefix".to_owned()),
    };
    plain(text, PATH_BYTES_MAX)?;
    let normal = text.starts_with('/')
        && !text.contains("//")
        && !text.contains(['%', '\\', '?', '#', '\0'])
        && !text.split('/').any(|segment| segment == "." || segment == "..");
    if !normal {
        return Err(format!("{text:?} is not a decoded, normal path that begins with '/'"));
    }
    Ok(pattern(Arc::from(text.as_str())))
}
