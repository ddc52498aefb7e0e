//! The smallest HTTP client that can ask an admin page or place an order, from inside a host: one request, one connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

use crate::world::Host;

/// Longest that an answer may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Largest answer that is read: a scrape of every series that a proxy may have.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What a page said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its headers, as they were sent.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The body, if the status is 2xx.
    ///
    /// # Errors
    /// Any other status; the error shows it and the body.
    pub fn success(self) -> anyhow::Result<String> {
        anyhow::ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.body.trim_end());
        Ok(self.body)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Its method.
    pub method: &'a str,
    /// Where to.
    pub addr: SocketAddr,
    /// Its path.
    pub path: &'a str,
    /// Headers beside host, content-length and connection.
    pub headers: &'a [(&'a str, &'a str)],
    /// Its body.
    pub body: &'a str,
}

/// Asks a page from inside a host.
///
/// # Errors
/// Nobody answers, or not with HTTP.
pub fn get(host: &Host, addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    ask(host, &Ask { method: "GET", addr, path, headers: &[], body: "" })
}

/// Has an admin page change something, from inside a host.
///
/// # Errors
/// As [`get`].
pub fn change(host: &Host, addr: SocketAddr, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    // The header without which an admin page changes nothing.
    ask(host, &Ask { method, addr, path, headers: &[("weft-admin", "1")], body })
}

/// Asks from inside a host.
///
/// # Errors
/// As [`get`].
pub fn ask(host: &Host, ask: &Ask<'_>) -> anyhow::Result<Answer> {
    let Ask { method, addr, path, .. } = ask;
    host.run(|| exchange(ask))?.with_context(|| format!("{method} http://{addr}{path} in {}", host.name()))
}

/// Asks from where this thread is.
pub(crate) fn exchange(ask: &Ask<'_>) -> anyhow::Result<Answer> {
    let Ask { method, addr, path, headers, body } = ask;
    let mut stream = TcpStream::connect_timeout(addr, WITHIN).context("connecting")?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
    for (name, value) in *headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() {
        head.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).context("asking")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).context("reading the answer")?;
    parse(&String::from_utf8_lossy(&bytes)).context("the answer is not HTTP, or was cut")
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, body: body.to_owned() };
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        answer.body = unchunked(body)?;
    } else if let Some(length) = answer.header("content-length") {
        // One that was cut is not an answer.
        (length.parse::<usize>().ok()? == body.len()).then_some(())?;
    }
    Some(answer)
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let (chunk, after) = after.split_at_checked(size)?;
        body.push_str(chunk);
        rest = after.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\nWeft-Error: draining\r\n\r\nlater\n").unwrap();
        assert_eq!(
            (answer.status, answer.header("weft-error"), answer.body.as_str()),
            (503, Some("draining"), "later\n")
        );
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parse("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(parse("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"), None);
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = |chunks: &str| parse(&format!("{head}{chunks}")).map(|answer| answer.body);
        assert_eq!(body("3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\n\r\n").as_deref(), Some("abc0123456789"));
        assert_eq!(body("3\r\nab"), None);
    }
}
