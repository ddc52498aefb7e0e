//! The control plane is killed and started again while customers look at the catalogue.

use std::time::Duration;

use anyhow::ensure;

use super::under_load::{run_for, under_load};
use crate::demo::screen::Screen;
use crate::demo::shop::{CANARY_FILE, Shop, canary};
use crate::load::{Load, Plan};
use crate::mesh::{self, Mesh};
use crate::world::wait_for;

/// How long it is away.
const LENGTH: Duration = Duration::from_secs(4);

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let ((fresh, spread), figures) = under_load(shop, screen, |shop, screen, load| {
        run_for(Duration::from_secs(1), "load", screen, load)?;
        shop.mesh_mut().control_mut().kill()?;
        // Connections that are new, to destinations that are known.
        let plan = Plan::get(shop.addr("product")?, "/products").length_max(Duration::from_secs(60));
        let fresh = Load::start(shop.mesh().workload("storefront")?.host(), plan)?;
        run_for(LENGTH, "no control plane", screen, load)?;
        let connected = connected(shop.mesh())?;
        ensure!(connected == 0, "{connected} proxies say that they are connected to a control plane that is dead");
        shop.mesh_mut().control_mut().start()?;
        let all = shop.mesh().workloads().count();
        wait_for("every proxy's return to the control plane", mesh::WITHIN, || {
            super::under_load::show("control plane is back", screen, load);
            (self::connected(shop.mesh()).ok()? == all).then_some(())
        })?;
        let fresh = fresh.finish()?;
        // It knows again what it is to say.
        let spread = shop.mesh().apply(CANARY_FILE, &canary(50))?;
        run_for(Duration::from_secs(1), "load", screen, load)?;
        Ok((fresh, spread))
    })?;
    figures.none_failed()?;
    ensure!(fresh.failed == 0, "new connections while it was away: {fresh}");
    let new = fresh.succeeded;
    Ok(format!(
        "{figures}; {new} more on new connections; an edit after it in force in {:.0} ms",
        spread.as_secs_f64() * 1e3
    ))
}

/// How many proxies have a stream to the control plane.
fn connected(mesh: &Mesh<'_>) -> anyhow::Result<usize> {
    let mut connected = 0;
    for scrape in mesh.scrape()?.values() {
        connected += usize::from(scrape.value("weft_discovery_connected")? > 0.0);
    }
    Ok(connected)
}
