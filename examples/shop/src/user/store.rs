//! Accounts and sessions on disk. Of a session only the hash of its token is kept.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::User;
use super::password::{self, Account};
use crate::db::{Database, DbError};

/// How long a session lasts.
pub(super) const SESSION_SECONDS: i64 = 12 * 3600;

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE users (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        email TEXT NOT NULL UNIQUE COLLATE NOCASE,
        salt BLOB NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE TABLE sessions (
        token_hash BLOB PRIMARY KEY,
        user_id INTEGER NOT NULL REFERENCES users (id),
        ends INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_by_end ON sessions (ends);
"];

/// The customers of a new shop. Their password is no secret: it stands in the README.
const SEED: [(&str, &str); 3] =
    [("Ada", "ada@shop.example"), ("Grace", "grace@shop.example"), ("Joan", "joan@shop.example")];
const SEED_PASSWORD: &str = "warp-and-weft";

/// Gives a new shop its customers.
pub(super) async fn seed(db: &Database) -> Result<(), DbError> {
    let count = |db: &Connection| db.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0));
    if db.read(count).await? > 0 {
        return Ok(());
    }
    let hashed = tokio::task::spawn_blocking(|| SEED.map(|(name, email)| (name, email, password::hash(SEED_PASSWORD))));
    let accounts = hashed.await.map_err(DbError::Lost)?;
    db.write(move |tx| {
        for (id, (name, email, secret)) in (1_i64..).zip(accounts) {
            let Some((salt, hash)) = secret else { continue };
            // Another instance with the same file may have been quicker.
            let insert = "INSERT INTO users (id, name, email, salt, hash) VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT DO NOTHING";
            tx.execute(insert, params![id, name, email, salt, hash])?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn user(db: &Database, id: i64) -> Result<Option<User>, DbError> {
    db.read(move |db| db.query_row("SELECT id, name, email FROM users WHERE id = ?1", [id], read_user).optional()).await
}

pub(super) async fn account(db: &Database, email: String) -> Result<Option<Account>, DbError> {
    db.read(move |db| {
        let query = "SELECT id, name, email, salt, hash FROM users WHERE email = ?1";
        let account = |row: &Row<'_>| Ok(Account { user: read_user(row)?, salt: row.get(3)?, hash: row.get(4)? });
        db.query_row(query, [email], account).optional()
    })
    .await
}

/// Begins a session, and forgets those that are over.
pub(super) async fn begin_session(db: &Database, user: i64, token_hash: Vec<u8>) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute("DELETE FROM sessions WHERE ends <= unixepoch()", [])?;
        let insert = "INSERT INTO sessions (token_hash, user_id, ends) VALUES (?1, ?2, unixepoch() + ?3)";
        tx.execute(insert, params![token_hash, user, SESSION_SECONDS])?;
        Ok(())
    })
    .await
}

pub(super) async fn session_user(db: &Database, token_hash: Vec<u8>) -> Result<Option<User>, DbError> {
    db.read(move |db| {
        let query = "SELECT users.id, name, email FROM sessions JOIN users ON users.id = user_id
            WHERE token_hash = ?1 AND ends > unixepoch()";
        db.query_row(query, [token_hash], read_user).optional()
    })
    .await
}

pub(super) async fn end_session(db: &Database, token_hash: Vec<u8>) -> Result<(), DbError> {
    db.write(move |tx| tx.execute("DELETE FROM sessions WHERE token_hash = ?1", [token_hash])).await.map(|_count| ())
}

fn read_user(row: &Row<'_>) -> Result<User, rusqlite::Error> {
    Ok(User { id: row.get(0)?, name: row.get(1)?, email: row.get(2)? })
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, SEED, SEED_PASSWORD, account, begin_session, end_session, seed, session_user};
    use crate::db::Database;
    use crate::ids::sha256;
    use crate::user::password;

    async fn users(dir: &tempfile::TempDir) -> Database {
        let db = Database::open(&dir.path().join("user.sqlite"), MIGRATIONS).await.unwrap();
        seed(&db).await.unwrap();
        db
    }

    #[tokio::test]
    async fn a_password_is_checked_and_never_stored() {
        let dir = tempfile::tempdir().unwrap();
        let db = users(&dir).await;
        let ada = || account(&db, SEED[0].1.to_uppercase());
        assert_eq!(password::check(ada().await.unwrap(), SEED_PASSWORD).unwrap().name, "Ada");
        assert!(password::check(ada().await.unwrap(), "wrong").is_none());
        assert!(password::check(None, SEED_PASSWORD).is_none());
        let stored = ada().await.unwrap().unwrap();
        assert!(!stored.hash.windows(4).any(|part| part == b"warp"));
    }

    #[tokio::test]
    async fn a_session_is_found_by_its_hash_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let db = users(&dir).await;
        begin_session(&db, 2, sha256("token")).await.unwrap();
        assert_eq!(session_user(&db, sha256("token")).await.unwrap().unwrap().name, "Grace");
        assert!(session_user(&db, sha256("other")).await.unwrap().is_none());
        db.write(|tx| tx.execute("UPDATE sessions SET ends = unixepoch()", [])).await.unwrap();
        assert!(session_user(&db, sha256("token")).await.unwrap().is_none());
        end_session(&db, sha256("token")).await.unwrap();
    }
}
