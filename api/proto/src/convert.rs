//! Messages to model (`TryFrom`, validating) and model to messages (`From`, total). Whoever holds a model value made
//! here need not check it again: bounds hold, addresses and header names are canonical, and an enum value that is not
//! known was refused, because guessing one could weaken a policy.
//!
//! An error names the field by its path in the message: `service.http_routes[2].rules[0].matches[1].path.prefix: …`.

use std::net::IpAddr;

use weft_model::WorkloadName;
use weft_model::resources::{Resource, ResourceKey, Update};

use crate::proxy::v1 as wire;

mod endpoint;
mod field;
mod inbound;
mod invalid;
mod mesh;
mod route;
mod service;

pub use invalid::{Invalid, Problem};
/// How much of everything one message may hold.
pub use weft_model::bounds;

use field::{At as _, list, required, text};

/// What a proxy says on its Watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A version is in force.
    Ack {
        /// Of what.
        key: ResourceKey,
        /// Which.
        version: u64,
    },
    /// Who it is; first on the stream and only there.
    Hello(Hello),
    /// A version was refused; the last good one stays in force.
    Nack {
        /// Of what.
        key: ResourceKey,
        /// Which.
        version: u64,
        /// Which field was wrong, and how.
        reason: String,
    },
    /// It wants to know, and to be told of changes.
    Subscribe(ResourceKey),
    /// It no longer wants to.
    Unsubscribe(ResourceKey),
}

/// Who subscribes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The workload that the proxy serves; a claim, to be checked against the certificate.
    pub workload: WorkloadName,
    /// Its uid, empty where the platform gives none.
    pub uid: String,
    /// The addresses that the proxy serves inbound; canonical.
    pub addresses: Vec<IpAddr>,
    /// The proxy's version.
    pub version: String,
}

impl TryFrom<wire::WatchRequest> for Request {
    type Error = Invalid;

    fn try_from(request: wire::WatchRequest) -> Result<Self, Invalid> {
        use wire::watch_request::Kind;
        match required(request.kind).at("kind")? {
            Kind::Hello(hello) => Ok(Self::Hello(hello.try_into().at("hello")?)),
            Kind::Subscribe(key) => Ok(Self::Subscribe(key.try_into().at("subscribe")?)),
            Kind::Unsubscribe(key) => Ok(Self::Unsubscribe(key.try_into().at("unsubscribe")?)),
            Kind::Ack(wire::Ack { key, version }) => Ok(Self::Ack { key: resource_key(key).at("ack")?, version }),
            Kind::Nack(wire::Nack { key, version, reason }) => Ok(Self::Nack {
                key: resource_key(key).at("nack")?,
                version,
                reason: text(reason, bounds::REASON_BYTES_MAX).at("reason").at("nack")?,
            }),
        }
    }
}

impl From<Request> for wire::WatchRequest {
    fn from(request: Request) -> Self {
        use wire::watch_request::Kind;
        let kind = match request {
            Request::Ack { key, version } => Kind::Ack(wire::Ack { key: Some((&key).into()), version }),
            Request::Hello(hello) => Kind::Hello(hello.into()),
            Request::Nack { key, version, reason } => {
                let reason = field::shown(&reason, bounds::REASON_BYTES_MAX);
                Kind::Nack(wire::Nack { key: Some((&key).into()), version, reason })
            }
            Request::Subscribe(key) => Kind::Subscribe((&key).into()),
            Request::Unsubscribe(key) => Kind::Unsubscribe((&key).into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: wire::Hello) -> Result<Self, Invalid> {
        let wire::Hello { workload, uid, addresses, version } = hello;
        Ok(Self {
            workload: required(workload).and_then(WorkloadName::try_from).at("workload")?,
            uid: text(uid, bounds::NAME_BYTES_MAX).at("uid")?,
            addresses: list(addresses, bounds::HELLO_ADDRESSES_MAX, |a| field::ip(&a)).at("addresses")?,
            version: text(version, bounds::NAME_BYTES_MAX).at("version")?,
        })
    }
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        let Hello { workload, uid, addresses, version } = hello;
        let addresses = addresses.iter().map(IpAddr::to_string).collect();
        Self { workload: Some((&workload).into()), uid, addresses, version }
    }
}

/// Whether a request says what this version has no word for: it is of a kind, or about a resource, that a newer one brought. Whoever
/// serves it passes that over and goes on: the rest of what the proxy says is as good as ever.
pub fn is_of_newer(request: &wire::WatchRequest) -> bool {
    use wire::watch_request::Kind;
    let key = |key: &Option<wire::ResourceKey>| key.as_ref().is_some_and(|key| key.kind.is_none());
    match &request.kind {
        None => true,
        Some(Kind::Hello(_)) => false,
        Some(Kind::Subscribe(key) | Kind::Unsubscribe(key)) => key.kind.is_none(),
        Some(Kind::Ack(ack)) => key(&ack.key),
        Some(Kind::Nack(nack)) => key(&nack.key),
    }
}

/// The key of a response, with its version: enough to refuse the rest of it by name.
///
/// # Errors
/// A response without a key, or with one that is not valid; it cannot be acknowledged or refused.
pub fn key_of(response: &wire::WatchResponse) -> Result<ResourceKey, Invalid> {
    resource_key(response.key.clone())
}

impl TryFrom<wire::WatchResponse> for Update {
    type Error = Invalid;

