//! `Workload`s, as they are meant: what Kubernetes does not run. What it does run is in `pods`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_crds::{Workload, WorkloadSpec};
use weft_model::bounds::{INBOUND_PORTS_MAX, NAME_BYTES_MAX, OPEN_PATHS_MAX, PATH_BYTES_MAX, WEIGHT_MAX};
use weft_model::{AppProtocol, EndpointAddr, EndpointSpec, Health, SpiffeId, WorkloadName};

use crate::index::IndexConfig;
use crate::object::Name;
use crate::problem::Problem;
use crate::read::{Read, at_most, dialable, plain};
use crate::services::{PortEntry, ServiceEntry, Target};

/// A workload, as it is meant.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadEntry {
    pub(crate) name: WorkloadName,
    /// Its addresses, the first of which is the one that it is known by: one, or one of each family.
    pub(crate) ips: Vec<IpAddr>,
    /// Whether the addresses are its alone.
    pub(crate) owns_address: bool,
    /// Who it is; proven only where a proxy runs beside it.
    pub(crate) identity: SpiffeId,
    pub(crate) meshed: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: BTreeMap<u16, WorkloadPortEntry>,
    pub(crate) uid: Option<Arc<str>>,
    pub(crate) skip: BTreeSet<u16>,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) weight: u32,
    /// Its zone, where it says so itself; else it is its node's.
    pub(crate) zone: Option<Arc<str>>,
    /// The node that it runs on, where there is one.
    pub(crate) node: Option<Arc<str>>,
    /// Paths that are probed, by port.
    pub(crate) probes: BTreeMap<u16, BTreeSet<Arc<str>>>,
    /// Paths that are scraped, by port.
    pub(crate) scrapes: BTreeMap<u16, BTreeSet<Arc<str>>>,
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadPortEntry {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) protocol: AppProtocol,
}

impl WorkloadEntry {
    /// Which of its ports a Service's port leads to.
    pub(crate) fn target(&self, port: &PortEntry) -> Option<u16> {
        match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => {
                self.ports.iter().find(|(_, entry)| entry.name.as_ref() == Some(name)).map(|(number, _)| *number)
            }
        }
    }

    /// Its addresses, where they are its alone.
    pub(crate) fn own_ips(&self) -> &[IpAddr] {
        if self.owns_address { &self.ips } else { &[] }
    }

    /// Its addresses that a Service leads to: those of the Service's families, or else the first, since the proxies on both sides
    /// know no families.
    pub(crate) fn ips_for(&self, service: &ServiceEntry) -> Vec<IpAddr> {
        let Some(families) = service.families else { return self.ips.clone() };
        let fitting: Vec<IpAddr> = self.ips.iter().copied().filter(|ip| families.has(*ip)).collect();
        if fitting.is_empty() { self.ips.iter().copied().take(1).collect() } else { fitting }
    }

    /// It, at one of its addresses and ports, in a zone.
    pub(crate) fn endpoint(&self, ip: IpAddr, port: u16, zone: Option<Arc<str>>) -> EndpointSpec {
        EndpointSpec {
            addr: EndpointAddr(SocketAddr::new(ip, port)),
            identity: (self.meshed && !self.skip.contains(&port)).then(|| self.identity.clone()),
            workload: Some(self.name.clone()),
            zone,
            weight: self.weight,
            health: if self.terminating { Health::ServingTerminating } else { Health::Ready },
        }
    }

    /// What one of its ports is declared to speak by the workload itself.
    pub(crate) fn declared(&self, port: u16) -> AppProtocol {
        self.ports.get(&port).map_or(AppProtocol::Undeclared, |entry| entry.protocol)
    }
}

