//! Whether the proxy of this pod is ready, as its own admin page says: for a hook of its container, where there is no shell and no curl.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crate::error::InitError;

/// How long to pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// When it is said first what is waited for, and how often then.
const SAY_FIRST: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// The page is a line or two.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks until it is ready, however long that takes; `say` is told what it still waits for, first after a moment, then every while.
#[expect(clippy::disallowed_methods, reason = "this program waits for another in real time")]
pub(crate) fn ever(port: NonZeroU16, say: impl Fn(&str)) {
    let mut said_at = Instant::now();
    let mut pause = SAY_FIRST;
    while let Err(said) = look(port) {
        if said_at.elapsed() >= pause {
            say(&said);
            (said_at, pause) = (Instant::now(), SAY_EVERY);
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Asks until it is ready, for so long.
#[expect(clippy::disallowed_methods, reason = "this program waits for another in real time")]
pub(crate) fn within(port: NonZeroU16, wait: Duration) -> Result<(), InitError> {
    let begun = Instant::now();
    while let Err(said) = look(port) {
        if begun.elapsed() >= wait {
            return Err(InitError::NotReady { seconds: wait.as_secs(), said });
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Whether it is ready now, or what it waits for.
fn look(port: NonZeroU16) -> Result<(), String> {
    match ask(port) {
        Ok(answer) if is_good(&answer) => Ok(()),
        Ok(answer) => Err(body(&answer).to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn ask(port: NonZeroU16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port.get()).into(), ANSWER_WAIT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_good(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

/// What is said for people.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body).trim()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::num::NonZeroU16;
    use std::time::Duration;

    use super::within;

    /// Somebody who gives these answers, one to each question.
    fn proxy(answers: &'static [&'static str]) -> NonZeroU16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = Vec::new();
                while !question.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    question.extend(byte);
                }
                assert!(question.starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        NonZeroU16::new(port).unwrap()
    }

    #[test]
    fn it_is_asked_until_it_is_ready() {
        let port = proxy(&["HTTP/1.1 503 Service Unavailable\r\n\r\ncertificate\n", "HTTP/1.1 200 OK\r\n\r\nready\n"]);
        within(port, Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn what_it_waits_for_is_told() {
        let port = proxy(&["HTTP/1.1 503 Service Unavailable\r\n\r\ncertificate\n"]);
        let error = within(port, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}
