//! Why a message was refused.

use std::fmt;

use weft_model::identity::IdentityError;

/// A field that cannot be believed, by its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    path: String,
    problem: Problem,
}

impl Invalid {
    /// The field, as `service.http_routes[2].rules[0].name`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The same, seen from one message further out.
    pub(super) fn under(mut self, field: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }
}

impl From<Problem> for Invalid {
    fn from(problem: Problem) -> Self {
        Self { path: String::new(), problem }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is wrong with a field. Texts are cut to a readable length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not an address.
    #[error("{0:?} is not an address that traffic can go to (ip:port, IPv6 in brackets, no zone)")]
    Address(String),
    /// Filters that cannot be honoured together.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Not a DNS label.
    #[error("{0:?} is not a DNS label (lower-case letters, digits and '-', at most 63)")]
    DnsLabel(String),
    /// Not a DNS subdomain name.
    #[error("{0:?} is not a DNS name (lower-case letters, digits, '-' and '.', at most 253)")]
    DnsName(String),
    /// Stands here twice.
    #[error("{0} stands here twice")]
    Duplicate(String),
    /// Not the name of a header, or of one that configuration may not touch.
    #[error("{0:?} is not the name of a header")]
    HeaderName(String),
    /// A header that HTTP itself or Weft needs; changing it would change where a message ends or who sent it.
    #[error("header {0:?} belongs to HTTP's framing or to Weft and cannot be changed")]
    HeaderProtected(String),
    /// Not the value of a header.
    #[error("{0:?} is not the value of a header")]
    HeaderValue(String),
    /// Not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Not a method.
    #[error("{0:?} is not a method")]
    Method(String),
    /// Must be there.
    #[error("is missing, or is of a kind that this version does not know")]
    Missing,
    /// Not a network.
    #[error("{0:?} is not a network in CIDR notation")]
    Network(String),
    /// The answer is for something else than its key says.
    #[error("answers {answered}, which is not what its key says")]
    OtherKey {
        /// What it answers.
        answered: String,
    },
    /// Not a path.
    #[error("{0:?} is not a path that begins with '/'")]
    Path(String),
    /// Outside its range.
    #[error("{value} is not from {min} to {max}")]
    Range {
        /// What was sent.
        value: u64,
        /// The least that is valid.
        min: u64,
        /// The most that is valid.
        max: u64,
    },
    /// Not a scheme of URLs that a redirect may name.
    #[error("{0:?} is neither http nor https")]
    Scheme(String),
    /// Characters that do not belong into a text.
    #[error("{0:?} has control characters")]
    Text(String),
    /// Too long.
    #[error("{bytes} bytes are more than {max}")]
    TooLong {
        /// How many were sent.
        bytes: usize,
        /// How many are valid.
        max: usize,
    },
    /// Too many.
    #[error("{count} items are more than {max}")]
    TooMany {
        /// How many were sent.
        count: usize,
        /// How many are valid.
        max: usize,
    },
    /// A value of an enum that this version does not know.
    #[error("{value} is not a value of {name} that this version knows")]
    UnknownValue {
        /// The enum.
        name: &'static str,
        /// What was sent.
        value: i32,
    },
    /// Not a URL that spans can go to.
    #[error("{0:?} is not http://host:port")]
    Url(String),
}
