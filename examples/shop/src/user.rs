//! Accounts and sessions: `GET /users/{id}`, `POST /login`, `GET /session`, `DELETE /session`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::app::{self, Common, Context, StartError};
use crate::db::Database;
use crate::error::{ApiError, Code, Payload};
use crate::{ids, serve};

mod password;
mod store;

/// Passwords checked at once: each costs a core for a tenth of a second, and nobody else should wait for that.
const LOGINS_MAX: usize = 2;
/// Longer texts are refused unread.
const TEXT_BYTES_MAX: usize = 256;

/// Flags of `shop-user`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-user", version, about = "Accounts and sessions of the shop")]
pub struct Flags {
    /// What every program has.
    #[command(flatten)]
    pub common: Common,
}

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: String,
}

/// What somebody who logs in says. No `Debug`: it would end in a log one day.
#[derive(Serialize, Deserialize)]
pub(crate) struct Login {
    pub(crate) email: String,
    pub(crate) password: String,
}

/// A session, told once to who logged in. No `Debug` either.
#[derive(Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) token: String,
    pub(crate) user: User,
    pub(crate) lasts_seconds: i64,
}

/// Runs `shop-user` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    app::run("user", 8080, flags.common, serve)
}

async fn serve(context: Context) -> Result<(), StartError> {
    let db = Database::open(&context.database, store::MIGRATIONS).await?;
    store::seed(&db).await?;
    let users = Users { db, logins: Arc::new(Semaphore::new(LOGINS_MAX)) };
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/users/{id}", get(user))
        .route("/login", post(login))
        .route("/session", get(session).delete(logout))
        .with_state(users);
    serve::http(context, router).await
}

#[derive(Clone)]
struct Users {
    db: Database,
    logins: Arc<Semaphore>,
}

async fn health(State(users): State<Users>) -> Result<&'static str, ApiError> {
    users.db.check().await?;
    Ok("ok\n")
}

async fn user(State(users): State<Users>, Path(id): Path<String>) -> Result<Json<User>, ApiError> {
    let id = id.parse().ok().ok_or_else(|| ApiError::new(Code::BadRequest, "a user's id is a number"))?;
    let found = store::user(&users.db, id).await?;
    found.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no user {id}")))
}

async fn login(
    State(users): State<Users>,
    Payload(login): Payload<Login>,
) -> Result<(StatusCode, Json<Session>), ApiError> {
    if login.email.len() > TEXT_BYTES_MAX || login.password.len() > TEXT_BYTES_MAX {
        return Err(ApiError::new(Code::BadRequest, "email or password is too long"));
    }
    let account = store::account(&users.db, login.email).await?;
    let Ok(place) = Arc::clone(&users.logins).try_acquire_owned() else {
        return Err(ApiError::new(Code::Busy, "too many log in at the moment"));
    };
    let check = tokio::task::spawn_blocking(move || {
        let user = password::check(account, &login.password);
        drop(place);
        user
    });
    let checked = check.await.map_err(|e| ApiError::new(Code::Internal, format!("checking a password: {e}")))?;
    let user = checked.ok_or_else(|| ApiError::new(Code::Unauthorized, "email or password is wrong"))?;
    let token = ids::random_hex::<32>()?;
    store::begin_session(&users.db, user.id, ids::sha256(&token)).await?;
    Ok((StatusCode::CREATED, Json(Session { token, user, lasts_seconds: store::SESSION_SECONDS })))
}

async fn session(State(users): State<Users>, Bearer(token): Bearer) -> Result<Json<User>, ApiError> {
    let found = store::session_user(&users.db, ids::sha256(&token)).await?;
    found.map(Json).ok_or_else(|| ApiError::new(Code::Unauthorized, "the session is not known, or over"))
}

async fn logout(State(users): State<Users>, Bearer(token): Bearer) -> Result<StatusCode, ApiError> {
    store::end_session(&users.db, ids::sha256(&token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The token of an `authorization: Bearer` header.
struct Bearer(String);

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let value = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).filter(|token| token.len() <= TEXT_BYTES_MAX);
        token.map(|token| Self(token.to_owned())).ok_or_else(|| {
            ApiError::new(Code::Unauthorized, "log in first: the header authorization: Bearer is missing")
        })
    }
}
