//! Destinations and endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weft_model::policy::{BackendPolicy, Balancing, ConnectTimeout, Ejection};
use weft_model::resources::{Destination, EndpointsDelta, WorkloadDestination};
use weft_model::{EndpointAddr, EndpointSpec, Health, ServiceKey, SpiffeId, WorkloadName};

use super::field::{At as _, distinct, duration, list, ms, optional_text, protocol, range, required, unicast};
use super::{Invalid, Problem, bounds};
use crate::proxy::v1 as wire;

impl TryFrom<wire::Destination> for Destination {
    type Error = Invalid;

    fn try_from(destination: wire::Destination) -> Result<Self, Invalid> {
        use wire::destination::Kind;
        match required(destination.kind).at("kind")? {
            Kind::NotFound(wire::Unit {}) => Ok(Self::NotFound),
            Kind::PortNotFound(wire::Unit {}) => Ok(Self::PortNotFound),
            Kind::Service(key) => Ok(Self::Service(key.try_into().at("service")?)),
            Kind::Workload(workload) => Ok(Self::Workload(workload.try_into().at("workload")?)),
        }
    }
}

impl From<&Destination> for wire::Destination {
    fn from(destination: &Destination) -> Self {
        use wire::destination::Kind;
        let kind = match destination {
            Destination::NotFound => Kind::NotFound(wire::Unit {}),
            Destination::PortNotFound => Kind::PortNotFound(wire::Unit {}),
            Destination::Service(key) => Kind::Service(key.into()),
            Destination::Workload(workload) => Kind::Workload(workload.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::WorkloadDestination> for WorkloadDestination {
    type Error = Invalid;

    fn try_from(workload: wire::WorkloadDestination) -> Result<Self, Invalid> {
        let wire::WorkloadDestination { endpoint, protocol: declared, service } = workload;
        Ok(Self {
            // Port 0 asks who lives at an address, and is answered as it was asked.
            endpoint: required(endpoint).and_then(EndpointSpec::try_from).at("endpoint")?,
            protocol: protocol(declared).at("protocol")?,
            service: service.map(ServiceKey::try_from).transpose().at("service")?,
        })
    }
}

impl From<&WorkloadDestination> for wire::WorkloadDestination {
    fn from(workload: &WorkloadDestination) -> Self {
        let WorkloadDestination { endpoint, protocol, service } = workload;
        Self {
            endpoint: Some(endpoint.into()),
            protocol: wire::AppProtocol::from(*protocol).into(),
            service: service.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Endpoint> for EndpointSpec {
    type Error = Invalid;

    fn try_from(endpoint: wire::Endpoint) -> Result<Self, Invalid> {
        let wire::Endpoint { addr, identity, workload, zone, weight, serving_terminating } = endpoint;
        let identity = if identity.is_empty() {
            None
        } else {
            Some(identity.parse::<SpiffeId>().map_err(|e| Problem::from(e).into()).at("identity")?)
        };
        Ok(Self {
            addr: EndpointAddr(unicast(&addr).at("addr")?),
            identity,
            workload: workload.map(WorkloadName::try_from).transpose().at("workload")?,
            zone: optional_text(zone, bounds::NAME_BYTES_MAX).at("zone")?,
            weight: range(weight, 1, bounds::WEIGHT_MAX.into()).at("weight")?,
            health: if serving_terminating { Health::ServingTerminating } else { Health::Ready },
        })
    }
}

impl From<&EndpointSpec> for wire::Endpoint {
    fn from(endpoint: &EndpointSpec) -> Self {
        let EndpointSpec { addr, identity, workload, zone, weight, health } = endpoint;
        Self {
            addr: addr.to_string(),
            identity: identity.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            workload: workload.as_ref().map(Into::into),
            zone: zone.as_deref().unwrap_or_default().to_owned(),
            weight: *weight,
            serving_terminating: *health == Health::ServingTerminating,
        }
    }
}

impl TryFrom<wire::Endpoints> for EndpointsDelta {
    type Error = Invalid;

    fn try_from(endpoints: wire::Endpoints) -> Result<Self, Invalid> {
        let wire::Endpoints { reset, upserted, removed, policy } = endpoints;
        let upserted = list(upserted, bounds::ENDPOINTS_MAX, endpoint_of_service).at("upserted")?;
        distinct(&upserted, |e: &EndpointSpec| e.addr).at("upserted")?;
        let present: BTreeSet<SocketAddr> = upserted.iter().map(|e| e.addr.0).collect();
        let removed = list(removed, bounds::ENDPOINTS_MAX, |addr| {
            let addr = unicast(&addr)?;
            // Both would depend on which is applied first.
            if present.contains(&addr) { Err(Problem::Duplicate(addr.to_string()).into()) } else { Ok(addr) }
        })
        .at("removed")?;
        Ok(Self { reset, upserted, removed, policy: required(policy).and_then(BackendPolicy::try_from).at("policy")? })
    }
}

/// An endpoint that traffic is balanced to; unlike a workload's, its port is one.
fn endpoint_of_service(endpoint: wire::Endpoint) -> Result<EndpointSpec, Invalid> {
    let endpoint = EndpointSpec::try_from(endpoint)?;
    super::field::port(endpoint.addr.port().into()).at("addr")?;
    Ok(endpoint)
}

impl From<&EndpointsDelta> for wire::Endpoints {
    fn from(endpoints: &EndpointsDelta) -> Self {
        let EndpointsDelta { reset, upserted, removed, policy } = endpoints;
        Self {
            reset: *reset,
            upserted: upserted.iter().map(Into::into).collect(),
            removed: removed.iter().map(SocketAddr::to_string).collect(),
            policy: Some(policy.into()),
        }
    }
}

impl TryFrom<wire::BackendPolicy> for BackendPolicy {
    type Error = Invalid;

    fn try_from(policy: wire::BackendPolicy) -> Result<Self, Invalid> {
        let wire::BackendPolicy { default_rtt_ms, decay_ms, ejection, connect_timeout_ms } = policy;
        let knob = |value_ms| duration(value_ms, 1, bounds::KNOB_MAX);
        Ok(Self {
            balancing: Balancing {
                default_rtt: knob(default_rtt_ms).at("default_rtt_ms")?,
                decay: knob(decay_ms).at("decay_ms")?,
            },
            ejection: ejection.map(Ejection::try_from).transpose().at("ejection")?,
            connect_timeout: ConnectTimeout(knob(connect_timeout_ms).at("connect_timeout_ms")?),
        })
    }
}

impl From<&BackendPolicy> for wire::BackendPolicy {
    fn from(policy: &BackendPolicy) -> Self {
        let BackendPolicy { balancing: Balancing { default_rtt, decay }, ejection, connect_timeout } = policy;
        Self {
            default_rtt_ms: ms(*default_rtt),
            decay_ms: ms(*decay),
            ejection: ejection.as_ref().map(Into::into),
            connect_timeout_ms: ms(connect_timeout.0),
        }
    }
}

impl TryFrom<wire::Ejection> for Ejection {
    type Error = Invalid;

    fn try_from(ejection: wire::Ejection) -> Result<Self, Invalid> {
        let wire::Ejection { consecutive_failures, base_ms, max_ms, max_ejected_percent, panic_percent } = ejection;
        Ok(Self {
            consecutive_failures: range(consecutive_failures, 1, u32::MAX.into()).at("consecutive_failures")?,
            base: duration(base_ms, 1, bounds::KNOB_MAX).at("base_ms")?,
            max: duration(max_ms, base_ms, bounds::KNOB_MAX).at("max_ms")?,
            max_ejected_percent: range(max_ejected_percent, 0, 100).at("max_ejected_percent")?,
            panic_percent: range(panic_percent, 0, 100).at("panic_percent")?,
        })
    }
}

impl From<&Ejection> for wire::Ejection {
    fn from(ejection: &Ejection) -> Self {
        let Ejection { consecutive_failures, base, max, max_ejected_percent, panic_percent } = ejection;
        Self {
            consecutive_failures: *consecutive_failures,
            base_ms: ms(*base),
            max_ms: ms(*max),
            max_ejected_percent: u32::from(*max_ejected_percent),
            panic_percent: u32::from(*panic_percent),
        }
    }
}
