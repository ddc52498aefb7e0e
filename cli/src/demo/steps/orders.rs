//! A customer logs in and orders; each order passes four services over three protocols.

use anyhow::ensure;

use crate::demo::screen::Screen;
use crate::demo::shop::Shop;

/// How many are placed.
const ORDERS: u64 = 20;

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let before = shop.mesh().scrape()?;
    let session = shop.log_in()?;
    for number in 1..=ORDERS {
        shop.order(&session)?;
        screen.progress(&format!("{number} of {ORDERS} orders paid"));
    }
    let after = shop.mesh().scrape()?;
    let counted = |workload: &str, metric: &str, labels: &[(&str, &str)]| {
        let (before, after) = (before.get(workload)?, after.get(workload)?);
        Some(after.since(before).count(metric, labels))
    };
    let inbound = ("direction", "inbound");
    let at = |workload, labels: &[(&str, &str)]| counted(workload, "weft_requests_total", labels).unwrap_or_default();
    let page = at("storefront", &[inbound, ("class", "success")]);
    let placed = at("order", &[inbound, ("status_code", "201")]);
    let charged = at("payment", &[inbound, ("protocol", "grpc"), ("grpc_status", "0")]);
    let failed: u64 = shop.mesh().workloads().map(|it| at(&it.member().name, &[("class", "failure")])).sum();
    ensure!(placed >= ORDERS, "the proxy of order counted {placed} orders placed, not {ORDERS}");
    ensure!(charged >= ORDERS, "the proxy of payment counted {charged} charges, not {ORDERS}");
    ensure!(failed == 0, "the proxies counted {failed} failures");
    let mut figures = format!("{placed} orders; {page} requests to storefront, {charged} gRPC charges");
    if shop.has_queue() {
        let told = counted("queue", "weft_tcp_received_bytes_total", &[inbound]).unwrap_or_default();
        figures.extend([", ", &told.to_string(), " bytes from the queue over TCP"]);
    }
    Ok(figures)
}
