//! The way of an order, step by step. Every step asks another service under the order's id and then writes down what it
//! found out, so that it can be taken again from wherever the way was cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::store::{self, Begun, Step};
use super::{Order, PlaceOrder, State};
use crate::client::{Caller, Upstream};
use crate::db::{Database, DbError};
use crate::error::{ApiError, Code};
use crate::ids;
use crate::pb::payment::payments_client::PaymentsClient;
use crate::pb::payment::{ChargeRequest, Outcome, Payment};
use crate::product::{Released, Reservation, Reserve};
use crate::trace::Trace;

/// Everything that orders need. Clones are the same.
#[derive(Clone)]
pub(super) struct Orders {
    pub(super) db: Database,
    pub(super) product: Upstream,
    pub(super) payments: PaymentsClient<Channel>,
    pub(super) timeout: Duration,
    /// Wakes who tells the queue; none without a queue.
    pub(super) news: Option<Arc<Notify>>,
}

/// An order that was asked for.
pub(super) struct Placed {
    pub(super) order: Order,
    /// Whether this request made it.
    pub(super) is_new: bool,
}

/// An order as far as it came, and what stops it there.
pub(super) type Advanced = (Order, Option<ApiError>);

impl Orders {
    /// Makes the order, or finds the one that its key made before, and leads it as far as it goes.
    ///
    /// # Errors
    /// The key stands for another order; or stock could not be asked for: nothing was charged, and the same key may be
    /// tried again.
    pub(super) async fn place(&self, wanted: PlaceOrder, trace: &Trace) -> Result<Placed, ApiError> {
        let (order, is_new) = match store::begin(&self.db, wanted, ids::random_hex::<16>()?).await? {
            Begun::Before(order) => (order, false),
            Begun::KeyReused => return Err(ApiError::new(Code::KeyReused, "the key stands for another order")),
            Begun::New(order) => (order, true),
        };
        let (order, stopped) = self.advance(order, trace).await?;
        match stopped {
            Some(cause) if order.state == State::Reserving => Err(cause),
            _ => Ok(Placed { order, is_new }),
        }
    }

    /// Leads an order as far as it goes now.
    pub(super) async fn advance(&self, mut order: Order, trace: &Trace) -> Result<Advanced, DbError> {
        loop {
            let step = match order.state {
                State::Charging => self.charge(&order, trace).await,
                State::Failed | State::Paid => return Ok((order, None)),
                State::Releasing => self.release(&order, trace).await,
                State::Reserving => self.reserve(&order, trace).await,
            };
            match step {
                Ok(step) => order = self.take(&order.id, order.state, step).await?,
                Err(cause) => {
                    tracing::warn!(order = order.id, cause = %cause, trace_id = trace.id(), "order waits");
                    return Ok((order, Some(cause)));
                }
            }
        }
    }

    /// What a payment means for its order. `None` where it speaks of another charge than was asked for.
    pub(super) fn settle(&self, payment: &Payment) -> Option<Step> {
        match payment.outcome() {
            Outcome::Accepted => Some(Step::Pay { payment_id: payment.payment_id.clone(), tell: self.news.is_some() }),
            Outcome::Declined => {
                Some(Step::GiveUp(ApiError::new(Code::PaymentDeclined, payment.decline_reason.clone())))
            }
            Outcome::Unspecified => None,
        }
    }

    /// Writes a step down, and wakes who has something to tell.
    pub(super) async fn take(&self, id: &str, from: State, step: Step) -> Result<Order, DbError> {
        let order = store::step(&self.db, id.to_owned(), from, step).await?;
        if let (State::Paid, Some(news)) = (order.state, &self.news) {
            news.notify_one();
        }
        Ok(order)
    }

    async fn reserve(&self, order: &Order, trace: &Trace) -> Result<Step, ApiError> {
        let wanted = Reserve { key: order.id.clone(), product_id: order.product_id, quantity: order.quantity };
        let asked = self.product.post::<_, Reservation>("/reservations", &wanted, Caller::nobody(trace)).await;
        match asked {
            Ok(answer) => {
                let unit_price = answer.value.unit_price_cents;
                Ok(match unit_price.times(order.quantity) {
                    Some(total) => Step::Reserve { unit_price, total },
                    None => Step::GiveUp(ApiError::new(Code::BadRequest, "no number can say what that costs")),
                })
            }
            Err(refused) => match refused.code {
                Code::BadRequest | Code::NotFound | Code::OutOfStock => Ok(Step::Fail(refused)),
                // Released before: somebody gave the order up.
                Code::KeyReused => Ok(Step::GiveUp(abandoned())),
                _ => Err(refused),
            },
        }
    }

    async fn charge(&self, order: &Order, trace: &Trace) -> Result<Step, ApiError> {
        let Some(total) = order.total_cents else {
            return Ok(Step::GiveUp(ApiError::new(Code::Internal, "the order has no total")));
        };
        let mut request = tonic::Request::new(ChargeRequest {
            idempotency_key: order.id.clone(),
            order_id: order.id.clone(),
            user_id: order.user_id,
            amount_cents: total.0,
        });
        let mut headers = http::HeaderMap::new();
        trace.pass_on(&mut headers);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request.set_timeout(self.timeout);
        let charged = tokio::time::timeout(self.timeout, self.payments.clone().charge(request)).await;
        let late = || ApiError::new(Code::UpstreamTimeout, format!("payment did not answer within {:?}", self.timeout));
        match charged.map_err(|_elapsed| late())? {
            Ok(payment) => self
                .settle(payment.get_ref())
                .ok_or_else(|| ApiError::new(Code::UpstreamFailed, "payment gave an answer without an outcome")),
            // Nothing else is known to have left the account alone.
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                tracing::error!(order = order.id, status = status.message(), "charge refused");
                Ok(Step::GiveUp(ApiError::new(Code::Internal, "the charge was refused")))
            }
            Err(status) => Err(unpaid(&status)),
        }
    }

    async fn release(&self, order: &Order, trace: &Trace) -> Result<Step, ApiError> {
        let path = format!("/reservations/{}/release", order.id);
        self.product.post::<_, Released>(&path, &(), Caller::nobody(trace)).await?;
        Ok(Step::Release)
    }
}

/// Why an order that was never charged is given up.
pub(super) fn abandoned() -> ApiError {
    ApiError::new(Code::OrderAbandoned, "stock could not be asked for in time; nothing was charged")
}

fn unpaid(status: &tonic::Status) -> ApiError {
    let said = format!("payment answered {:?}: {}", status.code(), status.message());
    match status.code() {
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => ApiError::new(Code::UpstreamTimeout, said),
        tonic::Code::Unavailable => ApiError::new(Code::UpstreamUnreachable, said),
        _ => ApiError::new(Code::UpstreamFailed, said),
    }
}
