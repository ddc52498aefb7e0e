//! The catalogue that was seen last, on disk.

use rusqlite::OptionalExtension;

use crate::db::{Database, DbError};
use crate::product::{Catalogue, Product};

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE catalogue (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        json TEXT NOT NULL,
        seen INTEGER NOT NULL
    ) STRICT;
"];

/// What is kept of a catalogue.
pub(super) fn without_stock(seen: &Catalogue) -> Catalogue {
    let products = seen.products.iter().cloned();
    // Which version answered is a matter of chance during a canary; what only one tells is not kept either.
    Catalogue { products: products.map(|product| Product { stock: 0, rating_tenths: None, ..product }).collect() }
}

pub(super) async fn recall(db: &Database) -> Result<Option<Catalogue>, DbError> {
    let query = |db: &rusqlite::Connection| db.query_row("SELECT json FROM catalogue", [], |row| row.get(0)).optional();
    let json: Option<String> = db.read(query).await?;
    // What an older version kept and this one cannot read is as good as nothing.
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

pub(super) async fn keep(db: &Database, catalogue: &Catalogue) -> Result<(), DbError> {
    let json = serde_json::json!(catalogue).to_string();
    let upsert = "INSERT INTO catalogue VALUES (1, ?1, unixepoch())
        ON CONFLICT DO UPDATE SET json = excluded.json, seen = excluded.seen";
    db.write(move |tx| tx.execute(upsert, [json])).await.map(|_count| ())
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, keep, recall, without_stock};
    use crate::db::Database;
    use crate::money::Cents;
    use crate::product::{Catalogue, Product};

    #[tokio::test]
    async fn what_was_kept_is_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("storefront.sqlite"), MIGRATIONS).await.unwrap();
        assert_eq!(recall(&db).await.unwrap(), None);
        let product = Product {
            id: 1,
            name: "Loom".to_owned(),
            description: String::new(),
            price_cents: Cents(5),
            stock: 7,
            rating_tenths: Some(45),
        };
        for price in [5, 6] {
            let product = Product { price_cents: Cents(price), ..product.clone() };
            let shown = without_stock(&Catalogue { products: vec![product] });
            keep(&db, &shown).await.unwrap();
            assert_eq!(recall(&db).await.unwrap(), Some(shown));
        }
    }
}
