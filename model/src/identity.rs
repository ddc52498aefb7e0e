//! SPIFFE identities as Weft accepts them: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` and nothing
//! else. Parsing is strict because an identity that has two spellings has two meanings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE id that is read, in bytes (SPIFFE-ID §2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// A trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes (SPIFFE-ID §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Arc::from("cluster.local"))
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if s.is_empty() || s.len() > 255 || !s.bytes().all(legal) {
            return Err(IdentityError::TrustDomain(shown(s)));
        }
        Ok(Self(Arc::from(s)))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload: who it is to every peer.
///
/// **Shape:** exactly `spiffe://<trust domain>/ns/<label>/sa/<name>`. **Cost:** cloning counts a reference.
/// **Source:** SPIFFE-ID §2, semantics of Kubernetes service accounts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Where in `uri` the namespace ends and where the trust domain ends; kept so that reading parts never allocates.
    domain_end: u16,
    namespace_end: u16,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Puts an identity together from its parts.
    ///
    /// # Errors
    /// A namespace that is not a DNS label or a service account that is not a DNS subdomain name.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        if !is_dns_label(namespace) {
            return Err(IdentityError::Namespace(shown(namespace)));
        }
        if !is_dns_subdomain(service_account) {
            return Err(IdentityError::ServiceAccount(shown(service_account)));
        }
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if uri.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdentityError::TooLong { bytes: uri.len() });
        }
        let too_long = |_| IdentityError::TooLong { bytes: uri.len() };
        let domain_end = u16::try_from(SCHEME.len() + trust_domain.as_str().len()).map_err(too_long)?;
        let namespace_len = u16::try_from(namespace.len()).map_err(too_long)?;
        let namespace_end = domain_end + 4 + namespace_len;
        Ok(Self { uri: Arc::from(uri), domain_end, namespace_end })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.part(SCHEME.len(), usize::from(self.domain_end))
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.part(usize::from(self.domain_end) + 4, usize::from(self.namespace_end))
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.part(usize::from(self.namespace_end) + 4, self.uri.len())
    }

    fn part(&self, from: usize, to: usize) -> &str {
        // The bounds were computed by `new` from the same ASCII string.
        self.uri.get(from..to).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdentityError::TooLong { bytes: s.len() });
        }
        let shape = || IdentityError::Shape(shown(s));
        let rest = s.strip_prefix(SCHEME).ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let mut part = || parts.next().ok_or_else(shape);
        let (domain, ns, namespace, sa, service_account) = (part()?, part()?, part()?, part()?, part()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(shape());
        }
        Self::new(&domain.parse()?, namespace, service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Why a text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The namespace is not a DNS label.
    #[error("namespace {0:?} is not a DNS label (lower-case letters, digits and '-', at most 63)")]
    Namespace(String),
    /// The service account is not a DNS subdomain name.
    #[error("service account {0:?} is not a DNS subdomain name (lower-case letters, digits, '-' and '.', at most 253)")]
    ServiceAccount(String),
    /// It does not have the one accepted shape.
    #[error("{0:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    /// More than [`SPIFFE_ID_BYTES_MAX`] bytes.
    #[error("a SPIFFE id of {bytes} bytes is longer than {SPIFFE_ID_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The trust domain has other characters than lower-case letters, digits, `.`, `-`, `_`, or a wrong length.
    #[error("trust domain {0:?} is not 1 to 255 lower-case letters, digits, '.', '-' or '_'")]
    TrustDomain(String),
}

/// Whether `s` is a DNS label as Kubernetes wants it (RFC 1123): 1 to 63 of `[a-z0-9-]`, no hyphen at either end.
pub fn is_dns_label(s: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.len() <= 63 && s.bytes().all(legal) && !s.starts_with('-') && !s.ends_with('-')
}

/// Whether `s` is a DNS subdomain name as Kubernetes wants it (RFC 1123): labels joined by dots, 253 bytes at most.
pub fn is_dns_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_dns_label)
}

/// What of a hostile text is put into an error: its first 128 characters.
fn shown(s: &str) -> String {
    s.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_one_shape_is_accepted() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/order.v1".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "order.v1"));
    }

    #[test]
    fn every_other_shape_is_refused() {
        for s in [
            "",
            "spiffe://",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:443/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x=1",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/ns/a/sa/%62",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/.",
            "spiffe://cluster.local/ns/a/sa/B",
            "spiffe://cluster.local/sa/a/ns/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
            " spiffe://cluster.local/ns/a/sa/b",
        ] {
            assert!(s.parse::<SpiffeId>().is_err(), "{s:?}");
        }
        let long = format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(SPIFFE_ID_BYTES_MAX));
        assert!(matches!(long.parse::<SpiffeId>(), Err(IdentityError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_parses_is_its_own_spelling(s in "spiffe://[a-z.]{1,8}/ns/[a-z0-9-]{1,8}/sa/[a-z0-9.-]{1,8}") {
            if let Ok(id) = s.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), &s);
                let td = id.trust_domain().parse().unwrap();
                prop_assert_eq!(SpiffeId::new(&td, id.namespace(), id.service_account()).unwrap(), id);
            }
        }

        #[test]
        fn parsing_never_panics(s in "\\PC{0,64}") {
            let _ignored = s.parse::<SpiffeId>();
        }
    }
}
