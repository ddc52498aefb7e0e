//! `TrafficPolicy`, as it is meant.

use std::time::Duration;

use weft_crds::{Ejection as WrittenEjection, Retry, TrafficPolicy, TrafficPolicySpec};
use weft_model::PolicyId;
use weft_model::bounds::{DEADLINE_MAX, KNOB_MAX, RETRY_FLOOR_MAX};
use weft_model::policy::{BackendPolicy, Balancing, ConnectTimeout, Ejection, RetryBudget, RetryPolicy};
use weft_model::route::Timeouts;

use super::{Target, service_targets};
use crate::object::{Kind, Name};
use crate::problem::Problem;
use crate::read::{Read, created};

/// The gRPC status of a call whose connection broke.
const GRPC_UNAVAILABLE: u16 = 14;

const OUT_OF_RANGE: &str = "must be longer than 0 and at most 24h";

/// A `TrafficPolicy`, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrafficEntry {
    pub(crate) id: PolicyId,
    pub(crate) created: i64,
    pub(crate) targets: Vec<Target>,
    pub(crate) backend: BackendPolicy,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) budget: RetryBudget,
    pub(crate) timeouts: Timeouts,
}

/// What holds for a service port that no policy speaks of.
pub(crate) fn default_backend() -> BackendPolicy {
    BackendPolicy { ejection: Some(Ejection::default()), ..BackendPolicy::default() }
}

/// Reads a `TrafficPolicy`.
pub(crate) fn read(name: &Name, policy: &TrafficPolicy) -> Read<TrafficEntry> {
    let spec = &policy.spec;
    let mut problems = Vec::new();
    let backend = backend(spec, &mut problems);
    let retry = spec.retry.as_ref().and_then(|retry| read_retry(retry, &mut problems));
    let budget = budget(spec, &mut problems);
    let timeouts = timeouts(spec, &mut problems);
    if !problems.is_empty() {
        // Numbers that make no sense leave the last good version as a whole in force: half a policy is nobody's wish.
        return Read { entry: None, problems };
    }
    let targets = service_targets(name, &spec.target_refs, &mut problems);
    let id = PolicyId::new(Kind::TrafficPolicy.as_str(), &name.namespace, &name.name);
    let created = created(&policy.metadata);
    Read { entry: Some(TrafficEntry { id, created, targets, backend, retry, budget, timeouts }), problems }
}

fn timeouts(spec: &TrafficPolicySpec, problems: &mut Vec<Problem>) -> Timeouts {
    let written = spec.timeouts.clone().unwrap_or_default();
    let mut deadline = |written: Option<weft_crds::Duration>, field: &str| {
        let deadline = written.map(Duration::from).filter(|deadline| !deadline.is_zero())?;
        if deadline > DEADLINE_MAX {
            let message = format!("must be at most {} h", DEADLINE_MAX.as_secs() / 3_600);
            problems.push(Problem::refused(format!("spec.timeouts.{field}"), message));
        }
        Some(deadline)
    };
    Timeouts {
        request: deadline(written.request, "request"),
        backend_request: deadline(written.backend_request, "backendRequest"),
    }
}

fn backend(spec: &TrafficPolicySpec, problems: &mut Vec<Problem>) -> BackendPolicy {
    let mut positive = |written: Option<weft_crds::Duration>, default: Duration, field: &str| {
        let duration = written.map_or(default, Duration::from);
        if duration.is_zero() || duration > KNOB_MAX {
            problems.push(Problem::refused(field, OUT_OF_RANGE));
        }
        duration
    };
    let balancing = spec.balancing.clone().unwrap_or_default();
    let default = Balancing::default();
    let balancing = Balancing {
        default_rtt: positive(balancing.default_rtt, default.default_rtt, "spec.balancing.defaultRtt"),
        decay: positive(balancing.decay, default.decay, "spec.balancing.decay"),
    };
    let timeout = positive(spec.connect_timeout, ConnectTimeout::default().0, "spec.connectTimeout");
    let ejection = spec.ejection.clone().unwrap_or_default();
    let ejection = ejection.enabled.unwrap_or(true).then(|| read_ejection(&ejection, problems));
    BackendPolicy { balancing, ejection, connect_timeout: ConnectTimeout(timeout) }
}

