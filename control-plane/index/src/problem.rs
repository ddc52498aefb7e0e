//! What does not hold, and why.

use std::fmt;

/// Something of a resource that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Which promise it breaks.
    pub condition: Condition,
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
    /// Another resource stands in its place.
    Conflicted,
    /// Nothing is broken, but the author will want to know.
    Notice,
    /// A reference does not resolve.
    ResolvedRefs,
}

impl Problem {
    pub(crate) fn refused(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition: Condition::Accepted, field: field.into(), message: message.into() }
    }

    pub(crate) fn conflicted(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition: Condition::Conflicted, field: field.into(), message: message.into() }
    }

    pub(crate) fn unresolved(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition: Condition::ResolvedRefs, field: field.into(), message: message.into() }
    }

    pub(crate) fn notice(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition: Condition::Notice, field: field.into(), message: message.into() }
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
    /// Whether all of it is in force.
    pub accepted: bool,
    /// Whether all its references resolve.
    pub resolved_refs: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl ObjectStatus {
    pub(crate) fn new(version: u64, problems: Vec<Problem>) -> Self {
        let none = |condition| !problems.iter().any(|p| p.condition == condition);
        let accepted = none(Condition::Accepted) && none(Condition::Conflicted);
        Self { version, accepted, resolved_refs: none(Condition::ResolvedRefs), problems }
    }
}
