//! The line to `payment`, and its stream of payments: a charge whose answer was lost is settled as soon as it is told.

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint, Error};
use weft_runtime::drain::Drain;

use super::State;
use super::flow::Orders;
use super::store;
use crate::client::BaseUrl;
use crate::pb::payment::payments_client::PaymentsClient;
use crate::pb::payment::{Payment, WatchRequest};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before asking again; it doubles each time in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A client that connects when it is first needed, and again whenever it has to.
pub(super) fn payments(url: &BaseUrl, timeout: Duration) -> Result<PaymentsClient<Channel>, Error> {
    let endpoint = Endpoint::from_shared(url.to_string())?
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .tcp_nodelay(true);
    Ok(PaymentsClient::new(endpoint.connect_lazy()))
}

/// Follows the payments until the drain begins. What was told while nobody followed is found by the other worker.
pub(super) async fn run(orders: Orders, drain: Drain) {
    let (mut after_sequence, mut pause) = (None, PAUSE_MIN);
    loop {
        // The drain's arm loses a payment that was told and not written: the next start finds the order unfinished.
        tokio::select! {
            () = drain.draining() => return,
            ended = follow(&orders, &mut after_sequence, &mut pause) => {
                let code = ended.err().map(|status| status.code());
                tracing::debug!(?code, "stream of payments ended");
            }
        }
        tokio::select! {
            () = drain.draining() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

async fn follow(orders: &Orders, after_sequence: &mut Option<i64>, pause: &mut Duration) -> Result<(), Status> {
    let request = WatchRequest { after_sequence: *after_sequence };
    let mut stream = orders.payments.clone().watch(request).await?.into_inner();
    while let Some(payment) = stream.message().await? {
        *after_sequence = Some(payment.sequence);
        *pause = PAUSE_MIN;
        settle(orders, &payment).await;
    }
    Ok(())
}

async fn settle(orders: &Orders, payment: &Payment) {
    let found = match store::order(&orders.db, payment.order_id.clone()).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(error = crate::client::chain(&error), "order of a payment cannot be read");
            return;
        }
    };
    // Nearly always the charge's own answer was quicker.
    let waits = found.filter(|order| order.state == State::Charging);
    let Some((order, step)) = waits.zip(orders.settle(payment)) else { return };
    match orders.take(&order.id, State::Charging, step).await {
        Ok(order) => tracing::debug!(order = order.id, state = ?order.state, "settled by the stream of payments"),
        Err(error) => tracing::warn!(error = crate::client::chain(&error), "payment cannot be written down"),
    }
}
