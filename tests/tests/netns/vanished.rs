//! Hosts whose packets vanish, so that nobody is told, and readers that merely pause: the first are found out, the second are
//! left alone (semantics 20).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{Mesh, service};
use weft_cli::world::{Stopwatch, pause};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{NAMESPACE, PORTS, SERVER, hash, mesh, pair, server};
use weft_tests::steady::{Asked, Pace, Steady};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("vanished::http1_requests_succeed_again_soon", http1_succeeds_again).within(Duration::from_secs(120)),
    Case::new("vanished::http2_requests_succeed_again_soon", http2_succeeds_again).within(Duration::from_secs(120)),
    Case::new("vanished::an_opaque_connection_to_a_vanished_host_ends", opaque_connections_end)
        .within(Duration::from_secs(120)),
    Case::new("vanished::a_reader_that_pauses_is_not_cut", a_reader_that_pauses_is_not_cut)
        .within(Duration::from_secs(180)),
];

const SOON: Duration = Duration::from_secs(10);
/// Requests that are asked so long after a host has vanished, or later, all succeed.
const AGAIN_WITHIN: Duration = Duration::from_secs(12);
/// Requests in a second.
const RATE: u32 = 200;
/// Longer than the kernel takes to find that a peer is gone: what happens at that moment must harm nobody either.
const WATCHED: Duration = Duration::from_secs(45);
/// A peer that is gone is found within this (semantics 20).
const FOUND_WITHIN: Duration = Duration::from_secs(35);
/// How long readers pause: twice what finds a peer that is gone.
const PAUSE: Duration = Duration::from_secs(60);
/// More than all buffers on the way hold: three connections, each of at most 32 MiB to read and 4 MiB to write (`tcp_rmem` and
/// `tcp_wmem`).
const TRANSFER: usize = 128 * 1024 * 1024;

fn http1_succeeds_again(scene: &Scene) -> anyhow::Result<()> {
    succeeds_again(scene, Version::Http1, 80)
}

fn http2_succeeds_again(scene: &Scene) -> anyhow::Result<()> {
    succeeds_again(scene, Version::Http2, 81)
}

fn succeeds_again(scene: &Scene, version: Version, port: u16) -> anyhow::Result<()> {
    let mut mesh = mesh(scene)?;
    mesh.write("server.yaml", &service(NAMESPACE, "server", SERVER, PORTS))?;
    mesh.join(Member::new(NAMESPACE, "client", "client"))?;
    let mut counts = Vec::new();
    for name in ["stays", "vanishes"] {
        let host = mesh.join(Member::new(NAMESPACE, name, "server"))?.host().clone();
        counts.push(echo::serve(&host, 8000 + port, version, name)?);
    }
    mesh.ready()?;
    let pace = Pace { version, to: server(scene, port), rate: RATE, length_max: Duration::from_secs(90) };
    let load = Steady::start(mesh.workload("client")?.host(), pace)?;
    pause(Duration::from_secs(3))?;
    ensure!(counts.iter().all(|count| count.requests() > 0), "only one server is asked: {counts:?}");
    let vanished = load.elapsed();
    mesh.workload("vanishes")?.host().unplug(true)?;
    pause(WATCHED)?;
    let asked = load.finish()?;
    let (before, after): (Vec<_>, Vec<_>) = asked.into_iter().partition(|one| one.begun < vanished);
    let (meanwhile, again): (Vec<_>, Vec<_>) = after.into_iter().partition(|one| one.begun < vanished + AGAIN_WITHIN);
    let told = format!(
        "before: {}; within {AGAIN_WITHIN:?}: {}; then: {}",
        tell(&before, vanished),
        tell(&meanwhile, vanished),
        tell(&again, vanished)
    );
    // Half of what was meant to be asked: the machine may be busy.
    let expected = (WATCHED - AGAIN_WITHIN).as_secs() * u64::from(RATE) / 2;
    ensure!(u64::try_from(again.len())? > expected, "asked too little: {told}");
    ensure!(again.iter().all(|one| one.answered.is_ok()), "{told}");
    // Those that were asked before and met the vanished host; they may take until it is found, and longer than they are given.
    let early =
        |asked: &[Asked]| asked.iter().filter(|one| one.begun + SOON < vanished && one.answered.is_err()).count();
    ensure!(early(&before) == 0, "{told}");
    Ok(())
}

/// How many requests there were and how those failed that did, with the first and the last that did so after the host vanished.
fn tell(asked: &[Asked], vanished: Duration) -> String {
    let mut failures = BTreeMap::<&str, Vec<f64>>::new();
    for one in asked {
        if let Err(how) = &one.answered {
            failures.entry(how).or_default().push(one.begun.as_secs_f64() - vanished.as_secs_f64());
        }
    }
    let mut text = format!("{} requests", asked.len());
    for (how, times) in failures {
        let (first, last) =
            (times.iter().copied().fold(f64::INFINITY, f64::min), times.iter().copied().fold(-60.0, f64::max));
        write!(text, ", {}× {how} ({first:.1} s to {last:.1} s)", times.len()).unwrap_or_default();
    }
    text
}

