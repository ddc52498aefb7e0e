//! Orders: `POST /orders`, `GET /orders/{id}`, `GET /orders?user_id=`.
//!
//! An order is reserved at `product`, charged at `payment`, and told to the queue, each under the order's id as the key,
//! so that a step whose answer was lost is simply taken again: by the customer's next try or by the worker in `resume`.

use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::app::{self, Common, Context, StartError};
use crate::client::{BaseUrl, Upstream};
use crate::db::Database;
use crate::error::{ApiError, Code, Payload};
use crate::money::Cents;
use crate::product::QUANTITY_MAX;
use crate::trace::Trace;
use crate::{ids, serve};

mod flow;
mod follow;
mod queue;
mod resume;
mod store;

/// Flags of `shop-order`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-order", version, about = "Orders of the shop")]
pub struct Flags {
    /// What every program has.
    #[command(flatten)]
    pub common: Common,
    /// Where `shop-product` is.
    #[arg(long, env = "SHOP_PRODUCT_URL", value_name = "http://HOST:PORT")]
    pub product_url: BaseUrl,
    /// Where `shop-payment` is (gRPC).
    #[arg(long, env = "SHOP_PAYMENT_URL", value_name = "http://HOST:PORT")]
    pub payment_url: BaseUrl,
    /// Redis to which each paid order is told (RPUSH orders). No order waits for it.
    #[arg(long, env = "SHOP_QUEUE", value_name = "HOST:PORT")]
    pub queue: Option<String>,
    /// How long a call to another service may take, in milliseconds.
    #[arg(long, env = "SHOP_TIMEOUT_MS", default_value_t = 3000)]
    pub timeout_ms: u64,
    /// After how long an order that got stuck is taken up again, in milliseconds.
    #[arg(long, env = "SHOP_RESUME_AFTER_MS", default_value_t = 5000)]
    pub resume_after_ms: u64,
    /// Whether to follow the stream of payments, which settles a charge whose answer was lost at once.
    #[arg(long, env = "SHOP_FOLLOW_PAYMENTS", default_value_t = true, action = clap::ArgAction::Set)]
    pub follow_payments: bool,
}

/// What a customer orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceOrder {
    /// Chosen by the customer's side, so that the same order is never made twice.
    pub(crate) key: String,
    pub(crate) user_id: i64,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Stock may or may not have been taken.
    Reserving,
    /// Stock is taken; the money may or may not have been.
    Charging,
    /// Done.
    Paid,
    /// It will fail; its stock is being given back.
    Releasing,
    /// Given up, for the reason it names.
    Failed,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) user_id: i64,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
    pub(crate) state: State,
    /// Known once stock is taken.
    pub(crate) unit_price_cents: Option<Cents>,
    pub(crate) total_cents: Option<Cents>,
    pub(crate) payment_id: Option<String>,
    /// Why it failed.
    pub(crate) failure: Option<ApiError>,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
}

/// The newest orders of a customer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderList {
    pub(crate) orders: Vec<Order>,
}

/// Runs `shop-order` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    let common = flags.common.clone();
    app::run("order", 8080, common, move |context| serve(context, flags))
}

async fn serve(context: Context, flags: Flags) -> Result<(), StartError> {
    let db = Database::open(&context.database, store::MIGRATIONS).await?;
    let timeout = Duration::from_millis(flags.timeout_ms);
    let product = Upstream::new("product", flags.product_url, timeout);
    let payments = follow::payments(&flags.payment_url, timeout).map_err(StartError::Serve)?;
    let news = flags.queue.as_ref().map(|_| std::sync::Arc::default());
    let orders = flow::Orders { db, product, payments, timeout, news };

    let (tasks, drain) = (&context.tasks, &context.drain);
    let resume_after = Duration::from_millis(flags.resume_after_ms);
    let (worker, until) = (orders.clone(), drain.clone());
    tasks.spawn("resume", async move { resume::run(worker, resume_after, until).await });
    if flags.follow_payments {
        let (worker, until) = (orders.clone(), drain.clone());
        tasks.spawn("follow-payments", async move { follow::run(worker, until).await });
    }
    if let (Some(addr), Some(news)) = (flags.queue, &orders.news) {
        let (db, news, until) = (orders.db.clone(), std::sync::Arc::clone(news), drain.clone());
        tasks.spawn("queue", async move { queue::run(db, addr, news, until).await });
    }

    let router = Router::new()
        .route("/healthz", get(health))
        .route("/orders", get(list).post(place))
        .route("/orders/{id}", get(order))
        .with_state(orders);
    serve::http(context, router).await
}

async fn health(Shared(orders): Shared<flow::Orders>) -> Result<&'static str, ApiError> {
    orders.db.check().await?;
    Ok("ok\n")
}

async fn place(
    Shared(orders): Shared<flow::Orders>,
    trace: Trace,
    Payload(wanted): Payload<PlaceOrder>,
) -> Result<Response, ApiError> {
    if !ids::is_key(&wanted.key) {
        return Err(ApiError::new(Code::BadRequest, "a key is 1 to 64 letters, digits, - and _"));
    }
    if !(1..=QUANTITY_MAX).contains(&wanted.quantity) {
        return Err(ApiError::new(Code::BadRequest, format!("the quantity is 1 to {QUANTITY_MAX}")));
    }
    let flow::Placed { order, is_new } = orders.place(wanted, &trace).await?;
    if let Some(failure) = order.failure {
        return Err(failure);
    }
    let status = match order.state {
        State::Paid if is_new => StatusCode::CREATED,
        State::Paid => StatusCode::OK,
        // The order stands and will be charged as soon as that can be done.
        State::Charging | State::Failed | State::Releasing | State::Reserving => StatusCode::ACCEPTED,
    };
    Ok((status, Json(order)).into_response())
}

async fn order(Shared(orders): Shared<flow::Orders>, Path(id): Path<String>) -> Result<Json<Order>, ApiError> {
    let found = store::order(&orders.db, id).await?;
    found.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, "there is no such order"))
}

/// Whose orders are asked for.
#[derive(Deserialize)]
struct Whose {
    user_id: i64,
}

async fn list(
    Shared(orders): Shared<flow::Orders>,
    whose: Result<Query<Whose>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<OrderList>, ApiError> {
    let Query(whose) = whose.map_err(|rejection| ApiError::new(Code::BadRequest, rejection.body_text()))?;
    Ok(Json(OrderList { orders: store::newest(&orders.db, whose.user_id).await? }))
}
