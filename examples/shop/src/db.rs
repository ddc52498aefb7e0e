//! A SQLite file behind async calls: one connection that writes, a few that read, all used on blocking threads only.
//!
//! Several processes of one machine may open the same file; writes take turns through SQLite's own lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

/// Readers do not wait for each other beyond this many.
const READERS: usize = 4;
/// How long a request waits for its turn here; beyond it the caller is better served by a refusal.
const TURN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long SQLite waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the file is tried while another process is making it.
const OPEN_ATTEMPTS: u32 = 20;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The blocking thread panicked or the runtime ends.
    #[error("a database call did not come back")]
    Lost(#[source] tokio::task::JoinError),
    /// The file was written by a newer program.
    #[error("{} has schema version {found}, this program knows {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: usize,
        /// What is known here.
        known: usize,
    },
    /// The file cannot be opened or made.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// Too many calls wait.
    #[error("too many calls wait for the database")]
    Overloaded,
    /// A statement failed.
    #[error("a statement failed")]
    Statement(#[from] rusqlite::Error),
}

/// A database. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Database {
    writer: Arc<Pool>,
    readers: Arc<Pool>,
}

struct Pool {
    path: PathBuf,
    permits: Arc<Semaphore>,
    /// Held to take or give back, never while a statement runs.
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Opens or makes the file and brings its schema up to date.
    ///
    /// **Shape:** `migrations[n]` leads from version n to n + 1; only ever append.
    pub(crate) async fn open(path: &Path, migrations: &'static [&'static str]) -> Result<Self, DbError> {
        for attempt in 1.. {
            let file = path.to_owned();
            match tokio::task::spawn_blocking(move || prepare(&file, migrations)).await.map_err(DbError::Lost)? {
                Ok(()) => break,
                // Another instance is making the same file: its switch to WAL does not honour the busy timeout.
                Err(error) if attempt < OPEN_ATTEMPTS && is_busy(&error) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { writer: Pool::new(path, 1), readers: Pool::new(path, READERS) })
    }

    /// Runs what changes nothing.
    ///
    /// **Cancel:** the statement goes on; its result is lost.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        self.readers.run(move |connection| query(connection).map_err(DbError::Statement)).await
    }

    /// Runs a change as one transaction: on disk when this returns, or undone.
    ///
    /// **Cancel:** the transaction goes on to its end; its result is lost.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let value = change(&transaction)?;
                transaction.commit()?;
                Ok(value)
            })
            .await
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> Result<(), DbError> {
        self.read(|db| db.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))).await.map(|_one| ())
    }
}

impl Pool {
    fn new(path: &Path, size: usize) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::new(Vec::with_capacity(size)),
        })
    }

    async fn run<T, F>(self: &Arc<Self>, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DbError> + Send + 'static,
    {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(DbError::Overloaded) };
        let pool = Arc::clone(self);
        let blocking = move || {
            // A connection that a panic took along is simply opened again.
            let idle = pool.idle.lock().pop();
            let mut connection = idle.map_or_else(|| connect(&pool.path), Ok)?;
            let result = work(&mut connection);
            pool.idle.lock().push(connection);
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(blocking).await.map_err(DbError::Lost)?
    }
}

fn connect(path: &Path) -> Result<Connection, DbError> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // What was answered with "paid" must survive a power cut, so no weaker setting.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|source| DbError::Open { path: path.to_owned(), source })
}

fn prepare(path: &Path, migrations: &[&str]) -> Result<(), DbError> {
    let mut connection = connect(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    if found > migrations.len() {
        return Err(DbError::Newer { path: path.to_owned(), found, known: migrations.len() });
    }
    for (version, migration) in (1_i64..).zip(migrations).skip(found) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    Ok(())
}

fn is_busy(error: &DbError) -> bool {
    let (DbError::Statement(source) | DbError::Open { source, .. }) = error else { return false };
    matches!(source.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use super::{Database, DbError};

    const FIRST: &[&str] = &["CREATE TABLE t (n INTEGER NOT NULL) STRICT"];
    const SECOND: &[&str] = &[FIRST[0], "INSERT INTO t VALUES (7)"];

    async fn rows(db: &Database) -> i64 {
        db.read(|db| db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))).await.unwrap()
    }

    #[tokio::test]
    async fn migrations_run_once_and_an_older_program_keeps_its_hands_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite");
        Database::open(&path, FIRST).await.unwrap();
        Database::open(&path, SECOND).await.unwrap();
        assert_eq!(rows(&Database::open(&path, SECOND).await.unwrap()).await, 1);
        let refused = Database::open(&path, FIRST).await.err().unwrap();
        assert!(matches!(refused, DbError::Newer { found: 2, known: 1, .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_change_that_fails_half_way_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("t.sqlite"), FIRST).await.unwrap();
        let failed = db
            .write(|tx| {
                tx.execute("INSERT INTO t VALUES (1)", [])?;
                tx.execute("INSERT INTO t VALUES (NULL)", [])
            })
            .await;
        assert!(matches!(failed, Err(DbError::Statement(_))));
        assert_eq!(rows(&db).await, 0);
    }

    #[tokio::test]
    async fn instances_that_share_a_file_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite");
        let (one, other) = tokio::join!(Database::open(&path, FIRST), Database::open(&path, FIRST));
        let (one, other) = (one.unwrap(), other.unwrap());
        let insert = |db: Database| async move {
            for _ in 0..50 {
                db.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).await.unwrap();
            }
        };
        tokio::join!(insert(one.clone()), insert(other));
        assert_eq!(rows(&one).await, 100);
    }

    #[tokio::test]
    async fn a_panic_costs_a_connection_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("t.sqlite"), FIRST).await.unwrap();
        let fell = db.write::<(), _>(|_| panic!("on purpose")).await;
        assert!(matches!(fell, Err(DbError::Lost(_))));
        db.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).await.unwrap();
        assert_eq!(rows(&db).await, 1);
    }
}
