//! The rules of a pod, set and looked at from outside of it.

use std::path::Path;

use weft_init::{InitError, Options};

use crate::namespace::{NamespaceError, within};

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// The pod's network cannot be reached.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// They cannot be set, or are not those that should be.
    #[error("the redirect rules are not in force")]
    Rules(#[from] InitError),
}

impl RulesError {
    /// Whether the namespace was there, and held other rules or none.
    pub(crate) const fn is_difference(&self) -> bool {
        matches!(self, Self::Rules(InitError::Unproven(_)))
    }
}

/// Sets the rules in a pod's network namespace and reads them back. That connections are caught is for the pod to prove: its loopback
/// interface may not be up yet.
pub(crate) fn set(namespace: &Path, options: &Options) -> Result<(), RulesError> {
    within(namespace, || weft_init::apply(options).and_then(|()| weft_init::compare(options)))?.map_err(Into::into)
}

/// Reads the rules back, and says whether they are those of these options.
pub(crate) fn compare(namespace: &Path, options: &Options) -> Result<(), RulesError> {
    within(namespace, || weft_init::compare(options))?.map_err(Into::into)
}
