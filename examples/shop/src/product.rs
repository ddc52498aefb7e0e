//! Catalogue and stock: `GET /products`, `GET /products/{id}`, `POST /reservations`, `POST /reservations/{key}/release`.
//!
//! Stock is taken when it is reserved; releasing gives it back. Each is done once per key, however often it is asked for.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::app::{self, Common, Context, StartError};
use crate::db::Database;
use crate::error::{ApiError, Code, Payload};
use crate::money::Cents;
use crate::{ids, serve};

mod store;

/// Tells which version answered.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-product-version");

/// More of one thing than anybody orders.
pub(crate) const QUANTITY_MAX: i64 = 1000;

/// Flags of `shop-product`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-product", disable_version_flag = true, about = "Catalogue and stock of the shop")]
pub struct Flags {
    /// What every program has.
    #[command(flatten)]
    pub common: Common,
    /// Which version to be: v2 also tells what customers think of a product.
    #[arg(long, env = "SHOP_VERSION", default_value = "v1")]
    pub version: Version,
    /// How many of each product a new shop has.
    #[arg(long, env = "SHOP_STOCK", default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(0..=1_000_000_000))]
    pub stock: i64,
    /// How many milliseconds the catalogue takes beyond its query, as it would with a database on another machine.
    #[arg(long, env = "SHOP_LATENCY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub latency_ms: u64,
}

/// Which version of the service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// Names, prices, stock.
    V1,
    /// Ratings too.
    V2,
}

/// A product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) price_cents: Cents,
    pub(crate) stock: i64,
    /// Tenths of stars, 0 to 50; only v2 tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rating_tenths: Option<i64>,
}

/// The catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalogue {
    pub(crate) products: Vec<Product>,
}

/// Stock to be set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserve {
    pub(crate) key: String,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
}

/// Stock that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) key: String,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
    /// The price at that moment: what the customer pays.
    pub(crate) unit_price_cents: Cents,
}

/// Runs `shop-product` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    let Flags { common, version, stock, latency_ms } = flags;
    let latency = Duration::from_millis(latency_ms);
    app::run("product", 8080, common, move |context| serve(context, version, stock, latency))
}

async fn serve(context: Context, version: Version, stock: i64, latency: Duration) -> Result<(), StartError> {
    let db = Database::open(&context.database, store::MIGRATIONS).await?;
    store::seed(&db, stock).await?;
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/products", get(products))
        .route("/products/{id}", get(product))
        .route("/reservations", post(reserve))
        .route("/reservations/{key}/release", post(release))
        .with_state(Products { db, version, latency })
        .layer(axum::middleware::map_response(move |response: Response| async move { marked(response, version) }));
    serve::http(context, router).await
}

#[derive(Clone)]
struct Products {
    db: Database,
    version: Version,
    latency: Duration,
}

impl Products {
    /// What this version tells of a product.
    fn told(&self, product: Product) -> Product {
        match self.version {
            Version::V1 => Product { rating_tenths: None, ..product },
            Version::V2 => product,
        }
    }
}

fn marked(mut response: Response, version: Version) -> Response {
    let version = match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
    };
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(version));
    response
}

async fn health(State(products): State<Products>) -> Result<&'static str, ApiError> {
    products.db.check().await?;
    Ok("ok\n")
}

async fn products(State(products): State<Products>) -> Result<Json<Catalogue>, ApiError> {
    let all = store::products(&products.db).await?;
    tokio::time::sleep(products.latency).await;
    Ok(Json(Catalogue { products: all.into_iter().map(|product| products.told(product)).collect() }))
}

async fn product(State(products): State<Products>, Path(id): Path<String>) -> Result<Json<Product>, ApiError> {
    let id = id.parse().ok().ok_or_else(|| ApiError::new(Code::BadRequest, "a product's id is a number"))?;
    let found = store::product(&products.db, id).await?;
    found.map(|product| Json(products.told(product))).ok_or_else(|| no_product(id))
}

async fn reserve(State(products): State<Products>, Payload(wanted): Payload<Reserve>) -> Result<Response, ApiError> {
    check_key(&wanted.key)?;
    if !(1..=QUANTITY_MAX).contains(&wanted.quantity) {
        return Err(ApiError::new(Code::BadRequest, format!("the quantity is 1 to {QUANTITY_MAX}")));
    }
    match store::reserve(&products.db, wanted.clone()).await? {
        store::Reserved::New(reservation) => Ok((StatusCode::CREATED, Json(reservation)).into_response()),
        store::Reserved::Before(reservation) => Ok(Json(reservation).into_response()),
        store::Reserved::KeyReused => {
            Err(ApiError::new(Code::KeyReused, "the key stands for another reservation, or for a released one"))
        }
        store::Reserved::NoProduct => Err(no_product(wanted.product_id)),
        store::Reserved::OutOfStock { left } => {
            Err(ApiError::new(Code::OutOfStock, format!("{} wanted, {left} in stock", wanted.quantity)))
        }
    }
}

async fn release(State(products): State<Products>, Path(key): Path<String>) -> Result<Json<Released>, ApiError> {
    check_key(&key)?;
    Ok(Json(Released { returned: store::release(&products.db, key).await? }))
}

/// What a release gave back: nothing the second time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) returned: i64,
}

fn check_key(key: &str) -> Result<(), ApiError> {
    let refused = || ApiError::new(Code::BadRequest, "a key is 1 to 64 letters, digits, - and _");
    ids::is_key(key).then_some(()).ok_or_else(refused)
}

fn no_product(id: i64) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no product {id}"))
}
