//! A customer for those who want to see traffic: looks at the catalogue again and again, and now and then orders something.
//!
//! It serves nothing and keeps nothing. What fails is told in a log line, and the next visit begins anew.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::MissedTickBehavior;
use weft_runtime::signal::Signals;
use weft_runtime::telemetry::{self, LogFormat};

use crate::app::StartError;
use crate::client::{BaseUrl, Caller, Upstream};
use crate::error::ApiError;
use crate::ids;
use crate::order::Order;
use crate::product::Catalogue;
use crate::storefront::Wish;
use crate::trace::Trace;
use crate::user::{Login, Session};

/// Every so many visits end with an order.
const VISITS_PER_ORDER: u64 = 5;
/// The shop has three of product 8 alone, so that orders are for the others.
const PRODUCTS: u64 = 7;
/// Longer than the storefront waits for anybody.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `shop-customer`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-customer", version, about = "A customer of the shop who comes again and again")]
pub struct Flags {
    /// Where `shop-storefront` is.
    #[arg(long, env = "SHOP_STOREFRONT_URL", value_name = "http://HOST:PORT")]
    pub storefront_url: BaseUrl,
    /// How many visits a second.
    #[arg(long, env = "SHOP_VISITS_PER_SECOND", default_value = "5")]
    pub visits_per_second: NonZeroU32,
    /// Who orders.
    #[arg(long, env = "SHOP_EMAIL", default_value = "ada@shop.example")]
    pub email: String,
    /// The password, which all customers of a new shop share.
    #[arg(long, env = "SHOP_PASSWORD", default_value = "warp-and-weft", hide_default_value = true)]
    pub password: String,
    /// What is logged: error, warn, info, debug, or target=level.
    #[arg(long, env = "SHOP_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look: text or json.
    #[arg(long, env = "SHOP_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Runs `shop-customer` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    telemetry::init(&flags.log, flags.log_format).map_err(StartError::Logs)?;
    // One visit at a time needs no more than one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::install().map_err(StartError::Runtime)?;
        tracing::info!(storefront = %flags.storefront_url, per_second = flags.visits_per_second, "visiting");
        // A visit that is cut off leaves an order whose key nobody knows, which the shop settles by itself.
        tokio::select! {
            never = visit_forever(flags) => match never {},
            received = signals.next() => tracing::info!(signal = %received, "leaving"),
        }
        Ok(())
    })
}

async fn visit_forever(flags: Flags) -> Infallible {
    let Flags { storefront_url, visits_per_second, email, password, .. } = flags;
    let login = Login { email, password };
    let storefront = Upstream::new("storefront", storefront_url, TIMEOUT);
    let mut visits = tokio::time::interval(Duration::from_secs(1) / visits_per_second.get());
    // Who was kept waiting does not come twice as often afterwards.
    visits.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut session, mut count) = (None, 0_u64);
    loop {
        visits.tick().await;
        if let Err(error) = visit(&storefront, &login, &mut session, count).await {
            tracing::warn!(code = ?error.code, error = error.message, "the visit failed");
            // It may have run out.
            session = None;
        }
        count = count.wrapping_add(1);
    }
}

/// Looks at the catalogue, and orders if it is time to. The session is kept for the next visit.
async fn visit(
    storefront: &Upstream,
    login: &Login,
    session: &mut Option<HeaderValue>,
    count: u64,
) -> Result<(), ApiError> {
    let trace = Trace::default();
    let nobody = Caller::nobody(&trace);
    storefront.get::<Catalogue>("/api/products", nobody).await?;
    if !count.is_multiple_of(VISITS_PER_ORDER) {
        return Ok(());
    }
    if session.is_none() {
        let answer = storefront.post::<_, Session>("/api/login", login, nobody).await?;
        *session = HeaderValue::from_str(&format!("Bearer {}", answer.value.token)).ok();
    }
    let product_id = i64::try_from(count / VISITS_PER_ORDER % PRODUCTS + 1).unwrap_or(1);
    let wish = Wish { idempotency_key: ids::random_hex::<16>()?, product_id, quantity: 1 };
    let customer = Caller { session: session.as_ref(), ..nobody };
    storefront.post::<_, Order>("/api/orders", &wish, customer).await?;
    Ok(())
}
