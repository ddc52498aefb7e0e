//! How much of everything one discovery answer may hold. Whoever makes answers (the index) refuses beyond these what was
//! written; whoever reads them (`convert`) refuses beyond these what came. Where Gateway API (v1.6) has a bound, ours is
//! that or wider, so that whatever an API server accepted fits.

use std::time::Duration;

/// Endpoints in one message, added and removed each. Kubernetes is tested to 5,000 nodes; one service rarely has more.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Routes of one service port.
pub const ROUTES_MAX: usize = 256;
/// Rules of one HTTPRoute (Gateway API: 16).
pub const RULES_MAX: usize = 64;
/// Matches of one rule (Gateway API: 64).
pub const MATCHES_MAX: usize = 128;
/// Headers, and query parameters, of one match (Gateway API: 16).
pub const MATCH_FIELDS_MAX: usize = 16;
/// Filters of one rule or backend (Gateway API: 16).
pub const FILTERS_MAX: usize = 16;
/// Headers that one filter sets, adds or removes, each (Gateway API: 16).
pub const MODIFIED_HEADERS_MAX: usize = 64;
/// Backends of one rule (Gateway API: 16).
pub const BACKENDS_MAX: usize = 64;
/// The largest weight of a backend (Gateway API) or an endpoint; sums of all stay far below 64 bits.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Further attempts of one request.
pub const RETRY_ATTEMPTS_MAX: u32 = 100;
/// HTTP status codes of one retry policy: all there are from 100 to 599.
pub const RETRY_CODES_MAX: usize = 500;
/// Retries that are always allowed, per second.
pub const RETRY_FLOOR_MAX: u32 = 1_000_000;
/// Ports of one workload about which something is said.
pub const INBOUND_PORTS_MAX: usize = 4_096;
/// Paths of one port that stay open under default deny, for probes and for scrapes each.
pub const OPEN_PATHS_MAX: usize = 64;
/// Authorization policies that select one workload.
pub const AUTHZ_POLICIES_MAX: usize = 1_024;
/// Rules of one authorization policy.
pub const AUTHZ_RULES_MAX: usize = 512;
/// Peers, operations, and in an operation ports, methods and paths, of one authorization rule; each.
pub const AUTHZ_ALTERNATIVES_MAX: usize = 512;
/// Trust anchors, as many as a bundle of `weft-tls` takes; more than two only during a rotation or a federation.
pub const TRUST_ANCHORS_MAX: usize = 16;
/// One trust anchor, DER.
pub const TRUST_ANCHOR_BYTES_MAX: usize = 16 * 1024;
/// The cluster's networks.
pub const NETWORKS_MAX: usize = 1_024;
/// Addresses that one proxy serves inbound.
pub const HELLO_ADDRESSES_MAX: usize = 64;
/// Probes and hooks of one pod that its proxy performs: five for each of 51 containers.
pub const PROBES_MAX: usize = 256;
/// Headers of one probe.
pub const PROBE_HEADERS_MAX: usize = 32;
/// All probes of a pod as text: half of what Linux takes as one environment variable (128 KiB).
pub const PROBES_BYTES_MAX: usize = 64 * 1024;

/// A name that is not a DNS name already (rule, zone, uid, version).
pub const NAME_BYTES_MAX: usize = 253;
/// A method; IANA's longest has 16 bytes.
pub const METHOD_BYTES_MAX: usize = 64;
/// A path that is matched (Gateway API: 1,024).
pub const PATH_BYTES_MAX: usize = 1_024;
/// A header's or query parameter's name that is matched or set (Gateway API: 256).
pub const FIELD_NAME_BYTES_MAX: usize = 256;
/// A header's or query parameter's value that is matched or set (Gateway API: 4,096).
pub const FIELD_VALUE_BYTES_MAX: usize = 4_096;
/// A URL.
pub const URL_BYTES_MAX: usize = 2_048;
/// The reason of a refusal.
pub const REASON_BYTES_MAX: usize = 1_024;

/// The longest deadline: what Gateway API's durations can say (GEP-2257: 99,999 h 59 min 59.999 s).
pub const DEADLINE_MAX: Duration = Duration::from_millis(359_999_999_999);
/// The longest knob of balancing, ejection and connecting.
pub const KNOB_MAX: Duration = Duration::from_secs(24 * 60 * 60);
