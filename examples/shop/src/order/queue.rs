//! Tells paid orders to a Redis list, in a few lines of its protocol (RESP). At least once and in order; an order never
//! waits for it: what is to be told lies in the database until the queue has taken it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use weft_runtime::drain::Drain;

use super::store;
use crate::db::{Database, DbError};

const LIST: &str = "orders";
const TIMEOUT: Duration = Duration::from_secs(2);
/// Looks even when nobody says that there is news: other instances may share the database.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before the next attempt; it doubles each time in a row.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Replies to RPUSH are a number.
const REPLY_BYTES_MAX: u64 = 512;

/// Why the queue was not told.
#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error("the database failed")]
    Database(#[from] DbError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the queue answered {0:?}")]
    Refused(String),
    #[error("the queue did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Tells the queue until the drain begins.
pub(super) async fn run(db: Database, addr: String, news: Arc<Notify>, drain: Drain) {
    let (mut line, mut pause, mut is_down) = (None, PAUSE_MIN, false);
    loop {
        // An event that the end cuts stays in the database, and may be told twice.
        let told = tokio::select! {
            () = drain.draining() => return,
            told = tell(&db, &addr, &mut line) => told,
        };
        let wait = match told {
            Ok(()) => {
                if std::mem::take(&mut is_down) {
                    tracing::info!(queue = addr, "queue is back");
                }
                pause = PAUSE_MIN;
                LOOK_INTERVAL
            }
            Err(error) => {
                line = None;
                if !std::mem::replace(&mut is_down, true) {
                    tracing::warn!(queue = addr, error = crate::client::chain(&error), "queue cannot be told");
                }
                pause = (pause * 2).min(PAUSE_MAX);
                pause
            }
        };
        // News that arrive while the queue is down do not shorten the pause.
        tokio::select! {
            () = drain.draining() => return,
            () = tokio::time::sleep(wait) => {}
            () = news.notified(), if !is_down => {}
        }
    }
}

/// Tells everything that is to be told.
async fn tell(db: &Database, addr: &str, line: &mut Option<BufStream<TcpStream>>) -> Result<(), QueueError> {
    loop {
        let events = store::events(db).await?;
        let Some((last, _)) = events.last() else { return Ok(()) };
        let redis = match line {
            Some(redis) => redis,
            None => line.insert(BufStream::new(tokio::time::timeout(TIMEOUT, TcpStream::connect(addr)).await??)),
        };
        tokio::time::timeout(TIMEOUT, push(redis, &events)).await??;
        store::told(db, *last).await?;
    }
}

/// Appends all events with one command.
async fn push(redis: &mut BufStream<TcpStream>, events: &[(i64, String)]) -> Result<(), QueueError> {
    redis.write_all(&command(events.iter().map(|(_, payload)| payload.as_str()))).await?;
    redis.flush().await?;
    let reply = reply(redis).await?;
    if reply.starts_with(':') { Ok(()) } else { Err(QueueError::Refused(reply)) }
}

/// `RPUSH orders <payload>…`: an array of strings, each with its length in bytes before it.
fn command<'a>(payloads: impl ExactSizeIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", payloads.len() + 2).into_bytes();
    for word in ["RPUSH", LIST].into_iter().chain(payloads) {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// One line, without its end.
async fn reply(redis: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    redis.take(REPLY_BYTES_MAX).read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{command, reply};

    #[test]
    fn lengths_are_bytes() {
        let bytes = command(["a", "ü€"].into_iter());
        let want = "*4\r\n$5\r\nRPUSH\r\n$6\r\norders\r\n$1\r\na\r\n$5\r\nü€\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), want);
    }

    #[tokio::test]
    async fn a_reply_is_one_whole_line() {
        assert_eq!(reply(&mut &b":12\r\n"[..]).await.unwrap(), ":12");
        assert!(reply(&mut &b":12"[..]).await.is_err());
        assert!(reply(&mut &b""[..]).await.is_err());
        assert!(reply(&mut vec![b'x'; 1000].as_slice()).await.is_err());
    }
}
