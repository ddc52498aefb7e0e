//! Opaque TCP: one stream as fast as it goes, new connections one after the other, and connections that only stay.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use weft_cli::world::{Host, Stopwatch, pause};

use super::{PATIENCE, Window};
use crate::contestant::Stage;
use crate::server::{BYTES_PORT, Counter, ECHO, HTTP1_PORT, STAY, TAKE};

/// Who opens connections at once.
const OPENERS: usize = 4;
/// What one write of the bulk stream takes.
const PIECE_BYTES: usize = 256 * 1024;

/// One stream, as fast as it goes.
pub(crate) fn bulk(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Window> {
    let mut stream = open(stage.client(), stage.socket(BYTES_PORT))?;
    stream.write_all(&[TAKE])?;
    let write = move |stop: &AtomicBool| {
        let piece = vec![b'x'; PIECE_BYTES];
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&piece)?;
        }
        Ok(())
    };
    let writing = Clients::start([write])?;
    let window = Window::measure(stage, Counter::Bytes, length);
    writing.stop()?;
    window
}

/// New connections, each for one byte there and back.
pub(crate) fn connections(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Window> {
    let opening = openers(stage)?;
    let window = Window::measure(stage, Counter::Connections, length);
    opening.stop()?;
    window
}

/// As many new connections, one after the other by each of a few, until there were so many.
pub(crate) fn churn(stage: &Stage<'_>, count: u64) -> anyhow::Result<()> {
    let opened = || stage.servers().count(Counter::Connections);
    let (opening, from, mut last, mut stalled) = (openers(stage)?, opened()?, 0, Stopwatch::start());
    while last < count {
        pause(Duration::from_millis(100))?;
        let now = opened()?.saturating_sub(from);
        if now > last {
            (last, stalled) = (now, Stopwatch::start());
        }
        ensure!(stalled.elapsed() < PATIENCE, "no connection after {last} for {PATIENCE:?}");
    }
    opening.stop()
}

fn openers(stage: &Stage<'_>) -> anyhow::Result<Clients> {
    let (host, to) = (stage.client().clone(), stage.socket(BYTES_PORT));
    let open = move |stop: &AtomicBool| {
        // Entered once: a socket belongs to the host in which its thread is.
        host.run(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                exchange(&mut stream, ECHO)?;
            }
            Ok(())
        })?
    };
    Clients::start(std::iter::repeat_n(open, OPENERS))
}

/// Connections that were used once and stay.
pub(crate) fn idle(stage: &Stage<'_>, port: u16, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let to = stage.socket(port);
    let open = |number| {
        let mut stream = open(stage.client(), to)?;
        let used = if port == HTTP1_PORT { request(&mut stream, to) } else { exchange(&mut stream, STAY) };
        used.with_context(|| format!("connection {number}"))?;
        Ok(stream)
    };
    (0..count).map(open).collect()
}

fn open(host: &Host, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = host.connect(to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, byte: u8) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[byte])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [byte], "another byte came back");
    Ok(())
}

fn request(stream: &mut TcpStream, to: SocketAddr) -> anyhow::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    // A kilobyte of nothing else.
    while !answer.ends_with(&[b'x'; 1024]) {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    Ok(())
}

/// Threads that work until they are told to stop.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Clients {
    fn start<W>(workers: impl IntoIterator<Item = W>) -> anyhow::Result<Self>
    where
        W: FnOnce(&AtomicBool) -> anyhow::Result<()> + Send + 'static,
    {
        let mut clients = Self { stop: Arc::default(), threads: Vec::new() };
        for work in workers {
            let stop = Arc::clone(&clients.stop);
            let thread = std::thread::Builder::new().name("client".to_owned()).spawn(move || work(&stop));
            clients.threads.push(thread.context("starting a thread")?);
        }
        Ok(clients)
    }

    /// Ends them; an error if one could not do its work.
    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(|thread| thread.join().map_err(|_panic| anyhow!("a client panicked"))?)
    }
}
