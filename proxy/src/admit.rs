//! Chapter 4: whether it may. Invariant: [`Admitted`] is made here and nowhere else, and everything after this chapter
//! asks for one; so authorization cannot be forgotten on a new path.

use http::Method;
use weft_model::policy::MtlsMode;
use weft_model::resources::EgressMode;
use weft_model::{PolicyId, SpiffeId};
use weft_proxy_core::authz::{L7View, Policies, Verdict};
use weft_proxy_core::path::NormalPath;

use crate::error::Reason;
use crate::probe::{Detour, Detours};
use crate::resolve::Target;
use crate::route::Routed;

/// Something that was routed and may go on.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    routed: Routed,
    /// Where the kubelet goes in place of where the application would send it on.
    detour: Option<Detour>,
}

impl Admitted {
    /// What was decided before.
    pub(crate) fn routed(&self) -> &Routed {
        &self.routed
    }

    /// What becomes of redirects in its answer.
    pub(crate) fn detour(&self) -> Option<&Detour> {
        self.detour.as_ref()
    }
}

/// Why something may not go on, and which policy says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The one word for it.
    pub(crate) reason: Reason,
    /// The policy that decided, where one did.
    pub(crate) policy: Option<PolicyId>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, policy: None }
    }
}

/// Admits what the application sends.
///
/// # Errors
/// [`Reason::Egress`] when it would leave the mesh and may not.
pub(crate) fn outbound(target: &Target, routed: Routed, egress: EgressMode) -> Result<Admitted, Refusal> {
    let leaves = matches!(target, Target::Passthrough(_));
    match egress {
        EgressMode::MeshOnly if leaves => Err(Reason::Egress.into()),
        EgressMode::Allow | EgressMode::MeshOnly => Ok(Admitted { routed, detour: None }),
    }
}

/// What an inbound decision goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The application's port.
    pub(crate) port: u16,
    /// Who asks, as verified.
    pub(crate) peer: Option<&'a SpiffeId>,
    /// The request; `None` for bytes.
    pub(crate) request: Option<(&'a Method, Option<&'a NormalPath<'a>>)>,
    /// What is known of probes.
    pub(crate) detours: Option<&'a Detours>,
}

impl Asked<'_> {
    /// The detour of a probe that only gets here because it is one.
    fn detour(self, policies: &Policies) -> Option<Detour> {
        let Self { port, peer, request, detours } = self;
        let (method, Some(path)) = request? else { return None };
        let is_excepted = peer.is_none() && policies.is_excepted(port, L7View { method, path: Some(path) });
        detours.filter(|_| is_excepted)?.find(port, path.as_str()).cloned()
    }
}

/// Admits what is sent to the application. `decided` is told the deciding policy and every audit that matches.
///
/// # Errors
/// [`Reason::PlaintextRefused`] on a strict port, [`Reason::Authorization`] with the policy that says so.
pub(crate) fn inbound(
    policies: &Policies,
    asked: Asked<'_>,
    routed: Routed,
    mut decided: impl FnMut(Option<&PolicyId>, Decided),
) -> Result<Admitted, Refusal> {
    let request = asked.request.map(|(method, path)| L7View { method, path });
    let is_closed = asked.peer.is_none() && policies.mtls(asked.port) == MtlsMode::Strict;
    // The kubelet and scrapers have no identity.
    if is_closed && !policies.is_open(asked.port, request) {
        return Err(Reason::PlaintextRefused.into());
    }
    policies.audit(asked.port, asked.peer, request, |policy| decided(Some(policy), Decided::Audit));
    match policies.judge(asked.port, asked.peer, request) {
        Verdict::Allow { by } => {
            decided(by, Decided::Allow);
            Ok(Admitted { routed, detour: asked.detour(policies) })
        }
        Verdict::Deny { by, .. } => {
            decided(by, Decided::Deny);
            Err(Refusal { reason: Reason::Authorization, policy: by.cloned() })
        }
    }
}

/// What a policy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// Let it in.
    Allow,
    /// Took note.
    Audit,
    /// Refused it.
    Deny,
}
