//! Policy as data: who may call, how traffic is balanced, ejected and retried.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::identity::SpiffeId;

/// The resource that a decision came from: `<kind>/<namespace>/<name>`, the value of `weft-policy` and of the `policy`
/// and `route` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    text: Arc<str>,
    kind_end: usize,
    namespace_end: usize,
}

impl PolicyId {
    /// An id from its parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        let text: Arc<str> = Arc::from(format!("{kind}/{namespace}/{name}"));
        Self { text, kind_end: kind.len(), namespace_end: kind.len() + 1 + namespace.len() }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The resource's kind.
    pub fn kind(&self) -> &str {
        self.text.get(..self.kind_end).unwrap_or_default()
    }

    /// The resource's namespace.
    pub fn namespace(&self) -> &str {
        self.text.get(self.kind_end + 1..self.namespace_end).unwrap_or_default()
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        self.text.get(self.namespace_end + 1..).unwrap_or_default()
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One `AuthorizationPolicy`, already narrowed to the workload it is served to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthzPolicy {
    /// The resource it came from.
    pub id: PolicyId,
    /// What a match does.
    pub action: AuthzAction,
    /// The workload's ports it selects; empty means all.
    pub ports: Vec<u16>,
    /// Alternatives: any rule that holds is a match. Empty never matches.
    pub rules: Vec<AuthzRule>,
}

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthzAction {
    /// Lets the request in, unless a DENY matches.
    Allow,
    /// Counts and logs; decides nothing.
    Audit,
    /// Refuses.
    Deny,
}

/// One rule: a peer of `from` asking for something of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthzRule {
    /// Alternatives; empty means anybody, authenticated or not.
    pub from: Vec<PeerMatch>,
    /// Alternatives; empty means anything.
    pub to: Vec<OperationMatch>,
}

impl AuthzRule {
    /// Whether it asks for something that only HTTP can answer.
    pub fn is_l7(&self) -> bool {
        self.to.iter().any(OperationMatch::is_l7)
    }
}

/// Who a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    /// Any peer with a verified identity.
    Authenticated,
    /// Exactly this identity.
    Identity(SpiffeId),
    /// Any identity in this namespace.
    Namespace(Arc<str>),
}

/// What a rule speaks of: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationMatch {
    /// Ports of the workload; empty means all.
    pub ports: Vec<u16>,
    /// Methods; empty means all.
    pub methods: Vec<Method>,
    /// Paths; empty means all.
    pub paths: Vec<PathPattern>,
}

impl OperationMatch {
    /// Whether it asks for something that only HTTP can answer.
    pub fn is_l7(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }
}

/// A path as policy matches it, against the normalised path of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole segments from the start, as `PathMatch::Prefix` of routes.
    Prefix(Arc<str>),
}

/// What happens where no ALLOW policy selects a (workload, port).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultAuthorization {
    /// Everybody may.
    #[default]
    Allow,
    /// Only peers with a verified identity may.
    Authenticated,
    /// Nobody may.
    Deny,
}

/// Whether a port takes plaintext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Mesh TLS and plaintext.
    #[default]
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// Balancing and ejection for the endpoints of one service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendPolicy {
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// When an endpoint is left out for a while. `None`: never.
    pub ejection: Option<Ejection>,
    /// How long connecting may take.
    pub connect_timeout: ConnectTimeout,
}

/// How long a connection attempt may take, TLS included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectTimeout(pub Duration);

impl Default for ConnectTimeout {
    /// 1 s, as design §6.
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

/// Power of two choices over peak EWMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// What an endpoint without measurements is taken to need.
    pub default_rtt: Duration,
    /// How long a peak is remembered.
    pub decay: Duration,
}

impl Default for Balancing {
    /// 30 ms to begin with, 10 s decay (design §6).
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

/// Outlier ejection by consecutive failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row that eject.
    pub consecutive_failures: u32,
    /// The first ejection's length; it doubles each time in a row, with jitter.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
    /// At most this share of the endpoints is out at once, in percent.
    pub max_ejected_percent: u8,
    /// With fewer than this share healthy, in percent, ejections are ignored.
    pub panic_percent: u8,
}

impl Default for Ejection {
    /// 7 in a row, 1 s growing to 60 s, at most half, panic below half (design §6).
    fn default() -> Self {
        Self {
            consecutive_failures: 7,
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            max_ejected_percent: 50,
            panic_percent: 50,
        }
    }
}

/// Retries that a policy asks for. What is provably unprocessed is retried without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// HTTP status codes that are tried again.
    pub status_codes: Vec<u16>,
    /// gRPC status codes that are tried again.
    pub grpc_codes: Vec<u16>,
    /// Whether a connection that fails in flight (reset, closed, timed out) is tried again.
    pub on_reset: bool,
    /// How many further attempts at most.
    pub attempts: u32,
    /// The shortest pause before a further attempt; it doubles, with jitter, up to ten times itself.
    pub backoff: Duration,
    /// Whether methods that are not idempotent (RFC 9110 §9.2.2) are tried again too.
    pub non_idempotent: bool,
}

/// How many retries a service may cost: a share of its requests plus a floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries per hundred requests.
    pub percent: u8,
    /// Retries that are always allowed, per second.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    /// 20 % and at least 10 per second (design §6).
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}
