//! The page's routes: forms in, pages and redirects out. Works without scripts.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, RawForm, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::page::{Notice, Page};
use super::{Front, Wish};
use crate::client::Caller;
use crate::error::{ApiError, Code};
use crate::ids;
use crate::trace::Trace;
use crate::user::{Login, Session};

const COOKIE_NAME: &str = "shop_session";
/// No scripts, nothing from elsewhere, in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// A browser's session, as `authorization` would say it.
pub(super) struct Visitor(Option<HeaderValue>);

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let cookies = parts.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let token = pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, token)| token);
        // Our own tokens are plain; whatever else stands there is nobody.
        let bearer = token.filter(|token| ids::is_key(token)).map(|token| format!("Bearer {token}"));
        Ok(Self(bearer.and_then(|bearer| HeaderValue::from_str(&bearer).ok())))
    }
}

/// What the page is asked to show besides.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// An order that was just placed.
    placed: Option<String>,
}

pub(super) async fn home(
    State(front): State<Front>,
    trace: Trace,
    visitor: Visitor,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let mut page = read(&front, &visitor, &trace).await;
    // A query that makes no sense asks for nothing.
    let placed = asked.ok().and_then(|Query(asked)| asked.placed);
    if let Some(order) = page.orders.iter().find(|order| Some(&order.id) == placed.as_ref()) {
        page.notices.insert(0, Notice::placed(order));
    }
    shown(StatusCode::OK, &page)
}

pub(super) async fn login(State(front): State<Front>, trace: Trace, RawForm(form): RawForm) -> Response {
    let session = async {
        let login: Login = fields(&form)?;
        Ok::<_, ApiError>(front.user.post::<_, Session>("/login", &login, Caller::nobody(&trace)).await?.value)
    };
    match session.await {
        Ok(Session { token, lasts_seconds, .. }) => {
            let cookie = format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts_seconds}");
            back("/", Some(&cookie))
        }
        Err(error) => refused(&front, &Visitor(None), &trace, &error).await,
    }
}

pub(super) async fn logout() -> Response {
    back("/", Some(&format!("{COOKIE_NAME}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0")))
}

pub(super) async fn order(
    State(front): State<Front>,
    trace: Trace,
    visitor: Visitor,
    RawForm(form): RawForm,
) -> Response {
    let placed = async {
        let wish: Wish = fields(&form)?;
        let session = visitor.0.as_ref().ok_or_else(|| ApiError::new(Code::Unauthorized, "log in first"))?;
        let user = front.customer(session, &trace).await?;
        front.place(&user, wish, &trace).await
    };
    match placed.await {
        // Ids are our own and plain.
        Ok(answer) => back(&format!("/?placed={}", answer.value.id), None),
        Err(error) => refused(&front, &visitor, &trace, &error).await,
    }
}

/// The fields of a form, which are written as a query is.
fn fields<T: DeserializeOwned>(form: &[u8]) -> Result<T, ApiError> {
    let wrong = |what: String| ApiError::new(Code::BadRequest, format!("the form is not complete: {what}"));
    let uri = Uri::try_from([b"/?", form].concat()).map_err(|error| wrong(error.to_string()))?;
    let Query(fields) = Query::try_from_uri(&uri).map_err(|rejection| wrong(rejection.body_text()))?;
    Ok(fields)
}

/// Everything that the page shows. What cannot be had is named on it.
async fn read(front: &Front, visitor: &Visitor, trace: &Trace) -> Page {
    let account = async {
        let Some(session) = &visitor.0 else { return (None, Vec::new(), None) };
        match front.customer(session, trace).await {
            // A session that is over is no news.
            Err(error) if error.code == Code::Unauthorized => (None, Vec::new(), None),
            Err(error) => (None, Vec::new(), Some(Notice::error(&error))),
            Ok(user) => match front.orders(&user, trace).await {
                Ok(list) => (Some(user), list.orders, None),
                Err(error) => (Some(user), Vec::new(), Some(Notice::error(&error))),
            },
        }
    };
    let (catalogue, (user, orders, trouble)) = tokio::join!(front.catalogue(trace), account);
    let mut notices: Vec<Notice> = trouble.into_iter().collect();
    let (products, is_open) = match catalogue {
        Ok(answer) => (answer.value.products, true),
        Err(error) => {
            notices.push(Notice::error(&error));
            let remembered = front.remembered.lock().clone();
            (remembered.map(|catalogue| catalogue.products).unwrap_or_default(), false)
        }
    };
    let key = ids::random_hex::<16>().ok();
    Page { user, orders, products, is_open, notices, key }
}

async fn refused(front: &Front, visitor: &Visitor, trace: &Trace, error: &ApiError) -> Response {
    let mut page = read(front, visitor, trace).await;
    page.notices.insert(0, Notice::error(error));
    shown(error.code.status(), &page)
}

fn shown(status: StatusCode, page: &Page) -> Response {
    let header = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let headers = [
        header(CONTENT_TYPE, "text/html; charset=utf-8"),
        header(CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (status, headers, page.html()).into_response()
}

/// To another page by GET, so that "reload" repeats nothing.
fn back(to: &str, cookie: Option<&str>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let values = [(LOCATION, Some(to)), (SET_COOKIE, cookie)];
    for (name, value) in values {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::Wish;
    use super::fields;

    #[test]
    fn forms_are_read_and_broken_ones_refused() {
        let wish: Wish = fields(b"idempotency_key=a-1&product_id=2&quantity=3").unwrap();
        assert_eq!((wish.idempotency_key.as_str(), wish.product_id, wish.quantity), ("a-1", 2, 3));
        let login: crate::user::Login = fields(b"email=a%40b&password=%C3%BC+%26").unwrap();
        assert_eq!((login.email.as_str(), login.password.as_str()), ("a@b", "ü &"));
        for broken in [&b"product_id=2"[..], b"idempotency_key=a&product_id=x&quantity=1", b"\xff\x00", b""] {
            assert!(fields::<Wish>(broken).is_err());
        }
    }
}
