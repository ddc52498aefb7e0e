//! For `--keep`: ways from this machine's loopback into the hosts of the demo, and what to type to be in one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use weft_runtime::task::Tasks;

use super::shop::{Shop, service};
use crate::mesh::control::ControlPlane;
use crate::mesh::workload::Workload;
use crate::world::Host;

/// Connections at once through one way.
const CONNECTIONS_MAX: usize = 64;

/// Opens all ways; returns what to print.
pub(super) fn open(shop: &Shop<'_>) -> anyhow::Result<Vec<String>> {
    let mesh = shop.mesh();
    let family = mesh.settings().family;
    let customer = mesh.workload("customer")?;
    let storefront = way(customer.host(), service("storefront", family)?)?;
    let control = way(mesh.control().host(), ControlPlane::admin_addr())?;
    let mut lines = vec![
        format!("the shop, as the customer sees it      http://{storefront}/"),
        format!("the control plane                      http://{control}/status (weft status --admin {control})"),
        format!("its resources, to be edited            {}", mesh.control().directories().resources.display()),
    ];
    for workload in mesh.workloads() {
        let name = &workload.member().name;
        let way = way(workload.host(), Workload::admin_addr())?;
        let enter = workload.proxy_id().map_or_else(String::new, |id| format!("  {}", enter(mesh, id)));
        lines.push(format!("{name:<12} its proxy: http://{way}/metrics{enter}"));
    }
    Ok(lines)
}

/// What to type to be in the host of a process.
fn enter(mesh: &crate::mesh::Mesh<'_>, id: u32) -> String {
    let user = if mesh.world().privilege().is_user_namespace() { " --user --preserve-credentials" } else { "" };
    format!("inside: nsenter --target {id}{user} --net")
}

/// Listens on this machine's loopback, on any port, for connections to an address inside a host.
fn way(host: &Host, to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
    listener.set_nonblocking(true).context("listening on loopback")?;
    let at = listener.local_addr().context("listening on loopback")?;
    let host = host.clone();
    let carry = move || {
        // It ends with the process; what goes wrong before that is one connection's matter.
        drop(host.block_on(|| carry(listener, to)));
    };
    std::thread::Builder::new().name("way".to_owned()).spawn(carry).context("starting a thread")?;
    Ok(at)
}

async fn carry(listener: TcpListener, to: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (tasks, places) = (Tasks::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let (mut near, _) = listener.accept().await?;
        tasks.spawn("way", async move {
            let _place = place;
            if let Ok(mut far) = TcpStream::connect(to).await {
                // Who closes first, and how, is between the two sides.
                drop(copy_bidirectional(&mut near, &mut far).await);
            }
        });
    }
}
