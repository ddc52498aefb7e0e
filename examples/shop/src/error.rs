//! What a request can be refused with: one closed set, and its one mapping to HTTP.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::db::DbError;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// The request makes no sense.
    BadRequest,
    /// Too much to do; nothing was changed.
    Busy,
    /// Our fault.
    Internal,
    /// The idempotency key stands for another request.
    KeyReused,
    /// No such thing.
    NotFound,
    /// The order was given up before it could be charged.
    OrderAbandoned,
    /// Not enough in stock.
    OutOfStock,
    /// The payment was declined.
    PaymentDeclined,
    /// Another service answered what cannot be used.
    UpstreamFailed,
    /// Another service took too long.
    UpstreamTimeout,
    /// Another service cannot be reached.
    UpstreamUnreachable,
    /// Who asks did not say who they are, or not truly.
    Unauthorized,
}

impl Code {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Busy | Self::UpstreamUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::OrderAbandoned | Self::OutOfStock => StatusCode::CONFLICT,
            Self::PaymentDeclined => StatusCode::PAYMENT_REQUIRED,
            Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }
}

/// A refusal. Travels as `{"error": {"code": …, "message": …}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    /// For people; may be shown to customers.
    pub(crate) message: String,
}

/// The body of a refusal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: ApiError,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        if matches!(error, DbError::Overloaded) {
            return Self::new(Code::Busy, "too much to do at the moment");
        }
        // The cause is for the operator; a customer can do nothing with it.
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "database failed");
        Self::new(Code::Internal, "the database failed")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code.status(), Json(ErrorBody { error: self })).into_response()
    }
}

/// A JSON body; what does not fit is refused in our own words.
pub(crate) struct Payload<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Payload<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let Json(value) = Json::from_request(request, state)
            .await
            .map_err(|rejection: JsonRejection| ApiError::new(Code::BadRequest, rejection.body_text()))?;
        Ok(Self(value))
    }
}
