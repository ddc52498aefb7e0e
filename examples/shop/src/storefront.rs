//! The page for people, and the JSON API in front of `user`, `product` and `order`.
//!
//! It decides nothing: it asks who the customer is, and passes wishes on. Of its own it keeps only the catalogue that it
//! saw last, so that the page has something to show while `product` is away.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::app::{self, Common, Context, StartError};
use crate::client::{Answer, BaseUrl, Caller, Upstream};
use crate::db::Database;
use crate::error::{ApiError, Code, Payload};
use crate::order::{Order, OrderList, PlaceOrder};
use crate::product::{Catalogue, VERSION_HEADER};
use crate::serve;
use crate::trace::Trace;
use crate::user::{Login, Session, User};

mod memory;
mod page;
mod pages;

/// Flags of `shop-storefront`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-storefront", version, about = "Page and API of the shop")]
pub struct Flags {
    /// What every program has.
    #[command(flatten)]
    pub common: Common,
    /// Where `shop-user` is.
    #[arg(long, env = "SHOP_USER_URL", value_name = "http://HOST:PORT")]
    pub user_url: BaseUrl,
    /// Where `shop-product` is.
    #[arg(long, env = "SHOP_PRODUCT_URL", value_name = "http://HOST:PORT")]
    pub product_url: BaseUrl,
    /// Where `shop-order` is.
    #[arg(long, env = "SHOP_ORDER_URL", value_name = "http://HOST:PORT")]
    pub order_url: BaseUrl,
    /// How long a call to another service may take, in milliseconds. `order` makes two calls of its own.
    #[arg(long, env = "SHOP_TIMEOUT_MS", default_value_t = 8000)]
    pub timeout_ms: u64,
}

/// Runs `shop-storefront` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    let common = flags.common.clone();
    app::run("storefront", 8080, common, move |context| serve(context, flags))
}

async fn serve(context: Context, flags: Flags) -> Result<(), StartError> {
    let db = Database::open(&context.database, memory::MIGRATIONS).await?;
    let timeout = Duration::from_millis(flags.timeout_ms);
    let front = Front {
        user: Upstream::new("user", flags.user_url, timeout),
        product: Upstream::new("product", flags.product_url, timeout),
        order: Upstream::new("order", flags.order_url, timeout),
        remembered: Arc::new(Mutex::new(memory::recall(&db).await?)),
        db,
    };
    let router = Router::new()
        .route("/", get(pages::home))
        .route("/login", post(pages::login))
        .route("/logout", post(pages::logout))
        .route("/orders", post(pages::order))
        .route("/healthz", get(health))
        .route("/api/products", get(products))
        .route("/api/login", post(login))
        .route("/api/orders", get(orders).post(place))
        .route("/api/orders/{id}", get(order))
        .with_state(front);
    serve::http(context, router).await
}

/// The services behind, and what is remembered of them.
#[derive(Clone)]
struct Front {
    user: Upstream,
    product: Upstream,
    order: Upstream,
    db: Database,
    /// The catalogue that was seen last, as it lies in the database. Held to compare or replace it.
    remembered: Arc<Mutex<Option<Catalogue>>>,
}

/// What a customer orders through the API.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) idempotency_key: String,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
}

/// Who asks: the value of the header that proves it.
struct Bearer(HeaderValue);

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let value = parts.headers.get(AUTHORIZATION).cloned();
        value.map(Self).ok_or_else(|| {
            let message = "log in first: POST /api/login, then send the header authorization: Bearer <token>";
            ApiError::new(Code::Unauthorized, message)
        })
    }
}

impl Front {
    async fn catalogue(&self, trace: &Trace) -> Result<Answer<Catalogue>, ApiError> {
        let answer = self.product.get::<Catalogue>("/products", Caller::nobody(trace)).await?;
        self.remember(&answer.value).await;
        Ok(answer)
    }

    /// Keeps what the page shows while `product` is away. Stock changes with every order and is not worth a write.
    async fn remember(&self, seen: &Catalogue) {
        let shown = memory::without_stock(seen);
        {
            let mut remembered = self.remembered.lock();
            if remembered.as_ref() == Some(&shown) {
                return;
            }
            *remembered = Some(shown.clone());
        }
        if let Err(error) = memory::keep(&self.db, &shown).await {
            tracing::warn!(error = crate::client::chain(&error), "catalogue cannot be kept");
        }
    }

    async fn customer(&self, session: &HeaderValue, trace: &Trace) -> Result<User, ApiError> {
        let caller = Caller { trace, session: Some(session) };
        Ok(self.user.get::<User>("/session", caller).await?.value)
    }

    async fn place(&self, user: &User, wish: Wish, trace: &Trace) -> Result<Answer<Order>, ApiError> {
        let Wish { idempotency_key: key, product_id, quantity } = wish;
        let wanted = PlaceOrder { key, user_id: user.id, product_id, quantity };
        self.order.post("/orders", &wanted, Caller::nobody(trace)).await
    }

    async fn orders(&self, user: &User, trace: &Trace) -> Result<OrderList, ApiError> {
        let path = format!("/orders?user_id={}", user.id);
        Ok(self.order.get(&path, Caller::nobody(trace)).await?.value)
    }
}

async fn health(State(front): State<Front>) -> Result<&'static str, ApiError> {
    front.db.check().await?;
    Ok("ok\n")
}

async fn products(State(front): State<Front>, trace: Trace) -> Result<Response, ApiError> {
    let Answer { headers, value, .. } = front.catalogue(&trace).await?;
    let mut response = Json(value).into_response();
    if let Some(version) = headers.get(&VERSION_HEADER) {
        response.headers_mut().insert(VERSION_HEADER, version.clone());
    }
    Ok(response)
}

async fn login(
    State(front): State<Front>,
    trace: Trace,
    Payload(login): Payload<Login>,
) -> Result<(StatusCode, Json<Session>), ApiError> {
    let answer = front.user.post::<_, Session>("/login", &login, Caller::nobody(&trace)).await?;
    Ok((answer.status, Json(answer.value)))
}

async fn place(
    State(front): State<Front>,
    trace: Trace,
    Bearer(session): Bearer,
    Payload(wish): Payload<Wish>,
) -> Result<(StatusCode, Json<Order>), ApiError> {
    let user = front.customer(&session, &trace).await?;
    let answer = front.place(&user, wish, &trace).await?;
    Ok((answer.status, Json(answer.value)))
}

async fn orders(
    State(front): State<Front>,
    trace: Trace,
    Bearer(session): Bearer,
) -> Result<Json<OrderList>, ApiError> {
    let user = front.customer(&session, &trace).await?;
    Ok(Json(front.orders(&user, &trace).await?))
}

async fn order(
    State(front): State<Front>,
    trace: Trace,
    Bearer(session): Bearer,
    Path(id): Path<String>,
) -> Result<Json<Order>, ApiError> {
    let user = front.customer(&session, &trace).await?;
    let no_order = || ApiError::new(Code::NotFound, "there is no such order");
    if !crate::ids::is_key(&id) {
        return Err(no_order());
    }
    let order = front.order.get::<Order>(&format!("/orders/{id}"), Caller::nobody(&trace)).await?.value;
    // Somebody else's order does not exist for this customer.
    if order.user_id == user.id { Ok(Json(order)) } else { Err(no_order()) }
}
