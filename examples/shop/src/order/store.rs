//! Orders on disk. An order moves only from the state that a step began in: of two that take the same step, one does.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde_json::json;

use super::{Order, PlaceOrder, State};
use crate::db::{Database, DbError};
use crate::error::ApiError;
use crate::money::Cents;

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE orders (
        id TEXT PRIMARY KEY,
        user_id INTEGER NOT NULL,
        key TEXT NOT NULL,
        product_id INTEGER NOT NULL,
        quantity INTEGER NOT NULL,
        state TEXT NOT NULL,
        unit_price_cents INTEGER,
        total_cents INTEGER,
        payment_id TEXT,
        failure TEXT,
        created_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
        tried_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
        UNIQUE (user_id, key)
    ) STRICT;
    CREATE INDEX orders_by_user ON orders (user_id, created_ms);
    CREATE INDEX orders_unfinished ON orders (tried_ms) WHERE state NOT IN ('paid', 'failed');
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        payload TEXT NOT NULL
    ) STRICT;
"];

const LIST_MAX: i64 = 20;
const UNFINISHED_MAX: i64 = 50;
const EVENTS_MAX: i64 = 100;

const COLUMNS: &str = "SELECT id, user_id, product_id, quantity, state, unit_price_cents, total_cents, payment_id,
    failure, created_ms FROM orders";

/// What became of a wish to order.
#[derive(Debug)]
pub(super) enum Begun {
    Before(Order),
    KeyReused,
    New(Order),
}

/// What a step found out.
#[derive(Debug)]
pub(super) enum Step {
    /// Fails, and took nothing.
    Fail(ApiError),
    /// Fails, and what it took must be given back.
    GiveUp(ApiError),
    /// Is paid; `tell` the queue.
    Pay { payment_id: String, tell: bool },
    /// Has given back what it took.
    Release,
    /// Has taken its stock.
    Reserve { unit_price: Cents, total: Cents },
}

/// An order that got stuck.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) order: Order,
    /// Since when it exists.
    pub(super) age_ms: i64,
}

pub(super) async fn begin(db: &Database, wanted: PlaceOrder, id: String) -> Result<Begun, DbError> {
    db.write(move |tx| {
        let PlaceOrder { key, user_id, product_id, quantity } = wanted;
        let query = format!("{COLUMNS} WHERE user_id = ?1 AND key = ?2");
        if let Some(before) = tx.query_row(&query, params![user_id, key], read_order).optional()? {
            let same = before.product_id == product_id && before.quantity == quantity;
            return Ok(if same { Begun::Before(before) } else { Begun::KeyReused });
        }
        let insert =
            "INSERT INTO orders (id, user_id, key, product_id, quantity, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        tx.execute(insert, params![id, user_id, key, product_id, quantity, text(State::Reserving)])?;
        Ok(Begun::New(tx.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read_order)?))
    })
    .await
}

/// Takes a step from a state, unless the order has left that state meanwhile; returns the order as it is then.
pub(super) async fn step(db: &Database, id: String, from: State, step: Step) -> Result<Order, DbError> {
    db.write(move |tx| {
        let order = tx.query_row(&format!("{COLUMNS} WHERE id = ?1"), [&id], read_order)?;
        if order.state == from {
            take(tx, &order, step)?;
        }
        tx.query_row(&format!("{COLUMNS} WHERE id = ?1"), [&id], read_order)
    })
    .await
}