fn read_ejection(written: &WrittenEjection, problems: &mut Vec<Problem>) -> Ejection {
    let default = Ejection::default();
    let ejection = Ejection {
        consecutive_failures: written.consecutive_failures.unwrap_or(default.consecutive_failures),
        base: written.base.map_or(default.base, Duration::from),
        max: written
            .max
            .map_or_else(|| default.max.max(written.base.map_or(default.base, Duration::from)), Duration::from),
        max_ejected_percent: written.max_ejected_percent.unwrap_or(default.max_ejected_percent),
        panic_percent: written.panic_percent.unwrap_or(default.panic_percent),
    };
    let mut require = |holds: bool, field: &str, message: &str| {
        if !holds {
            problems.push(Problem::refused(format!("spec.ejection.{field}"), message));
        }
    };
    require(ejection.consecutive_failures > 0, "consecutiveFailures", "must be at least 1");
    require(!ejection.base.is_zero() && ejection.base <= KNOB_MAX, "base", OUT_OF_RANGE);
    require(ejection.max <= KNOB_MAX, "max", OUT_OF_RANGE);
    require(ejection.max >= ejection.base, "max", "must not be shorter than base");
    require(ejection.max_ejected_percent <= 100, "maxEjectedPercent", "must be at most 100");
    require(ejection.panic_percent <= 100, "panicPercent", "must be at most 100");
    ejection
}

fn read_retry(written: &Retry, problems: &mut Vec<Problem>) -> Option<RetryPolicy> {
    let mut require = |holds: bool, field: &str, message: &str| {
        if !holds {
            problems.push(Problem::refused(format!("spec.retry.{field}"), message));
        }
    };
    let attempts = written.attempts.unwrap_or(2);
    let backoff = written.backoff.map_or(Duration::from_millis(25), Duration::from);
    require(backoff <= KNOB_MAX, "backoff", "must be at most 24h");
    require(attempts <= 10, "attempts", "must be at most 10");
    require(written.codes.iter().all(|code| (400..=599).contains(code)), "codes", "must be within 400 to 599");
    require(written.grpc_codes.iter().all(|code| (1..=16).contains(code)), "grpcCodes", "must be within 1 to 16");
    let grpc = !written.grpc_codes.is_empty();
    // Every gRPC call is a POST, so who lists gRPC codes means requests that are not idempotent. HTTP codes beside them
    // would then be retried for every POST too, which nobody said.
    let mixed = grpc && !written.codes.is_empty() && !written.non_idempotent;
    let message = "together with codes needs nonIdempotent: true: every gRPC call is a POST, and other POSTs that are \
                   answered with one of codes would be tried again too";
    require(!mixed, "grpcCodes", message);
    // To gRPC a broken connection is the status UNAVAILABLE (gRFC A6): it is tried again where that is.
    let on_reset = !grpc || written.non_idempotent || written.grpc_codes.contains(&GRPC_UNAVAILABLE);
    (attempts > 0).then(|| RetryPolicy {
        status_codes: sorted(&written.codes),
        grpc_codes: sorted(&written.grpc_codes),
        on_reset: written.on_reset.unwrap_or(on_reset),
        attempts,
        backoff,
        non_idempotent: written.non_idempotent || grpc,
    })
}

fn sorted(codes: &[u16]) -> Vec<u16> {
    let mut codes = codes.to_vec();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn budget(spec: &TrafficPolicySpec, problems: &mut Vec<Problem>) -> RetryBudget {
    let written = spec.retry_budget.clone().unwrap_or_default();
    let default = RetryBudget::default();
    let percent = written.percent.unwrap_or(default.percent);
    if percent > 100 {
        problems.push(Problem::refused("spec.retryBudget.percent", "must be at most 100"));
    }
    let min_per_second = written.min_per_second.unwrap_or(default.min_per_second);
    if min_per_second > RETRY_FLOOR_MAX {
        let message = format!("must be at most {RETRY_FLOOR_MAX}");
        problems.push(Problem::refused("spec.retryBudget.minPerSecond", message));
    }
    RetryBudget { percent, min_per_second }
}
