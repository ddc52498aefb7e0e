//! Version 2 of the catalogue gets more and more of the requests, by edits of one file.

use std::time::Duration;

use anyhow::ensure;

use super::under_load::{Figures, run_for, under_load};
use crate::demo::screen::Screen;
use crate::demo::shop::{CANARY_FILE, Shop, canary};

/// The shares, in percent.
const SHARES: [u32; 4] = [0, 10, 50, 100];

/// How far the measured share may be off where it is drawn at random: four standard deviations of the smallest sample.
const TOLERANCE_PERCENT: f64 = 7.0;

/// How long each share is measured.
const LENGTH: Duration = Duration::from_secs(3);

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let mut told = Vec::new();
    for share in SHARES {
        let spread = if share == 0 { None } else { Some(shop.mesh().apply(CANARY_FILE, &canary(share))?) };
        let what = format!("{share} % to v2");
        let ((), figures) = under_load(shop, screen, |_, screen, load| run_for(LENGTH, &what, screen, load))?;
        figures.none_failed()?;
        let (v1, v2) = versions(&figures);
        ensure!(v1 + v2 > 0, "no instance of the catalogue counted a request");
        let measured = 100.0 * v2 as f64 / (v1 + v2) as f64;
        let tolerance = if share == 0 || share == 100 { 0.0 } else { TOLERANCE_PERCENT };
        let spread = spread.map_or_else(String::new, |it| format!(" after {:.0} ms", it.as_secs_f64() * 1e3));
        screen.note(&format!("{share:>3} %: v1 counted {v1}, v2 counted {v2}; in force at every proxy{spread}"));
        ensure!(
            (measured - f64::from(share)).abs() <= tolerance,
            "{share} % to v2 was asked for, {measured:.1} % went there"
        );
        told.push(format!("{measured:.1} %{spread}"));
    }
    Ok(told.join(", "))
}

/// Requests that the proxies of each version's instances counted.
fn versions(figures: &Figures) -> (u64, u64) {
    let sum = |version: &str| {
        let those = figures.counted.iter().filter(|(name, _)| name.starts_with(version));
        those.map(|(_, scrape)| scrape.count("weft_requests_total", &[("direction", "inbound")])).sum()
    };
    (sum("product-v1"), sum("product-v2"))
}
