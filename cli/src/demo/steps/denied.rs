//! Somebody who has no business with the orders asks for them.

use anyhow::{Context as _, ensure};

use crate::demo::screen::Screen;
use crate::demo::shop::Shop;
use crate::mesh::http::get;

/// The policy of the shop that says who may, as metrics and headers call it.
const POLICY: &str = "AuthorizationPolicy/shop/order-callers";

pub(super) fn run(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<String> {
    let denials = |shop: &Shop<'_>| {
        let scrape = shop.mesh().workload("order")?.scrape()?;
        anyhow::Ok(scrape.count("weft_authorization_total", &[("verdict", "deny"), ("policy", POLICY)]))
    };
    let before = denials(shop)?;
    let intruder = shop.mesh().workload("intruder")?;
    let answer = get(intruder.host(), shop.addr("order")?, "/orders?user_id=1")?;
    let identity = intruder.identity().to_string();
    let (reason, policy) = (answer.header("weft-error"), answer.header("weft-policy"));
    screen.note(&format!("{identity} asked, and got {}: {}", answer.status, reason.unwrap_or("no reason")));
    ensure!(answer.status == 403, "status {}, not 403", answer.status);
    ensure!(reason == Some("authorization"), "weft-error is {reason:?}");
    ensure!(policy == Some(POLICY), "weft-policy is {policy:?}");
    let after = denials(shop)?;
    ensure!(after == before + 1, "the proxy of order counted {} denials", after - before);
    // Who may, still may.
    let session = shop.log_in()?;
    shop.order(&session).context("an order that is allowed")?;
    Ok(format!("403 by {POLICY}, counted once by the proxy of order; an order is still paid"))
}
