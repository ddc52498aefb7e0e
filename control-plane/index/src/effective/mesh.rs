//! `MeshPolicy`: the most specific wins; it loosens a wider one only where that one says `overridable` (semantics 39).
//! Within one scope every field is decided by the first policy, in order of precedence, that sets it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use weft_model::policy::{DefaultAuthorization, MtlsMode};
use weft_model::resources::{EgressMode, TelemetrySpec};
use weft_model::{AppProtocol, PolicyId};

use crate::policies::mesh::MeshEntry;

/// What `MeshPolicies` say about one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EffectiveMesh {
    pub(crate) mtls: MtlsMode,
    /// Ports whose mode differs from `mtls`.
    pub(crate) mtls_ports: BTreeMap<u16, MtlsMode>,
    pub(crate) default_authorization: DefaultAuthorization,
    pub(crate) default_policy: Option<PolicyId>,
    pub(crate) protocols: BTreeMap<u16, AppProtocol>,
    /// Who may not say what it says, where, and because of whom.
    pub(crate) refused: Vec<Refused>,
}

/// A policy that may not say what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) policy: PolicyId,
    pub(crate) field: String,
    pub(crate) because: PolicyId,
}

/// A value that some policy set.
#[derive(Clone, Debug)]
struct Held<T> {
    value: T,
    overridable: bool,
    by: Option<PolicyId>,
}

impl<T: Copy + Tightness> Held<T> {
    fn initial(value: T) -> Self {
        Self { value, overridable: true, by: None }
    }

    fn set(value: T, by: &MeshEntry) -> Self {
        Self { value, overridable: by.overridable, by: Some(by.id.clone()) }
    }

    /// Whether a more specific policy may put `value` in its place; if not, who forbids it.
    fn admits(&self, value: T) -> Result<(), PolicyId> {
        match &self.by {
            Some(by) if value.tightness() < self.value.tightness() && !self.overridable => Err(by.clone()),
            _ => Ok(()),
        }
    }
}

/// How much a setting forbids.
trait Tightness {
    fn tightness(self) -> u8;
}

impl Tightness for MtlsMode {
    fn tightness(self) -> u8 {
        match self {
            Self::Permissive => 0,
            Self::Strict => 1,
        }
    }
}

impl Tightness for DefaultAuthorization {
    fn tightness(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Authenticated => 1,
            Self::Deny => 2,
        }
    }
}

/// What one scope after the other made of it.
#[derive(Clone, Debug)]
struct Folded {
    mtls: Held<MtlsMode>,
    ports: BTreeMap<u16, Held<MtlsMode>>,
    default: Held<DefaultAuthorization>,
    protocols: BTreeMap<u16, AppProtocol>,
}

/// Merges the policies of the whole mesh, of the namespace and of the workload, each in order of precedence.
pub(crate) fn mesh(scopes: [&[&MeshEntry]; 3]) -> EffectiveMesh {
    let mut folded = Folded {
        mtls: Held::initial(MtlsMode::default()),
        ports: BTreeMap::new(),
        default: Held::initial(DefaultAuthorization::default()),
        protocols: BTreeMap::new(),
    };
    let mut refused = Vec::new();
    for policies in scopes {
        folded = fold(&folded, policies, &mut refused);
    }
    let mtls = folded.mtls.value;
    EffectiveMesh {
        mtls,
        mtls_ports: folded
            .ports
            .into_iter()
            .map(|(port, held)| (port, held.value))
            .filter(|(_, m)| *m != mtls)
            .collect(),
        default_authorization: folded.default.value,
        default_policy: folded.default.by,
        protocols: folded.protocols,
        refused,
    }
}

fn fold(wider: &Folded, policies: &[&MeshEntry], refused: &mut Vec<Refused>) -> Folded {
    let mut now = wider.clone();
    let mut refuse = |policy: &MeshEntry, field: String, because: PolicyId| {
        refused.push(Refused { policy: policy.id.clone(), field, because });
    };
    if let Some((policy, mode)) = policies.iter().find_map(|p| p.mtls.map(|mode| (*p, mode))) {
        match wider.mtls.admits(mode) {
            Ok(()) => now.mtls = Held::set(mode, policy),
            Err(because) => refuse(policy, "spec.mtls.mode".to_owned(), because),
        }
        // A mode for everything replaces the wider exceptions too, except those that it may not loosen.
        now.ports.retain(|_, held| held.admits(mode).is_err());
    }
    let mut ports = BTreeMap::new();
    for policy in policies {
        for (port, mode) in &policy.mtls_ports {
            ports.entry(*port).or_insert((*policy, *mode));
        }
        for (port, protocol) in &policy.protocols {
            if policies.iter().find_map(|p| p.protocols.get(port)) == Some(protocol) {
                now.protocols.insert(*port, *protocol);
            }
        }
    }
    for (port, (policy, mode)) in ports {
        match wider.ports.get(&port).unwrap_or(&wider.mtls).admits(mode) {
            Ok(()) => {
                now.ports.insert(port, Held::set(mode, policy));
            }
            Err(because) => refuse(policy, format!("spec.mtls.ports[port={port}]"), because),
        }
    }
    if let Some((policy, default)) = policies.iter().find_map(|p| p.default_authorization.map(|d| (*p, d))) {
        match wider.default.admits(default) {
            Ok(()) => now.default = Held::set(default, policy),
            Err(because) => refuse(policy, "spec.defaultAuthorization".to_owned(), because),
        }
    }
    now
}

/// What the policies of the whole mesh, in order of precedence, say that only they can say.
pub(crate) fn wide(policies: &[&MeshEntry]) -> (Vec<IpNet>, EgressMode, TelemetrySpec) {
    let networks = policies.iter().flat_map(|p| p.wide.networks.iter().copied()).collect();
    let egress = policies.iter().find_map(|p| p.wide.egress).unwrap_or_default();
    let telemetry = policies.iter().find_map(|p| p.wide.telemetry.clone()).unwrap_or_default();
    (networks, egress, telemetry)
}

#[cfg(test)]
mod tests;
