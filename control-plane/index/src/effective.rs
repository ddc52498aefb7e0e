//! What holds when several resources speak of one thing: merging and precedence, as pure functions over what the
//! resources mean. They are told everything and look nothing up, so that each rule stands in one table of tests.

mod inbound;
mod mesh;
mod service;

pub(crate) use inbound::{InboundParts, authz, bounded, inbound, known_ports, port_facts};
pub(crate) use mesh::{EffectiveMesh, mesh, wide};
pub(crate) use service::{ServiceParts, attached_routes, service_spec, traffic_for};

use weft_model::PolicyId;

/// Who comes first of two resources that say different things: the older, then the one whose name sorts first (Gateway
/// API, "Conflicts").
pub(crate) fn precedence(created: i64, id: &PolicyId) -> (i64, &str, &str) {
    (created, id.namespace(), id.name())
}
