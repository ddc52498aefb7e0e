//! Instances of the catalogue are killed, application and proxy at once, while customers look at it.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::under_load::{Figures, run_for, show, under_load};
use crate::demo::screen::Screen;
use crate::demo::shop::{RETRIES, Shop};
use crate::load::Load;
use crate::mesh::workload::Workload;
use crate::mesh::{WITHIN, status};
use crate::world::wait_for;

/// How often; and how often at most until there is a failure to be shown.
const KILLS: usize = 5;
const KILLS_MAX: usize = 15;

/// Who.
const VICTIMS: [&str; 2] = ["product-v1-a", "product-v1-b"];

const FILE: &str = "retries.yaml";

/// With the shop's retry policy nothing fails.
pub(super) fn with_policy(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let spread = shop.mesh().apply(FILE, RETRIES)?;
    screen.note(&format!(
        "{FILE} is in force at every proxy that it concerns after {:.0} ms",
        spread.as_secs_f64() * 1e3
    ));
    let (kills, figures) = kill_under_load(shop, screen, |kills, _| kills >= KILLS)?;
    figures.none_failed()?;
    Ok(format!("{kills} killed; {figures}"))
}

/// Without it, what was in flight is lost, and counted.
pub(super) fn without_policy(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    shop.mesh().remove(FILE)?;
    let keys = status::keys(RETRIES);
    wait_for("the end of the retry policy", WITHIN, || {
        let status = shop.mesh().control().status().ok()?;
        (status.is_settled() && keys.iter().all(|key| status.of(key).is_none())).then_some(())
    })?;
    let enough = |kills, load: &Load| kills >= KILLS && load.so_far().1 > 0 || kills >= KILLS_MAX;
    let (kills, figures) = kill_under_load(shop, screen, enough)?;
    let (_, failed) = figures.requests();
    ensure!(failed > 0, "{kills} killed, and the proxies counted no failure: {figures}");
    ensure!(
        failed == figures.report.failed,
        "the storefront's proxy counted {failed} failures, the generator saw {}",
        figures.report
    );
    Ok(format!("{kills} killed; {figures}"))
}

fn kill_under_load(
    shop: &mut Shop<'_>,
    screen: &mut Screen,
    enough: impl Fn(usize, &Load) -> bool,
) -> anyhow::Result<(usize, Figures)> {
    under_load(shop, screen, |shop, screen, load| {
        run_for(Duration::from_secs(1), "load", screen, load)?;
        let mut kills = 0;
        while !enough(kills, load) {
            let victim = VICTIMS.get(kills % VICTIMS.len()).context("nobody to kill")?;
            run_for(Duration::from_millis(fastrand::u64(100..900)), "load", screen, load)?;
            shop.mesh_mut().workload_mut(victim)?.kill()?;
            kills += 1;
            run_for(Duration::from_millis(1200), &format!("{victim} killed"), screen, load)?;
            shop.mesh_mut().restart(victim)?;
            // The next is only killed when this one has its share again: nobody can serve from two that are both gone.
            wait_for(&format!("requests to {victim} after its return"), WITHIN, || {
                show(&format!("{victim} coming back"), screen, load);
                let scrape = shop.mesh().workload(victim).and_then(Workload::scrape).ok()?;
                let served = scrape.count("weft_requests_total", &[("direction", "inbound"), ("status_code", "200")]);
                (served > 0).then_some(())
            })?;
        }
        run_for(Duration::from_secs(1), "load", screen, load)?;
        Ok(kills)
    })
}
