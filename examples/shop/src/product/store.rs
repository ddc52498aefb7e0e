//! Catalogue, stock and reservations on disk.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Product, Reservation, Reserve};
use crate::db::{Database, DbError};
use crate::money::Cents;

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE products (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        price_cents INTEGER NOT NULL CHECK (price_cents > 0),
        stock INTEGER NOT NULL CHECK (stock >= 0),
        rating_tenths INTEGER NOT NULL
    ) STRICT;
    -- A reservation of quantity 0 was released before it arrived: it must not take stock any more.
    CREATE TABLE reservations (
        key TEXT PRIMARY KEY,
        product_id INTEGER,
        quantity INTEGER NOT NULL,
        unit_price_cents INTEGER NOT NULL,
        released INTEGER NOT NULL DEFAULT 0,
        made INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;
"];

/// Name, description, price in cents, rating in tenths of stars.
const SEED: [(&str, &str, i64, i64); 8] = [
    ("Linen tea towel", "Plain weave, washed soft, 50 × 70 cm", 1450, 46),
    ("Wool throw", "Herringbone from Shetland wool, 130 × 180 cm", 14900, 49),
    ("Cotton tote", "Canvas that carries a sack of flour", 1900, 41),
    ("Silk scarf", "Satin weave, hand-rolled edges", 8900, 47),
    ("Denim apron", "Twill with brass rivets and a pencil pocket", 5400, 44),
    ("Lap loom", "Beech, with shuttle and comb; a weekend to the first scarf", 7800, 48),
    ("Madder dye kit", "Roots, alum, instructions: eleven kinds of red", 3250, 39),
    ("Heirloom tapestry", "One of three, signed by the weaver", 240_000, 50),
];
/// Of the last product there are only three, whatever the shop's stock.
const RARE: (i64, i64) = (8, 3);

/// What became of a wish to reserve.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It had been reserved with this key before.
    Before(Reservation),
    /// The key stands for something else, or was released.
    KeyReused,
    /// Reserved now.
    New(Reservation),
    /// No such product.
    NoProduct,
    /// Not enough.
    OutOfStock { left: i64 },
}

/// Gives a new shop something to sell.
pub(super) async fn seed(db: &Database, stock: i64) -> Result<(), DbError> {
    db.write(move |tx| {
        for (id, (name, description, price, rating)) in (1_i64..).zip(SEED) {
            let stock = if id == RARE.0 { RARE.1 } else { stock };
            let insert = "INSERT INTO products (id, name, description, price_cents, stock, rating_tenths)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
            tx.execute(insert, params![id, name, description, price, stock, rating])?;
        }
        Ok(())
    })
    .await
}

const COLUMNS: &str = "SELECT id, name, description, price_cents, stock, rating_tenths FROM products";

pub(super) async fn products(db: &Database) -> Result<Vec<Product>, DbError> {
    db.read(|db| db.prepare(&format!("{COLUMNS} ORDER BY id"))?.query_map([], read_product)?.collect()).await
}

pub(super) async fn product(db: &Database, id: i64) -> Result<Option<Product>, DbError> {
    db.read(move |db| db.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read_product).optional()).await
}

fn read_product(row: &Row<'_>) -> Result<Product, rusqlite::Error> {
    Ok(Product {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        price_cents: Cents(row.get(3)?),
        stock: row.get(4)?,
        rating_tenths: row.get(5)?,
    })
}