fn take(tx: &Transaction<'_>, order: &Order, step: Step) -> Result<(), rusqlite::Error> {
    let failed = |to: State, failure: &ApiError| {
        let failure = serde_json::to_string(failure).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let update = "UPDATE orders SET state = ?2, failure = ?3 WHERE id = ?1";
        tx.execute(update, params![order.id, text(to), failure])
    };
    match step {
        Step::Fail(failure) => failed(State::Failed, &failure)?,
        Step::GiveUp(failure) => failed(State::Releasing, &failure)?,
        Step::Pay { payment_id, tell } => {
            if tell {
                let event = json!({
                    "event": "order-paid", "order_id": order.id, "user_id": order.user_id, "product_id": order.product_id,
                    "quantity": order.quantity, "total_cents": order.total_cents, "payment_id": payment_id,
                });
                // In the same transaction: what is paid is told, what is not paid is not.
                tx.execute("INSERT INTO events (payload) VALUES (?1)", [event.to_string()])?;
            }
            let update = "UPDATE orders SET state = ?2, payment_id = ?3 WHERE id = ?1";
            tx.execute(update, params![order.id, text(State::Paid), payment_id])?
        }
        Step::Release => {
            tx.execute("UPDATE orders SET state = ?2 WHERE id = ?1", params![order.id, text(State::Failed)])?
        }
        Step::Reserve { unit_price, total } => {
            let update = "UPDATE orders SET state = ?2, unit_price_cents = ?3, total_cents = ?4 WHERE id = ?1";
            tx.execute(update, params![order.id, text(State::Charging), unit_price.0, total.0])?
        }
    };
    Ok(())
}

pub(super) async fn order(db: &Database, id: String) -> Result<Option<Order>, DbError> {
    db.read(move |db| db.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read_order).optional()).await
}

/// The newest orders of a customer, newest first.
pub(super) async fn newest(db: &Database, user_id: i64) -> Result<Vec<Order>, DbError> {
    db.read(move |db| {
        let query = format!("{COLUMNS} WHERE user_id = ?1 ORDER BY created_ms DESC, id LIMIT ?2");
        db.prepare(&query)?.query_map([user_id, LIST_MAX], read_order)?.collect()
    })
    .await
}

/// Orders that were last tried that long ago, and marks them as tried now, so that every one gets its turn.
pub(super) async fn unfinished(db: &Database, tried_before_ms: i64) -> Result<Vec<Stuck>, DbError> {
    db.write(move |tx| {
        let now: i64 = tx.query_row("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)", [], |row| row.get(0))?;
        let query =
            format!("{COLUMNS} WHERE state NOT IN ('paid', 'failed') AND tried_ms <= ?1 ORDER BY tried_ms LIMIT ?2");
        let found: Vec<Order> = tx
            .prepare(&query)?
            .query_map([now - tried_before_ms, UNFINISHED_MAX], read_order)?
            .collect::<Result<_, _>>()?;
        for order in &found {
            tx.execute("UPDATE orders SET tried_ms = ?2 WHERE id = ?1", params![order.id, now])?;
        }
        Ok(found.into_iter().map(|order| Stuck { age_ms: now - order.created_ms, order }).collect())
    })
    .await
}

/// What the queue was not told yet, oldest first.
pub(super) async fn events(db: &Database) -> Result<Vec<(i64, String)>, DbError> {
    db.read(|db| {
        let query = "SELECT sequence, payload FROM events ORDER BY sequence LIMIT ?1";
        db.prepare(query)?.query_map([EVENTS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    })
    .await
}

/// Forgets what the queue was told.
pub(super) async fn told(db: &Database, sequence: i64) -> Result<(), DbError> {
    db.write(move |tx| tx.execute("DELETE FROM events WHERE sequence <= ?1", [sequence])).await.map(|_count| ())
}

fn text(state: State) -> &'static str {
    match state {
        State::Charging => "charging",
        State::Failed => "failed",
        State::Paid => "paid",
        State::Releasing => "releasing",
        State::Reserving => "reserving",
    }
}

fn read_order(row: &Row<'_>) -> Result<Order, rusqlite::Error> {
    let unknown =
        |column, e: serde_json::Error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, e.into());
    let state: String = row.get(4)?;
    let failure: Option<String> = row.get(8)?;
    Ok(Order {
        id: row.get(0)?,
        user_id: row.get(1)?,
        product_id: row.get(2)?,
        quantity: row.get(3)?,
        state: serde_json::from_value(state.into()).map_err(|e| unknown(4, e))?,
        unit_price_cents: row.get::<_, Option<i64>>(5)?.map(Cents),
        total_cents: row.get::<_, Option<i64>>(6)?.map(Cents),
        payment_id: row.get(7)?,
        failure: failure.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| unknown(8, e))?,
        created_ms: row.get(9)?,
    })
}

#[cfg(test)]
mod tests;