    fn try_from(response: wire::WatchResponse) -> Result<Self, Invalid> {
        use wire::watch_response::Resource as Kind;
        let wire::WatchResponse { key, version, resource } = response;
        let key = resource_key(key)?;
        let resource = match (&key, required(resource).at("resource")?) {
            (ResourceKey::Destination(_), Kind::Destination(d)) => {
                Resource::Destination(d.try_into().at("destination")?)
            }
            (ResourceKey::Endpoints(_), Kind::Endpoints(e)) => Resource::Endpoints(e.try_into().at("endpoints")?),
            (ResourceKey::Inbound, Kind::Inbound(i)) => Resource::Inbound(i.try_into().at("inbound")?),
            (ResourceKey::Mesh, Kind::Mesh(m)) => Resource::Mesh(m.try_into().at("mesh")?),
            (ResourceKey::Service(asked), Kind::Service(s)) => {
                let spec = weft_model::resources::ServiceSpec::try_from(s).at("service")?;
                if &spec.key != asked {
                    return Err(Problem::OtherKey { answered: spec.key.to_string() }.into()).at("service.key");
                }
                Resource::Service(spec)
            }
            (_, other) => {
                return Err(Problem::OtherKey { answered: kind_name(&other).to_owned() }.into()).at("resource");
            }
        };
        Ok(Self { key, version, resource })
    }
}

impl From<&Update> for wire::WatchResponse {
    fn from(update: &Update) -> Self {
        use wire::watch_response::Resource as Kind;
        let resource = match &update.resource {
            Resource::Destination(d) => Kind::Destination(d.into()),
            Resource::Endpoints(e) => Kind::Endpoints(e.into()),
            Resource::Inbound(i) => Kind::Inbound(i.into()),
            Resource::Mesh(m) => Kind::Mesh(m.into()),
            Resource::Service(s) => Kind::Service(s.into()),
        };
        Self { key: Some((&update.key).into()), version: update.version, resource: Some(resource) }
    }
}

fn kind_name(resource: &wire::watch_response::Resource) -> &'static str {
    use wire::watch_response::Resource as Kind;
    match resource {
        Kind::Destination(_) => "destination",
        Kind::Endpoints(_) => "endpoints",
        Kind::Inbound(_) => "inbound",
        Kind::Mesh(_) => "mesh",
        Kind::Service(_) => "service",
    }
}

fn resource_key(key: Option<wire::ResourceKey>) -> Result<ResourceKey, Invalid> {
    required(key).and_then(ResourceKey::try_from).at("key")
}

impl TryFrom<wire::ResourceKey> for ResourceKey {
    type Error = Invalid;

    fn try_from(key: wire::ResourceKey) -> Result<Self, Invalid> {
        use wire::resource_key::Kind;
        match required(key.kind).at("kind")? {
            Kind::Destination(addr) => Ok(Self::Destination(field::socket_addr(&addr).at("destination")?)),
            Kind::Endpoints(key) => Ok(Self::Endpoints(key.try_into().at("endpoints")?)),
            Kind::Inbound(wire::Unit {}) => Ok(Self::Inbound),
            Kind::Mesh(wire::Unit {}) => Ok(Self::Mesh),
            Kind::Service(key) => Ok(Self::Service(key.try_into().at("service")?)),
        }
    }
}

impl From<&ResourceKey> for wire::ResourceKey {
    fn from(key: &ResourceKey) -> Self {
        use wire::resource_key::Kind;
        let kind = match key {
            ResourceKey::Destination(addr) => Kind::Destination(addr.to_string()),
            ResourceKey::Endpoints(key) => Kind::Endpoints(key.into()),
            ResourceKey::Inbound => Kind::Inbound(wire::Unit {}),
            ResourceKey::Mesh => Kind::Mesh(wire::Unit {}),
            ResourceKey::Service(key) => Kind::Service(key.into()),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests;