/// Reads a Workload.
pub(crate) fn read(name: &Name, workload: &Workload, config: &IndexConfig) -> Read<WorkloadEntry> {
    let spec = &workload.spec;
    let ip = match dialable(&spec.address) {
        Ok(ip) => ip,
        Err(message) => return Read::refused(Problem::refused("spec.address", message)),
    };
    if let Some(network) = config.reserved_networks.iter().find(|network| network.contains(&ip)) {
        let message = format!("{ip} is in {network}, which belongs to pods, services or nodes");
        return Read::refused(Problem::refused("spec.address", message));
    }
    let identity = match SpiffeId::new(&config.trust_domain, &name.namespace, &spec.service_account) {
        Ok(identity) => identity,
        Err(error) => return Read::refused(Problem::refused("spec.serviceAccount", error.to_string())),
    };
    if let Err((field, message)) = fits(spec) {
        return Read::refused(Problem::refused(field, message));
    }
    let mut problems = Vec::new();
    let mut ports = BTreeMap::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let protocol = AppProtocol::declared(port.app_protocol.as_deref(), port.name.as_deref());
        let entry = WorkloadPortEntry { name: port.name.as_deref().map(Arc::from), protocol };
        if port.port == 0 {
            problems.push(Problem::refused(format!("spec.ports[{i}].port"), "0 is not a port; it is left out"));
        } else if ports.insert(port.port, entry).is_some() {
            let message = format!("port {} stands here twice; the last one counts", port.port);
            problems.push(Problem::refused(format!("spec.ports[{i}].port"), message));
        }
    }
    let mut probes = BTreeMap::<u16, BTreeSet<Arc<str>>>::new();
    for (i, probe) in spec.probes.iter().enumerate() {
        if probe.path.starts_with('/') && probe.port != 0 {
            probes.entry(probe.port).or_default().insert(Arc::from(probe.path.as_str()));
            if probes.get(&probe.port).is_some_and(|paths| paths.len() > OPEN_PATHS_MAX) {
                let message = format!("port {} has more than {OPEN_PATHS_MAX} paths", probe.port);
                return Read::refused(Problem::refused(format!("spec.probes[{i}]"), message));
            }
        } else {
            let message = "a probe has a port and a path that begins with '/'; this one is left out";
            problems.push(Problem::refused(format!("spec.probes[{i}]"), message));
        }
    }
    if spec.weight > WEIGHT_MAX {
        let message = format!("more than {WEIGHT_MAX}, which is taken instead");
        problems.push(Problem::refused("spec.weight", message));
    }
    if spec.weight == 0 {
        problems.push(Problem::refused("spec.weight", "0 is taken as 1; to take it out of service set ready: false"));
    }
    let entry = WorkloadEntry {
        name: WorkloadName { namespace: Arc::clone(&name.namespace), name: Arc::clone(&name.name) },
        ips: vec![ip],
        owns_address: true,
        identity,
        meshed: spec.meshed,
        labels: workload.metadata.labels.clone().unwrap_or_default(),
        ports,
        uid: spec.uid.as_deref().map(Arc::from),
        skip: spec.skip_inbound_ports.iter().copied().collect(),
        ready: spec.ready,
        terminating: spec.terminating,
        weight: spec.weight.clamp(1, WEIGHT_MAX),
        zone: spec.zone.as_deref().filter(|zone| !zone.is_empty()).map(Arc::from),
        node: None,
        probes,
        scrapes: BTreeMap::new(),
    };
    Read { entry: Some(entry), problems }
}

/// Whether answers have room for what a workload says: one that they have not would cost its Services' clients all the
/// other endpoints too.
fn fits(spec: &WorkloadSpec) -> Result<(), (String, String)> {
    let at = |field: &str, fits: Result<(), String>| fits.map_err(|message| (format!("spec.{field}"), message));
    at("ports", at_most(spec.ports.len(), INBOUND_PORTS_MAX))?;
    at("probes", at_most(spec.probes.len(), INBOUND_PORTS_MAX))?;
    at("zone", plain(spec.zone.as_deref().unwrap_or_default(), NAME_BYTES_MAX))?;
    at("uid", plain(spec.uid.as_deref().unwrap_or_default(), NAME_BYTES_MAX))?;
    for (i, probe) in spec.probes.iter().enumerate() {
        at(&format!("probes[{i}].path"), plain(&probe.path, PATH_BYTES_MAX))?;
    }
    Ok(())
}
