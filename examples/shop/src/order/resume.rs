//! Takes up orders that got stuck: the program ended half-way, or another service was away.

use std::time::Duration;

use weft_runtime::drain::Drain;

use super::State;
use super::flow::{Orders, abandoned};
use super::store::{self, Step, Stuck};
use crate::db::DbError;
use crate::trace::Trace;

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After how long an order whose stock was never confirmed is given up: its customer, who got an error, is gone.
const ABANDON_AFTER_MS: i64 = 60_000;

/// Looks for stuck orders until the drain begins.
pub(super) async fn run(orders: Orders, after: Duration, drain: Drain) {
    let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    loop {
        // A step that the end cuts is taken again by the next start.
        tokio::select! {
            () = drain.draining() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        tokio::select! {
            () = drain.draining() => return,
            looked = look(&orders, after_ms) => if let Err(error) = looked {
                tracing::warn!(error = crate::client::chain(&error), "stuck orders cannot be read");
            }
        }
    }
}

async fn look(orders: &Orders, after_ms: i64) -> Result<(), DbError> {
    for Stuck { order, age_ms } in store::unfinished(&orders.db, after_ms).await? {
        let order = match order.state {
            State::Reserving if age_ms < ABANDON_AFTER_MS => continue,
            State::Reserving => orders.take(&order.id, order.state, Step::GiveUp(abandoned())).await?,
            State::Charging | State::Failed | State::Paid | State::Releasing => order,
        };
        // Boxed: the way of an order is long, and here it lies in a loop in a task.
        let (order, stopped) = Box::pin(orders.advance(order, &Trace::default())).await?;
        if stopped.is_some() {
            // Who stops this one would stop the others too: they get their turn later.
            return Ok(());
        }
        tracing::info!(order = order.id, state = ?order.state, "stuck order finished");
    }
    Ok(())
}
