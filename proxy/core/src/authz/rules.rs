//! The rules of one action on one port, found by who asks.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use weft_model::identity::SpiffeId;

use super::L7View;

/// Rules by the peers they speak of. Every list is in the order of the policies.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    pub(super) anybody: Vec<Entry>,
    pub(super) authenticated: Vec<Entry>,
    pub(super) by_namespace: HashMap<Arc<str>, Vec<Entry>>,
    pub(super) by_identity: HashMap<SpiffeId, Vec<Entry>>,
}

/// One rule, as one kind of peer meets it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The number of its policy.
    pub(super) policy: usize,
    pub(super) condition: Condition,
}

/// What a rule asks of the request. Ports were settled when it was compiled.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    /// Nothing.
    Anything,
    /// One of these alternatives.
    Http(Arc<[Operation]>),
}

/// One alternative; empty lists mean "any", at least one is not empty.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) methods: Box<[Method]>,
    pub(super) paths: Box<[Pattern]>,
}

/// A path pattern, itself in normal form.
#[derive(Debug)]
pub(super) enum Pattern {
    Exact(Box<str>),
    /// Without its trailing slash; empty for `/`.
    Prefix(Box<str>),
}

impl RuleSet {
    /// The policy of the first rule, in the order of policies, that speaks of the peer and holds.
    pub(super) fn find(&self, peer: Option<&SpiffeId>, mut holds: impl FnMut(&Condition) -> bool) -> Option<usize> {
        let first = |entries: &[Entry]| entries.iter().find(|entry| holds(&entry.condition)).map(|entry| entry.policy);
        self.of(peer).map(first).into_iter().flatten().min()
    }

    /// Shows every rule that speaks of the peer, in the order of policies.
    pub(super) fn visit<'a>(&'a self, peer: Option<&SpiffeId>, mut show: impl FnMut(usize, &'a Condition)) {
        let mut lists = self.of(peer);
        loop {
            let mut next: Option<&mut &'a [Entry]> = None;
            for list in &mut lists {
                let policy = list.first().map(|entry| entry.policy);
                let best = next.as_ref().and_then(|best| best.first()).map(|entry| entry.policy);
                if policy.is_some() && (best.is_none() || policy < best) {
                    next = Some(list);
                }
            }
            let Some(list) = next else { return };
            let Some((entry, rest)) = list.split_first() else { return };
            *list = rest;
            show(entry.policy, &entry.condition);
        }
    }

    fn of(&self, peer: Option<&SpiffeId>) -> [&[Entry]; 4] {
        let Some(peer) = peer else { return [&self.anybody, &[], &[], &[]] };
        let in_namespace = self.by_namespace.get(peer.namespace()).map_or(&[][..], Vec::as_slice);
        let by_name = self.by_identity.get(peer).map_or(&[][..], Vec::as_slice);
        [&self.anybody, &self.authenticated, in_namespace, by_name]
    }
}

impl Condition {
    /// As ALLOW and AUDIT read it: what cannot be seen does not hold.
    pub(super) fn is_allowed(&self, request: Option<L7View<'_>>) -> bool {
        let Self::Http(operations) = self else { return true };
        request.is_some_and(|request| operations.iter().any(|operation| operation.holds(request, false)))
    }

    /// As DENY reads it: what cannot be seen holds.
    pub(super) fn is_denied(&self, request: Option<L7View<'_>>) -> bool {
        let Self::Http(operations) = self else { return true };
        request.is_none_or(|request| operations.iter().any(|operation| operation.holds(request, true)))
    }
}

impl Operation {
    fn holds(&self, request: L7View<'_>, unseen: bool) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(request.method);
        let path = self.paths.is_empty()
            || request.path.map_or(unseen, |path| self.paths.iter().any(|pattern| pattern.matches(path.as_str())));
        method && path
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(want) => path == &**want,
            // The root covers what is not a path, too (`*` of OPTIONS): a DENY of everything means everything.
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}
