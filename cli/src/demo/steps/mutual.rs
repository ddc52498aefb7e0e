//! Who spoke to whom, as the receiving proxies verified it.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::demo::screen::Screen;
use crate::demo::shop::Shop;
use crate::mesh::scrape::{Sample, Scrape};

/// What counts requests, and what counts opaque connections.
const COUNTERS: [(&str, &str); 2] =
    [("weft_requests_total", "requests"), ("weft_tcp_connections_opened_total", "connections")];

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let scrapes = shop.mesh().scrape()?;
    let mut pairs: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
    let (mut authenticated, mut clear) = (0, 0);
    for (name, scrape) in &scrapes {
        for (sample, unit) in counted(scrape) {
            let count = sample.count();
            match sample.label("mtls") {
                "yes" => authenticated += count,
                _ => clear += count,
            }
            if sample.label("direction") == "inbound" {
                *pairs.entry((source(shop, sample), name, unit)).or_default() += count;
            }
        }
    }
    for ((source, destination, unit), count) in &pairs {
        screen.note(&format!("{destination:<13} {count:>6} {unit:<11} from {source}"));
    }
    ensure!(clear == 0, "{clear} requests or connections were not mutually authenticated");
    ensure!(!pairs.is_empty(), "no proxy counted anything");
    let identities: std::collections::BTreeSet<&String> = pairs.keys().map(|(source, ..)| source).collect();
    let identities = identities.iter().filter(|source| source.starts_with("spiffe://")).count();
    ensure!(identities > 0, "no proxy knows who spoke to it");
    let all = scrapes.len();
    Ok(format!(
        "{authenticated} requests and connections by {identities} identities, 0 in the clear; {all} proxies asked"
    ))
}

fn counted(scrape: &Scrape) -> impl Iterator<Item = (&Sample, &'static str)> {
    COUNTERS.iter().flat_map(|(metric, unit)| scrape.select(metric, &[]).map(move |sample| (sample, *unit)))
}

/// The identity that a peer proved. The proxy names a workload only where its identity agrees with the certificate.
fn source(shop: &Shop<'_>, sample: &Sample) -> String {
    let (namespace, name) = (sample.label("source_namespace"), sample.label("source_workload"));
    let known = shop.mesh().workload(name).ok().filter(|workload| workload.member().namespace == namespace);
    known.map_or_else(|| format!("{namespace}/{name}"), |workload| workload.identity().to_string())
}
