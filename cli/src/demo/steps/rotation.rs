//! The trust anchor, the issuer and every workload's certificate are replaced while customers look at the catalogue.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;

use super::under_load::{run_for, show, under_load};
use crate::demo::screen::Screen;
use crate::demo::shop::Shop;
use crate::mesh::scrape::Scrape;
use crate::world::wait_for;

/// Old leaves must expire before the old anchor goes.
const WITHIN: Duration = Duration::from_secs(90);

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let old = shop.mesh().control().rotation()?.anchors;
    let before = expiries(&shop.mesh().scrape()?)?;
    let (states, figures) = under_load(shop, screen, |shop, screen, load| {
        let control = shop.mesh().control();
        control.rotate_anchor()?;
        let mut states = vec!["Overlap".to_owned()];
        wait_for("the end of the rotation", WITHIN, || {
            let now = control.rotation().ok()?;
            if states.last() != Some(&now.state) {
                screen.note(&format!("{}: {} anchors in the bundle", now.state, now.anchors.len()));
                states.push(now.state.clone());
            }
            show(&format!("{}, waits for {}", now.state, now.waits_for), screen, load);
            (now.state == "Steady" && now.anchors != old).then_some(())
        })?;
        run_for(Duration::from_secs(2), "the old anchor is gone", screen, load)?;
        Ok(states)
    })?;
    figures.none_failed()?;
    let after = expiries(&shop.mesh().scrape()?)?;
    let renewed = after.iter().filter(|(name, expiry)| before.get(*name).is_some_and(|old| old < *expiry)).count();
    ensure!(renewed == after.len(), "{renewed} of {} proxies have a new certificate", after.len());
    let new = shop.mesh().control().rotation()?.anchors;
    ensure!(new.len() == 1 && new != old, "the anchors are {new:?}, and were {old:?}");
    Ok(format!("{}; {renewed} proxies with new certificates; {figures}", states.join(" → ")))
}

/// When each proxy's certificate expires.
fn expiries(scrapes: &BTreeMap<String, Scrape>) -> anyhow::Result<BTreeMap<String, f64>> {
    let expiry = |(name, scrape): (&String, &Scrape)| {
        scrape.value("weft_identity_expiry_timestamp_seconds").map(|seconds| (name.clone(), seconds))
    };
    scrapes.iter().map(expiry).collect()
}
