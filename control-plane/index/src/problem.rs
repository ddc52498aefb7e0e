//! What does not hold, and why.

use std::fmt;

/// Something of a resource that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Which promise it breaks.
    pub condition: Condition,
    /// Why, in Gateway API's word for it.
    pub reason: Reason,
    /// Where: `spec.rules[0].filters[1]`.
    pub field: String,
    /// What is wrong and what follows from it.
    pub message: String,
}

/// Which promise a problem breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Part of the resource is not in force.
    Accepted,
    /// Nothing is broken, but the author will want to know.
    Notice,
    /// A reference does not resolve.
    ResolvedRefs,
}

/// Why a promise is broken: the reasons of Gateway API's conditions (v1.6, `shared_types.go` and those of its kinds of routes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// What is referred to is not there.
    BackendNotFound,
    /// Another resource stands in its place.
    Conflicted,
    /// Filters that cannot be honoured together.
    IncompatibleFilters,
    /// A kind of backend that is not known.
    InvalidKind,
    /// The parent is not there, or has no such port.
    NoMatchingParent,
    /// Nothing lets it refer to another namespace.
    RefNotPermitted,
    /// A value that cannot be honoured.
    UnsupportedValue,
}

impl Reason {
    /// As a condition says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackendNotFound => "BackendNotFound",
            Self::Conflicted => "Conflicted",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::InvalidKind => "InvalidKind",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::UnsupportedValue => "UnsupportedValue",
        }
    }
}

impl Problem {
    fn new(condition: Condition, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition, reason, field: field.into(), message: message.into() }
    }

    /// With a reason that says more than its condition's usual one.
    pub(crate) fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }

    pub(crate) fn refused(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Condition::Accepted, Reason::UnsupportedValue, field, message)
    }

    pub(crate) fn unresolved(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Condition::ResolvedRefs, Reason::BackendNotFound, field, message)
    }

    pub(crate) fn notice(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Condition::Notice, Reason::UnsupportedValue, field, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// How a resource stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// When it last changed: every key that it concerns has its effect from this version on.
    pub version: u64,
    /// Whether the newest version is in force, in part at least; otherwise the last good one is, if there was one.
    pub is_newest: bool,
    /// Whether all of it is in force.
    pub accepted: bool,
    /// Whether all its references resolve.
    pub resolved_refs: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl ObjectStatus {
    pub(crate) fn new(version: u64, is_newest: bool, problems: Vec<Problem>) -> Self {
        let none = |condition| !problems.iter().any(|p| p.condition == condition);
        let (accepted, resolved_refs) = (none(Condition::Accepted), none(Condition::ResolvedRefs));
        Self { version, is_newest, accepted, resolved_refs, problems }
    }
}