/// Takes stock, once per key.
pub(super) async fn reserve(db: &Database, wanted: Reserve) -> Result<Reserved, DbError> {
    db.write(move |tx| {
        if let Some((before, released)) = reservation(tx, &wanted.key)? {
            let same = before.product_id == wanted.product_id && before.quantity == wanted.quantity && !released;
            return Ok(if same { Reserved::Before(before) } else { Reserved::KeyReused });
        }
        let query = "SELECT price_cents, stock FROM products WHERE id = ?1";
        let found = tx.query_row(query, [wanted.product_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((price, left)) = found else { return Ok(Reserved::NoProduct) };
        if left < wanted.quantity {
            return Ok(Reserved::OutOfStock { left });
        }
        let Reserve { key, product_id, quantity } = wanted;
        tx.execute("UPDATE products SET stock = stock - ?2 WHERE id = ?1", params![product_id, quantity])?;
        let insert = "INSERT INTO reservations (key, product_id, quantity, unit_price_cents) VALUES (?1, ?2, ?3, ?4)";
        tx.execute(insert, params![key, product_id, quantity, price])?;
        Ok(Reserved::New(Reservation { key, product_id, quantity, unit_price_cents: Cents(price) }))
    })
    .await
}

/// Gives stock back, once per key, and tells how much. A key that is not known is marked, so that its reservation, which
/// may still be on its way, takes nothing.
pub(super) async fn release(db: &Database, key: String) -> Result<i64, DbError> {
    db.write(move |tx| {
        let Some((held, released)) = reservation(tx, &key)? else {
            let insert = "INSERT INTO reservations (key, quantity, unit_price_cents, released) VALUES (?1, 0, 0, 1)";
            tx.execute(insert, [key])?;
            return Ok(0);
        };
        if released {
            return Ok(0);
        }
        tx.execute("UPDATE reservations SET released = 1 WHERE key = ?1", [key])?;
        tx.execute("UPDATE products SET stock = stock + ?2 WHERE id = ?1", params![held.product_id, held.quantity])?;
        Ok(held.quantity)
    })
    .await
}

fn reservation(tx: &Transaction<'_>, key: &str) -> Result<Option<(Reservation, bool)>, rusqlite::Error> {
    let query = "SELECT key, coalesce(product_id, 0), quantity, unit_price_cents, released
        FROM reservations WHERE key = ?1";
    tx.query_row(query, [key], |row| {
        let reservation = Reservation {
            key: row.get(0)?,
            product_id: row.get(1)?,
            quantity: row.get(2)?,
            unit_price_cents: Cents(row.get(3)?),
        };
        Ok((reservation, row.get(4)?))
    })
    .optional()
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, Reserve, Reserved, product, release, reserve, seed};
    use crate::db::Database;

    async fn shop(dir: &tempfile::TempDir) -> Database {
        let db = Database::open(&dir.path().join("product.sqlite"), MIGRATIONS).await.unwrap();
        seed(&db, 10).await.unwrap();
        db
    }

    async fn stock(db: &Database, id: i64) -> i64 {
        product(db, id).await.unwrap().unwrap().stock
    }

    fn wish(key: &str, product_id: i64, quantity: i64) -> Reserve {
        Reserve { key: key.to_owned(), product_id, quantity }
    }

    #[tokio::test]
    async fn a_key_takes_stock_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = shop(&dir).await;
        let Reserved::New(first) = reserve(&db, wish("k", 1, 4)).await.unwrap() else { panic!("new") };
        assert_eq!(reserve(&db, wish("k", 1, 4)).await.unwrap(), Reserved::Before(first));
        assert_eq!(reserve(&db, wish("k", 1, 5)).await.unwrap(), Reserved::KeyReused);
        assert_eq!(stock(&db, 1).await, 6);
    }

    #[tokio::test]
    async fn nothing_is_sold_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let db = shop(&dir).await;
        let wishes = (0..8).map(|n| reserve(&db, wish(&format!("k{n}"), 8, 1)));
        let all = futures::future::join_all(wishes).await;
        let sold = all.into_iter().filter(|r| matches!(r, Ok(Reserved::New(_)))).count();
        assert_eq!((sold, stock(&db, 8).await), (3, 0));
        assert_eq!(reserve(&db, wish("last", 8, 1)).await.unwrap(), Reserved::OutOfStock { left: 0 });
        assert_eq!(reserve(&db, wish("none", 99, 1)).await.unwrap(), Reserved::NoProduct);
    }

    #[tokio::test]
    async fn a_release_gives_back_once_and_stops_a_late_reservation() {
        let dir = tempfile::tempdir().unwrap();
        let db = shop(&dir).await;
        reserve(&db, wish("k", 1, 4)).await.unwrap();
        assert_eq!(release(&db, "k".to_owned()).await.unwrap(), 4);
        assert_eq!(release(&db, "k".to_owned()).await.unwrap(), 0);
        assert_eq!(reserve(&db, wish("k", 1, 4)).await.unwrap(), Reserved::KeyReused);
        assert_eq!(release(&db, "late".to_owned()).await.unwrap(), 0);
        assert_eq!(reserve(&db, wish("late", 1, 4)).await.unwrap(), Reserved::KeyReused);
        assert_eq!(stock(&db, 1).await, 10);
    }
}
