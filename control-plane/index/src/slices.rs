//! `EndpointSlice`s, as they are meant: addresses that nobody vouches for. Where one belongs to a workload, the index names
//! whom it expects there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use smallvec::SmallVec;
use weft_model::bounds::{ENDPOINTS_MAX, NAME_BYTES_MAX};
use weft_model::{EndpointAddr, EndpointSpec, Health};

use crate::endpoints::Meant;
use crate::near::{Hints, Place, Reach};
use crate::object::Name;
use crate::problem::Problem;
use crate::read::{Read, at_most, dialable, plain, port};
use crate::services::ServiceEntry;

/// The label that says whose endpoints a slice has.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEntry {
    pub(crate) service: Name,
    /// Names and numbers of the endpoints' ports. A Service's port takes the one of its own name.
    pub(crate) ports: Vec<(Option<Arc<str>>, u16)>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

/// Addresses of a slice that share their conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    /// One, as a rule.
    ips: SmallVec<[IpAddr; 1]>,
    place: Place,
    /// Whom it says itself that it is meant for.
    hints: Option<Arc<Hints>>,
    /// `None`: not ready, used only by Services that publish such addresses.
    health: Option<Health>,
}

impl SliceEntry {
    /// Every address that it names, ready or not.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.endpoints.iter().flat_map(|endpoint| endpoint.ips.iter().copied())
    }

    /// Its endpoints for a Service's port of this name.
    pub(crate) fn endpoints(&self, service: &ServiceEntry, port_name: Option<&str>) -> Vec<Meant> {
        let called = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default() == port_name.unwrap_or_default();
        let ports = self.ports.iter().filter(|(name, _)| called(name)).map(|(_, port)| *port);
        ports.flat_map(|port| self.endpoints.iter().flat_map(move |e| e.at_port(port, service))).collect()
    }
}

impl SliceEndpoint {
    fn at_port(&self, port: u16, service: &ServiceEntry) -> impl Iterator<Item = Meant> + '_ {
        let health = self.health.or(service.publish_not_ready.then_some(Health::Ready));
        // What is written goes first, but for the one setting that it cannot loosen.
        let of_service = || service.reach.hints(&self.place);
        let hints =
            if service.reach == Reach::NodeOnly { of_service() } else { self.hints.clone().or_else(of_service) };
        health.into_iter().flat_map(move |health| {
            let hints = hints.clone();
            self.ips.iter().map(move |ip| Meant {
                spec: EndpointSpec {
                    addr: EndpointAddr(SocketAddr::new(*ip, port)),
                    identity: None,
                    workload: None,
                    zone: self.place.zone.clone(),
                    weight: 1,
                    health,
                },
                hints: hints.clone(),
            })
        })
    }
}

/// Reads an EndpointSlice.
pub(crate) fn read(name: &Name, slice: &EndpointSlice) -> Read<SliceEntry> {
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        return Read::refused(Problem::refused("addressType", "only IPv4 and IPv6 are read"));
    }
    let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
        let message = format!("without the label {SERVICE_LABEL} it belongs to no Service");
        return Read::refused(Problem::refused("metadata.labels", message));
    };
    let mut problems = Vec::new();
    let mut ports = Vec::new();
    for (i, written) in slice.ports.iter().flatten().enumerate() {
        if !matches!(written.protocol.as_deref(), None | Some("TCP")) {
            continue;
        }
        match written.port.and_then(port) {
            Some(number) => ports.push((written.name.as_deref().map(Arc::from), number)),
            None => problems.push(Problem::refused(format!("ports[{i}].port"), "not a port; it is left out")),
        }
    }
    let count = slice.endpoints.iter().map(|endpoint| endpoint.addresses.len()).sum();
    if let Err(message) = at_most(count, ENDPOINTS_MAX) {
        return Read::refused(Problem::refused("endpoints", message));
    }
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    let mut names = Names::default();
    for (i, written) in slice.endpoints.iter().enumerate() {
        let place = match names.place(written) {
            Ok(place) => place,
            Err((field, message)) => {
                return Read::refused(Problem::refused(format!("endpoints[{i}].{field}"), message));
            }
        };
        let mut ips = SmallVec::new();
        for (j, text) in written.addresses.iter().enumerate() {
            match dialable(text) {
                Ok(ip) => ips.push(ip),
                Err(message) => problems.push(Problem::refused(format!("endpoints[{i}].addresses[{j}]"), message)),
            }
        }
        endpoints.push(SliceEndpoint { ips, place, hints: names.hints(written), health: health(written) });
    }
    let service = Name { namespace: Arc::clone(&name.namespace), name: Arc::from(service.as_str()) };
    Read { entry: Some(SliceEntry { service, ports, endpoints }), problems }
}

/// Names of zones and nodes, each kept once however many endpoints have it.
#[derive(Default)]
struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn place(&mut self, endpoint: &Endpoint) -> Result<Place, (&'static str, String)> {
        let mut one = |field, text: Option<&str>| {
            plain(text.unwrap_or_default(), NAME_BYTES_MAX).map_err(|message| (field, message))?;
            Ok(text.filter(|text| !text.is_empty()).map(|text| self.kept(text)))
        };
        Ok(Place {
            node: one("nodeName", endpoint.node_name.as_deref())?,
            zone: one("zone", endpoint.zone.as_deref())?,
        })
    }

    fn hints(&mut self, endpoint: &Endpoint) -> Option<Arc<Hints>> {
        let written = endpoint.hints.as_ref()?;
        let zones: Vec<_> = written.for_zones.iter().flatten().map(|zone| self.kept(&zone.name)).collect();
        let nodes: Vec<_> = written.for_nodes.iter().flatten().map(|node| self.kept(&node.name)).collect();
        (!zones.is_empty() || !nodes.is_empty()).then(|| Arc::new(Hints { nodes, zones }))
    }

    fn kept(&mut self, text: &str) -> Arc<str> {
        if let Some(kept) = self.0.get(text) {
            return Arc::clone(kept);
        }
        let kept: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&kept));
        kept
    }
}

/// Kubernetes' conditions: absent `ready` means ready; what terminates but still serves is a last resort.
fn health(endpoint: &Endpoint) -> Option<Health> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating.unwrap_or(false);
    let ready = conditions.ready.unwrap_or(true);
    if ready && !terminating {
        return Some(Health::Ready);
    }
    (terminating && conditions.serving.unwrap_or(ready)).then_some(Health::ServingTerminating)
}
