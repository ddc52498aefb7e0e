//! Requests at a fixed rate, each timed from when it should have been sent: a pair that stalls makes all late that were due
//! meanwhile, instead of hiding them (coordinated omission).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use hdrhistogram::Histogram;
use weft_cli::world::Stopwatch;

use super::PATIENCE;
use crate::contestant::Stage;
use crate::kernel;
use crate::server::HTTP1_PORT;

/// Requests in a second, all connections together: far below what any pair can do.
const RATE: u32 = 1000;
const CONNECTIONS: u32 = 16;
/// Requests on each connection before it counts.
const RUN_IN: u32 = 20;

/// Latencies in microseconds.
pub(crate) fn measure(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Histogram<u64>> {
    let to = stage.socket(HTTP1_PORT);
    let request = format!("GET / HTTP/1.1\r\nhost: {to}\r\n\r\n");
    let open = |_| {
        let stream = stage.client().connect(to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, anyhow::Error>(stream)
    };
    let streams = (0..CONNECTIONS).map(open).collect::<Result<Vec<_>, _>>()?;
    let (every, watch) = (Duration::from_secs(1) / RATE, Stopwatch::start());
    let mut threads = Vec::new();
    for (n, stream) in (0..).zip(streams) {
        let (request, first) = (request.clone(), every * n);
        let ask = move || ask(stream, request.as_bytes(), (first, every * CONNECTIONS), watch, length);
        threads.push(std::thread::Builder::new().name("latency".to_owned()).spawn(ask).context("starting a thread")?);
    }
    let mut all = Histogram::new(3)?;
    for thread in threads {
        all.add(thread.join().map_err(|_panic| anyhow!("a client panicked"))??)?;
    }
    Ok(all)
}

fn ask(
    mut stream: TcpStream,
    request: &[u8],
    (first, every): (Duration, Duration),
    watch: Stopwatch,
    length: Duration,
) -> anyhow::Result<Histogram<u64>> {
    kernel::precise_sleep()?;
    let mut latencies = Histogram::new(3)?;
    for n in 0.. {
        let due = first + every * n;
        if due > every * RUN_IN + length {
            break;
        }
        kernel::sleep(due.saturating_sub(watch.elapsed()));
        stream.write_all(request)?;
        answer(&mut stream)?;
        if n >= RUN_IN {
            latencies.record(u64::try_from(watch.elapsed().saturating_sub(due).as_micros())?.max(1))?;
        }
    }
    Ok(latencies)
}

/// Reads one answer of nginx, which announces its length.
fn answer(stream: &mut TcpStream) -> anyhow::Result<()> {
    let (mut answer, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(answer.get_mut(filled..).unwrap_or_default())?;
        ensure!(read > 0, "closed in the middle of an answer");
        filled += read;
        let text = answer.get(..filled).unwrap_or_default();
        let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(text.get(..end).unwrap_or_default()).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if filled >= end + 4 + length.context("an answer without a length")? {
            return Ok(());
        }
    }
}
