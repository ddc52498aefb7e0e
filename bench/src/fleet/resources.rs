//! What the control plane is given: services, one workload for each simulated proxy, and one endpoint that comes and goes.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use weft_cli::mesh::{Mesh, documents};
use weft_model::SpiffeId;
use weft_proto::proxy::v1::resource_key::Kind;
use weft_proto::proxy::v1::{ResourceKey, ServiceKey, Unit};

pub(super) const NAMESPACE: &str = "fleet";
pub(super) const PORT: u16 = 80;
/// Services that one proxy talks to.
const ASKED: usize = 10;
/// Documents of one file.
const IN_A_FILE: usize = 500;
/// Hosts that are counted in the last octet, so that none is .0 or .255.
const IN_A_NET: usize = 250;

/// How large a mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    /// Simulated proxies, each beside a workload.
    pub(crate) proxies: usize,
    /// Services, over which the workloads are spread.
    pub(crate) services: usize,
}

impl Size {
    /// Gives the services to a control plane, without any endpoint.
    pub(super) fn write_services(self, mesh: &Mesh<'_>) -> anyhow::Result<()> {
        write(mesh, "services", (0..self.services).map(service))
    }

    /// Gives it the workloads.
    pub(super) fn write_workloads(self, mesh: &Mesh<'_>) -> anyhow::Result<()> {
        let base = base(mesh)?;
        write(mesh, "workloads", (0..self.proxies).map(|i| workload(&name(i), i % self.services, host(base, 1, i))))
    }

    /// What the proxy with this number asks for: its own rules, the mesh's, and for each of some services where it is, how it
    /// is to be talked to, and who serves it. Everybody asks for the first service, of which an endpoint comes and goes.
    pub(super) fn subscriptions(self, proxy: usize) -> Vec<ResourceKey> {
        let asked = ASKED.min(self.services);
        let others = (1..asked).map(|next| 1 + (proxy + next) % (self.services - 1));
        let services = std::iter::once(0).chain(others);
        let keys = services.flat_map(|service| {
            let destination = Kind::Destination(format!("{}:{PORT}", service_ip(service)));
            [destination, Kind::Service(key(service)), Kind::Endpoints(key(service))]
        });
        let kinds = keys.chain([Kind::Inbound(Unit {}), Kind::Mesh(Unit {})]);
        kinds.map(|kind| ResourceKey { kind: Some(kind) }).collect()
    }
}

/// Moves the endpoint of the first service that moves, for the `n`th time.
pub(super) fn change(mesh: &Mesh<'_>, n: usize) -> anyhow::Result<()> {
    mesh.write("moving.yaml", &workload("moving", 0, host(base(mesh)?, 200, n)))
}

/// Where it is then, as the wire says it.
pub(super) fn moved_to(mesh: &Mesh<'_>, n: usize) -> anyhow::Result<String> {
    Ok(format!("{}:{PORT}", host(base(mesh)?, 200, n)))
}

/// The name of a proxy's workload, and of its service account.
pub(super) fn name(proxy: usize) -> String {
    format!("w{proxy}")
}

/// Who it is.
pub(super) fn identity(proxy: usize) -> anyhow::Result<SpiffeId> {
    weft_cli::mesh::control::identity(NAMESPACE, &name(proxy))
}

fn write(mesh: &Mesh<'_>, what: &str, all: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let all: Vec<String> = all.collect();
    for (n, some) in all.chunks(IN_A_FILE).enumerate() {
        mesh.write(&format!("{what}-{n}.yaml"), &documents(some))?;
    }
    Ok(())
}

fn key(service: usize) -> ServiceKey {
    ServiceKey { namespace: NAMESPACE.to_owned(), name: format!("s{service}"), port: PORT.into() }
}

fn service(i: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: {NAMESPACE}\n  name: s{i}\nspec:\n  clusterIP: {}\n  \
         selector: {{app: s{i}}}\n  ports: [{{name: http, port: {PORT}}}]\n",
        service_ip(i)
    )
}

fn workload(name: &str, service: usize, address: Ipv4Addr) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata:\n  namespace: {NAMESPACE}\n  name: {name}\n  \
         labels: {{app: s{service}}}\nspec:\n  address: {address}\n  serviceAccount: {name}\n"
    )
}

/// The network of the world, in which the workloads are said to be; nothing is ever sent to them.
fn base(mesh: &Mesh<'_>) -> anyhow::Result<Ipv4Addr> {
    let networks = mesh.world().networks();
    let network = networks.iter().find_map(|network| network.split('/').next()?.parse().ok());
    network.context("the world has no network of IPv4")
}

fn service_ip(i: usize) -> Ipv4Addr {
    host(Ipv4Addr::new(10, 96, 0, 0), 0, i)
}

/// The `i`th host from the third octet `from` on.
#[expect(clippy::cast_possible_truncation, reason = "sizes are far below what two octets hold")]
fn host(base: Ipv4Addr, from: u8, i: usize) -> Ipv4Addr {
    let [a, b, ..] = base.octets();
    Ipv4Addr::new(a, b, from + (i / IN_A_NET) as u8, (i % IN_A_NET) as u8 + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everybody_asks_for_the_first_service_and_for_each_of_the_others_once() {
        let size = Size { proxies: 100, services: 20 };
        for proxy in 0..size.proxies {
            let keys = size.subscriptions(proxy);
            let endpoints: Vec<_> = keys
                .iter()
                .filter_map(|key| match &key.kind {
                    Some(Kind::Endpoints(key)) => Some(key.name.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(endpoints.first(), Some(&"s0"));
            assert_eq!((endpoints.iter().collect::<HashSet<_>>().len(), keys.len()), (ASKED, 3 * ASKED + 2));
        }
    }

    #[test]
    fn hosts_have_addresses_of_their_own() {
        let base = Ipv4Addr::new(10, 77, 0, 0);
        let all: HashSet<_> = (0..5000).map(|i| host(base, 1, i)).collect();
        assert_eq!((all.len(), host(base, 1, 4999)), (5000, Ipv4Addr::new(10, 77, 20, 250)));
    }
}
