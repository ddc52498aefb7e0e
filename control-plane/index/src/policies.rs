//! Weft's own policies, as they are meant.

pub(crate) mod authorization;
pub(crate) mod mesh;
pub(crate) mod traffic;

use std::sync::Arc;

use weft_crds::TargetRef;

use crate::object::Name;
use crate::problem::Problem;

/// A Service, or one of its ports, that a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) service: Name,
    /// Name of the one port; `None`: all.
    pub(crate) section: Option<Arc<str>>,
    /// Its field in the resource.
    pub(crate) field: String,
}

/// The Services among the targets; every other target is a problem.
fn service_targets(policy: &Name, refs: &[TargetRef], problems: &mut Vec<Problem>) -> Vec<Target> {
    let mut targets = Vec::new();
    for (i, target) in refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{i}]");
        if !target.group.is_empty() || target.kind != "Service" {
            let message = format!("{} is not supported as a target; only Service is", target.kind);
            problems.push(Problem::refused(field, message));
            continue;
        }
        let service = Name { namespace: Arc::clone(&policy.namespace), name: Arc::from(target.name.as_str()) };
        targets.push(Target { service, section: target.section_name.as_deref().map(Arc::from), field });
    }
    targets
}
