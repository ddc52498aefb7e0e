//! A service port: deadlines, retries, and its routes by [`super::route`].

use weft_model::policy::{RetryBudget, RetryPolicy};
use weft_model::resources::ServiceSpec;
use weft_model::route::{HttpRoute, Timeouts};
use weft_model::{PolicyId, ServiceKey};

use super::field::{At as _, duration, list, ms, protocol, range, required};
use super::{Invalid, bounds};
use crate::proxy::v1 as wire;

impl TryFrom<wire::Service> for ServiceSpec {
    type Error = Invalid;

    fn try_from(service: wire::Service) -> Result<Self, Invalid> {
        let wire::Service {
            key,
            protocol: declared,
            http_routes,
            timeouts,
            retry,
            retry_budget,
            client_ip_affinity,
            policy,
        } = service;
        Ok(Self {
            key: required(key).and_then(ServiceKey::try_from).at("key")?,
            protocol: protocol(declared).at("protocol")?,
            http_routes: list(http_routes, bounds::ROUTES_MAX, HttpRoute::try_from).at("http_routes")?,
            timeouts: Timeouts::try_from(timeouts.unwrap_or_default()).at("timeouts")?,
            retry: retry.map(RetryPolicy::try_from).transpose().at("retry")?,
            retry_budget: required(retry_budget).and_then(RetryBudget::try_from).at("retry_budget")?,
            client_ip_affinity,
            policy: policy.map(PolicyId::try_from).transpose().at("policy")?,
        })
    }
}

impl From<&ServiceSpec> for wire::Service {
    fn from(service: &ServiceSpec) -> Self {
        let ServiceSpec { key, protocol, http_routes, timeouts, retry, retry_budget, client_ip_affinity, policy } =
            service;
        Self {
            key: Some(key.into()),
            protocol: wire::AppProtocol::from(*protocol).into(),
            http_routes: http_routes.iter().map(Into::into).collect(),
            timeouts: Some(timeouts.into()),
            retry: retry.as_ref().map(Into::into),
            retry_budget: Some(retry_budget.into()),
            client_ip_affinity: *client_ip_affinity,
            policy: policy.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Timeouts> for Timeouts {
    type Error = Invalid;

    fn try_from(timeouts: wire::Timeouts) -> Result<Self, Invalid> {
        let wire::Timeouts { request_ms, backend_request_ms } = timeouts;
        let deadline = |value_ms: u64| match value_ms {
            0 => Ok(None),
            _ => duration(value_ms, 1, bounds::DEADLINE_MAX).map(Some),
        };
        Ok(Self {
            request: deadline(request_ms).at("request_ms")?,
            backend_request: deadline(backend_request_ms).at("backend_request_ms")?,
        })
    }
}

impl From<&Timeouts> for wire::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts { request, backend_request } = timeouts;
        Self {
            request_ms: request.map(ms).unwrap_or_default(),
            backend_request_ms: backend_request.map(ms).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::RetryPolicy> for RetryPolicy {
    type Error = Invalid;

    fn try_from(retry: wire::RetryPolicy) -> Result<Self, Invalid> {
        let wire::RetryPolicy { status_codes, grpc_codes, on_reset, attempts, backoff_ms, non_idempotent } = retry;
        Ok(Self {
            status_codes: list(status_codes, bounds::RETRY_CODES_MAX, |code| range(code, 100, 599))
                .at("status_codes")?,
            grpc_codes: list(grpc_codes, bounds::RETRY_CODES_MAX, |code| range(code, 0, 16)).at("grpc_codes")?,
            on_reset,
            attempts: range(attempts, 0, bounds::RETRY_ATTEMPTS_MAX.into()).at("attempts")?,
            backoff: duration(backoff_ms, 0, bounds::KNOB_MAX).at("backoff_ms")?,
            non_idempotent,
        })
    }
}

impl From<&RetryPolicy> for wire::RetryPolicy {
    fn from(retry: &RetryPolicy) -> Self {
        let RetryPolicy { status_codes, grpc_codes, on_reset, attempts, backoff, non_idempotent } = retry;
        Self {
            status_codes: status_codes.iter().copied().map(u32::from).collect(),
            grpc_codes: grpc_codes.iter().copied().map(u32::from).collect(),
            on_reset: *on_reset,
            attempts: *attempts,
            backoff_ms: ms(*backoff),
            non_idempotent: *non_idempotent,
        }
    }
}

impl TryFrom<wire::RetryBudget> for RetryBudget {
    type Error = Invalid;

    fn try_from(budget: wire::RetryBudget) -> Result<Self, Invalid> {
        let wire::RetryBudget { percent, min_per_second } = budget;
        Ok(Self {
            percent: range(percent, 0, 100).at("percent")?,
            min_per_second: range(min_per_second, 0, bounds::RETRY_FLOOR_MAX.into()).at("min_per_second")?,
        })
    }
}

impl From<&RetryBudget> for wire::RetryBudget {
    fn from(budget: &RetryBudget) -> Self {
        let RetryBudget { percent, min_per_second } = budget;
        Self { percent: u32::from(*percent), min_per_second: *min_per_second }
    }
}
