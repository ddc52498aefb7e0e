//! What is done while customers look at the catalogue, and what the proxies counted meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::ensure;

use crate::demo::screen::Screen;
use crate::demo::shop::Shop;
use crate::load::{Load, Plan, Report};
use crate::mesh::scrape::Scrape;

/// Requests in a second.
pub(super) const RATE: u32 = 500;

/// Connections that they come on.
const CONNECTIONS: u32 = 16;

/// A load ends by itself after this, whatever happens to us.
const LENGTH_MAX: Duration = Duration::from_secs(180);

/// What the proxies counted, by workload.
pub(super) type Counted = BTreeMap<String, Scrape>;

/// What came of a load.
pub(super) struct Figures {
    /// What the generator saw.
    pub(super) report: Report,
    /// What the proxies counted.
    pub(super) counted: Counted,
}

impl Figures {
    fn storefront(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.counted.get("storefront").map_or(0, |scrape| scrape.count(name, labels))
    }

    /// Requests that the storefront's proxy sent, and those that failed.
    pub(super) fn requests(&self) -> (u64, u64) {
        let outbound = ("direction", "outbound");
        let total = self.storefront("weft_requests_total", &[outbound]);
        (total, self.storefront("weft_requests_total", &[outbound, ("class", "failure")]))
    }

    /// Why requests failed, by the storefront's proxy.
    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        if let Some(scrape) = self.counted.get("storefront") {
            for sample in scrape.select("weft_requests_total", &[("direction", "outbound"), ("class", "failure")]) {
                let (status, reason) = (sample.label("status_code"), sample.label("reason"));
                *reasons.entry(format!("{status} {reason}")).or_default() += sample.count();
            }
        }
        reasons.retain(|_, count| *count > 0);
        reasons
    }

    /// Further attempts that the storefront's proxy made.
    pub(super) fn retries(&self) -> u64 {
        self.storefront("weft_retries_total", &[("direction", "outbound")])
    }

    /// That nothing failed: by the proxies' count, and by that of the generator.
    pub(super) fn none_failed(&self) -> anyhow::Result<()> {
        let (requests, failed) = self.requests();
        ensure!(requests > 0, "the storefront's proxy counted no request");
        ensure!(failed == 0, "{self}");
        ensure!(self.report.failed == 0, "the generator saw {}, the storefront's proxy counted none", self.report);
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, failed) = self.requests();
        write!(f, "{requests} requests at {:.0}/s, {failed} failed", self.report.rate())?;
        for (reason, count) in self.reasons() {
            write!(f, ", {count}× {reason}")?;
        }
        write!(f, ", {} retried, p99 {:.0} ms", self.retries(), self.report.p99.as_secs_f64() * 1e3)
    }
}

/// Does something under load and tells what the proxies counted while it was done.
pub(super) fn under_load<T>(
    shop: &mut Shop<'_>,
    screen: &mut Screen,
    body: impl FnOnce(&mut Shop<'_>, &mut Screen, &Load) -> anyhow::Result<T>,
) -> anyhow::Result<(T, Figures)> {
    let before = shop.mesh().scrape()?;
    let plan = Plan::get(shop.addr("product")?, "/products").rate(RATE).connections(CONNECTIONS).length_max(LENGTH_MAX);
    let load = Load::start(shop.mesh().workload("storefront")?.host(), plan)?;
    let done = body(shop, screen, &load)?;
    let report = load.finish()?;
    let mut counted = shop.mesh().scrape()?;
    for (name, scrape) in &mut counted {
        if let Some(before) = before.get(name) {
            *scrape = scrape.since(before);
        }
    }
    Ok((done, Figures { report, counted }))
}

/// Lets the load run, showing its figures.
pub(super) fn run_for(length: Duration, what: &str, screen: &mut Screen, load: &Load) -> anyhow::Result<()> {
    let end = load.elapsed() + length;
    while load.elapsed() < end {
        show(what, screen, load);
        crate::world::pause(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Shows the figures of a load that runs.
pub(super) fn show(what: &str, screen: &mut Screen, load: &Load) {
    let (succeeded, failed) = load.so_far();
    screen.progress(&format!("{what}: {} requests, {failed} failed", succeeded + failed));
}
