//! Payments on disk.

use rusqlite::{OptionalExtension, Row, params};

use crate::db::{Database, DbError};
use crate::money::Cents;
use crate::pb::payment::{ChargeRequest, Outcome, Payment};

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE payments (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        payment_id TEXT NOT NULL UNIQUE,
        key TEXT NOT NULL UNIQUE,
        order_id TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
        outcome INTEGER NOT NULL,
        decline_reason TEXT NOT NULL,
        made INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;
"];

/// How many payments are read at a time.
const PAGE: i64 = 64;

const COLUMNS: &str =
    "SELECT sequence, payment_id, order_id, user_id, amount_cents, outcome, decline_reason FROM payments";

/// What became of a charge.
#[derive(Debug, PartialEq)]
pub(super) enum Charged {
    /// It had been made before.
    Before(Payment),
    /// The key stands for another charge.
    KeyReused,
    /// Made now: accepted or declined.
    New(Payment),
}

/// Charges, once per key. A decline is kept too: the same key never gets another answer.
pub(super) async fn charge(
    db: &Database,
    charge: ChargeRequest,
    payment_id: String,
    limit: Cents,
) -> Result<Charged, DbError> {
    db.write(move |tx| {
        let query = format!("{COLUMNS} WHERE key = ?1");
        if let Some(before) = tx.query_row(&query, [&charge.idempotency_key], read_payment).optional()? {
            let same = before.order_id == charge.order_id
                && before.user_id == charge.user_id
                && before.amount_cents == charge.amount_cents;
            return Ok(if same { Charged::Before(before) } else { Charged::KeyReused });
        }
        let declined = Cents(charge.amount_cents) > limit;
        let outcome = if declined { Outcome::Declined } else { Outcome::Accepted };
        let decline_reason = if declined { format!("above the limit of {limit}") } else { String::new() };
        let ChargeRequest { idempotency_key: key, order_id, user_id, amount_cents } = charge;
        tx.execute(
            "INSERT INTO payments (payment_id, key, order_id, user_id, amount_cents, outcome, decline_reason)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![payment_id, key, order_id, user_id, amount_cents, i32::from(outcome), decline_reason],
        )?;
        let sequence = tx.last_insert_rowid();
        let outcome = outcome.into();
        Ok(Charged::New(Payment { sequence, payment_id, order_id, user_id, amount_cents, outcome, decline_reason }))
    })
    .await
}

/// The last sequence, or 0.
pub(super) async fn newest(db: &Database) -> Result<i64, DbError> {
    db.read(|db| db.query_row("SELECT coalesce(max(sequence), 0) FROM payments", [], |row| row.get(0))).await
}

/// The next payments after a sequence, a page of them.
pub(super) async fn after(db: &Database, sequence: i64) -> Result<Vec<Payment>, DbError> {
    db.read(move |db| {
        let query = format!("{COLUMNS} WHERE sequence > ?1 ORDER BY sequence LIMIT ?2");
        db.prepare(&query)?.query_map([sequence, PAGE], read_payment)?.collect()
    })
    .await
}

fn read_payment(row: &Row<'_>) -> Result<Payment, rusqlite::Error> {
    Ok(Payment {
        sequence: row.get(0)?,
        payment_id: row.get(1)?,
        order_id: row.get(2)?,
        user_id: row.get(3)?,
        amount_cents: row.get(4)?,
        outcome: row.get(5)?,
        decline_reason: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Charged, MIGRATIONS, after, charge, newest};
    use crate::db::Database;
    use crate::money::Cents;
    use crate::pb::payment::{ChargeRequest, Outcome};

    fn wish(key: &str, amount_cents: i64) -> ChargeRequest {
        ChargeRequest { idempotency_key: key.to_owned(), order_id: "o".to_owned(), user_id: 1, amount_cents }
    }

    async fn made(db: &Database, key: &str, cents: i64) -> Charged {
        charge(db, wish(key, cents), format!("id-{key}-{cents}"), Cents(1000)).await.unwrap()
    }

    #[tokio::test]
    async fn a_key_is_charged_once_and_keeps_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("payment.sqlite"), MIGRATIONS).await.unwrap();
        let Charged::New(first) = made(&db, "a", 1000).await else { panic!("new") };
        assert_eq!(first.outcome(), Outcome::Accepted);
        let again = charge(&db, wish("a", 1000), "other".to_owned(), Cents(1)).await.unwrap();
        assert_eq!(again, Charged::Before(first));
        assert_eq!(made(&db, "a", 999).await, Charged::KeyReused);
        let Charged::New(declined) = made(&db, "b", 1001).await else { panic!("new") };
        assert_eq!(
            (declined.outcome(), declined.decline_reason.as_str()),
            (Outcome::Declined, "above the limit of € 10.00")
        );
        assert_eq!(newest(&db).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn payments_are_told_in_order_and_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("payment.sqlite"), MIGRATIONS).await.unwrap();
        for n in 0..70 {
            made(&db, &format!("k{n}"), 1).await;
        }
        let page = after(&db, 0).await.unwrap();
        assert_eq!((page.len(), page[0].sequence), (64, 1));
        assert_eq!(after(&db, 64).await.unwrap().len(), 6);
    }
}