fn opaque_connections_end(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let host = mesh.workload("server")?.host();
    let listener = host.listen(host.socket(scene.family, 6379))?;
    let open = || -> anyhow::Result<(TcpStream, TcpStream)> {
        let mut near = mesh.workload("client")?.host().connect(server(scene, 6379), SOON)?;
        near.set_read_timeout(Some(2 * FOUND_WITHIN))?;
        let (mut far, _) = listener.accept()?;
        // Both ways, so that nothing is left to be acknowledged.
        let mut byte = [0];
        near.write_all(b"x")?;
        far.read_exact(&mut byte)?;
        far.write_all(b"x")?;
        near.read_exact(&mut byte)?;
        Ok((near, far))
    };
    let ((idle, _far), (mut talking, _other)) = (open()?, open()?);
    pause(Duration::from_secs(1))?;
    host.unplug(true)?;
    let watch = Stopwatch::start();
    talking.write_all(b"is anybody there?")?;
    let end = |mut stream: TcpStream| (stream.read(&mut [0]), watch.elapsed());
    let ends = std::thread::scope(|scope| {
        let both = [("idle", idle), ("with data on its way", talking)];
        let both = both.map(|(what, stream)| (what, scope.spawn(move || end(stream))));
        both.map(|(what, end)| (what, end.join()))
    });
    for (what, end) in ends {
        let (read, after) = end.map_err(|_panic| anyhow::anyhow!("a reader panicked"))?;
        ensure!(after < FOUND_WITHIN, "{what}: {read:?} after {after:?}");
        // Not an end that looks like one.
        ensure!(read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{what}: {read:?}");
    }
    Ok(())
}

fn a_reader_that_pauses_is_not_cut(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let body = echo::pattern(TRANSFER);
    std::thread::scope(|scope| {
        let opaque = scope.spawn(|| pause_opaque(scene, &mesh, &body));
        let http = scope.spawn(|| pause_http1(scene, &mesh, &body));
        let joined = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            thread.join().map_err(|_panic| anyhow::anyhow!("a transfer panicked"))?
        };
        joined(opaque).context("opaque")?;
        joined(http).context("HTTP/1")
    })
}

/// Both sides write, and neither reads for a while.
fn pause_opaque(scene: &Scene, mesh: &Mesh<'_>, body: &[u8]) -> anyhow::Result<()> {
    let host = mesh.workload("server")?.host();
    let listener = host.listen(host.socket(scene.family, 6379))?;
    let near = mesh.workload("client")?.host().connect(server(scene, 6379), SOON)?;
    let (far, _) = listener.accept()?;
    let written = [AtomicUsize::new(0), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        let writers = [&near, &far].into_iter().zip(&written);
        let writers: Vec<_> = writers.map(|(to, count)| scope.spawn(move || pour(to, body, count))).collect();
        let read = read_after_a_pause([&near, &far], &written, body);
        if read.is_err() {
            // A writer that nobody reads from would wait for ever.
            drop(near.shutdown(Shutdown::Both));
            drop(far.shutdown(Shutdown::Both));
        }
        for writer in writers {
            let wrote = writer.join().map_err(|_panic| anyhow::anyhow!("a writer panicked"))?;
            ensure!(read.is_err() || wrote.is_ok(), "writing: {wrote:?}");
        }
        read
    })
}

fn read_after_a_pause(from: [&TcpStream; 2], written: &[AtomicUsize; 2], body: &[u8]) -> anyhow::Result<()> {
    pause(PAUSE)?;
    let written = written.each_ref().map(|count| count.load(Ordering::Relaxed));
    ensure!(written.iter().all(|count| *count < TRANSFER), "it all went into buffers, nobody had to wait: {written:?}");
    std::thread::scope(|scope| {
        let readers = from.map(|from| scope.spawn(move || drink(from)));
        for reader in readers {
            let read = reader.join().map_err(|_panic| anyhow::anyhow!("a reader panicked"))??;
            ensure!((read.len(), hash(&read)) == (body.len(), hash(body)), "{} bytes of {}", read.len(), body.len());
        }
        Ok(())
    })
}

fn pour(mut to: &TcpStream, body: &[u8], written: &AtomicUsize) -> std::io::Result<()> {
    for piece in body.chunks(64 * 1024) {
        to.write_all(piece)?;
        written.fetch_add(piece.len(), Ordering::Relaxed);
    }
    to.shutdown(Shutdown::Write)
}

fn drink(mut from: &TcpStream) -> anyhow::Result<Vec<u8>> {
    from.set_read_timeout(Some(SOON))?;
    let mut read = Vec::new();
    from.read_to_end(&mut read).with_context(|| format!("after {} bytes", read.len()))?;
    Ok(read)
}

/// Reads the head of an answer, and the rest only after a while.
fn pause_http1(scene: &Scene, mesh: &Mesh<'_>, body: &[u8]) -> anyhow::Result<()> {
    let to = server(scene, 80);
    let mut stream = mesh.workload("client")?.host().connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream
        .write_all(format!("GET /bytes/{TRANSFER} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).with_context(|| format!("after {:?}", String::from_utf8_lossy(&head)))?;
        head.extend_from_slice(&byte);
    }
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    pause(PAUSE)?;
    let read = drink(&stream)?;
    ensure!((read.len(), hash(&read)) == (body.len(), hash(body)), "{} bytes of {}", read.len(), body.len());
    Ok(())
}
