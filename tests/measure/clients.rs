//! Clients that hold connections: idle after one answer, or with a body that nobody takes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use weft_cli::world::{Host, Stopwatch, pause};

/// Longest that one answer may take.
const WITHIN: Duration = Duration::from_secs(10);
/// Nothing goes on once nothing went for so long.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// Longest that bodies may flow into buffers.
const FLOW_MAX: Duration = Duration::from_secs(45);
/// The length that each stalled request announces.
const BODY_BYTES: usize = 100_000_000;

/// Opens connections and has one request answered on each.
pub(crate) fn idle(host: &Host, to: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count).map(|number| answered(host, to).with_context(|| format!("connection {number}"))).collect()
}

fn answered(host: &Host, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = host.connect(to, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

/// Requests whose bodies were written until nobody took more.
#[derive(Debug)]
pub(crate) struct Stalled {
    streams: Vec<(TcpStream, usize)>,
}

impl Stalled {
    /// Opens them and pushes.
    pub(crate) fn push(host: &Host, to: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let mut stalled = Self { streams: Vec::with_capacity(count) };
        for number in 0..count {
            let mut stream = host.connect(to, WITHIN).with_context(|| format!("connection {number}"))?;
            let head = format!("POST /stall HTTP/1.1\r\nhost: {to}\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.set_nonblocking(true)?;
            stalled.streams.push((stream, 0));
        }
        let (all, mut quiet) = (Stopwatch::start(), Stopwatch::start());
        while quiet.elapsed() < STALLED_AFTER {
            if stalled.turn()? {
                quiet = Stopwatch::start();
            } else {
                pause(Duration::from_millis(20))?;
            }
            ensure!(all.elapsed() < FLOW_MAX, "bodies still flow after {FLOW_MAX:?}: the server is not what stalls");
        }
        Ok(stalled)
    }

    /// One piece for each that takes it; whether any did.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let piece = vec![b'x'; 65_536];
        let mut any = false;
        for (stream, sent) in &mut self.streams {
            let rest = piece.get(..piece.len().min(BODY_BYTES - *sent)).unwrap_or_default();
            match stream.write(rest) {
                Ok(written) => {
                    *sent += written;
                    any |= written > 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a stalled request was cut"),
            }
        }
        Ok(any)
    }

    /// Fails unless every request still waits: one that was refused costs nothing and would flatter the figure.
    pub(crate) fn all_wait(&mut self) -> anyhow::Result<()> {
        for (stream, sent) in &mut self.streams {
            let mut piece = [0; 512];
            match stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(read) => {
                    bail!("answered: {:?}", String::from_utf8_lossy(piece.get(..read).unwrap_or_default()));
                }
                Err(error) => return Err(error).context("a stalled request was cut"),
            }
            ensure!(*sent < BODY_BYTES, "a whole body was taken");
        }
        Ok(())
    }
}
