//! Floods, and input that is not what it should be: others are served, memory stays bounded, nothing has two readings.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::load::{Load, Plan};
use weft_cli::mesh::scrape::Scrape;
use weft_cli::mesh::{Mesh, WITHIN};
use weft_cli::world::{Host, Stopwatch, pause, wait_for};
use weft_tests::echo::{self, Version};
use weft_tests::flood::{Flood, Flooding};
use weft_tests::memory::memory;
use weft_tests::stage::{COMMAND, curl, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("hostile::floods_of_a_stranger_harm_nobody_else", floods_of_a_stranger).within(Duration::from_secs(150)),
    Case::new("hostile::floods_of_an_application_harm_nobody_else", floods_of_an_application)
        .within(Duration::from_secs(150)),
    Case::new("hostile::malformed_input_has_one_reading_or_none", malformed_input),
];

/// How long each flood lasts; a longer one is measured by `cargo xtask measure --floods`.
const FLOOD: Duration = Duration::from_secs(4);
/// By how much a flood may raise what the proxy holds, in MiB. A guess: twice what was measured at most, and what a pod's usual
/// limit of 128 MiB bears.
const GROWTH_MAX: f64 = 32.0;
const SOON: Duration = Duration::from_secs(10);

fn stage(scene: &Scene) -> anyhow::Result<Mesh<'_>> {
    let mesh = pair(scene)?;
    let host = mesh.workload("server")?.host();
    echo::serve(host, 8080, Version::Http1, "server")?;
    echo::serve(host, 8081, Version::Http2, "server")?;
    Ok(mesh)
}

/// Somebody without a proxy floods the server's.
fn floods_of_a_stranger(scene: &Scene) -> anyhow::Result<()> {
    let mesh = stage(scene)?;
    let stranger = scene.world.host("stranger")?;
    let server = mesh.workload("server")?;
    for flood in Flood::ALL {
        let to = server.socket(if flood.is_http2() { 8081 } else { 8080 });
        flooded(scene, &mesh, &stranger, ("server", to), flood).with_context(|| flood.to_string())?;
    }
    Ok(())
}

/// An application floods its own proxy, beside others on the same host.
fn floods_of_an_application(scene: &Scene) -> anyhow::Result<()> {
    let mesh = stage(scene)?;
    let client = mesh.workload("client")?.host();
    for flood in Flood::ALL {
        let to = server(scene, if flood.is_http2() { 81 } else { 80 });
        flooded(scene, &mesh, client, ("client", to), flood).with_context(|| flood.to_string())?;
    }
    Ok(())
}

fn flooded(
    scene: &Scene,
    mesh: &Mesh<'_>,
    attacker: &Host,
    (victim, to): (&str, SocketAddr),
    flood: Flood,
) -> anyhow::Result<()> {
    let workload = mesh.workload(victim)?;
    let proxy = workload.proxy_id().context("the proxy does not run")?;
    let client = mesh.workload("client")?.host();
    let load = Load::start(client, Plan::get(server(scene, 80), "/"))?;
    pause(Duration::from_millis(500))?;
    let (before, rss) = (workload.scrape()?, memory(proxy)?.rss);
    let flooding = Flooding::start(attacker, to, flood, FLOOD, || Ok(()))?;
    let (watch, mut peak) = (Stopwatch::start(), rss);
    while watch.elapsed() < FLOOD {
        pause(Duration::from_millis(20))?;
        peak = memory(proxy)?.rss.max(peak);
    }
    let flooded = flooding.finish()?;
    let report = load.finish()?;
    let told = format!("{flooded}; RSS from {rss:.1} to {peak:.1} MiB; others: {report}");
    ensure!(report.failed == 0 && report.succeeded > 100, "{told}");
    ensure!(flooded.bytes > 1000, "hardly a flood: {told}");
    ensure!(peak - rss < GROWTH_MAX, "{told}");
    // Whoever looks finds out.
    let counted = || Some(told_off(&workload.scrape().ok()?.since(&before))).filter(|count| *count > 0);
    wait_for("the flood in the metrics", WITHIN, counted).with_context(|| told.clone())?;
    let said = curl(client).arg(format!("http://{}/", server(scene, 80))).finish(COMMAND)?.success()?;
    ensure!(said == "server\n", "afterwards: {said}");
    Ok(())
}

/// Requests that ended through the client's doing.
fn told_off(scrape: &Scrape) -> u64 {
    let count = |reason| scrape.count("weft_requests_total", &[("reason", reason)]);
    count("bad-request") + count("client-gone")
}

/// What must come of some bytes.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// An answer with this status, and the application sees nothing.
    Refusal(u16),
    /// No answer: it is nothing that could be answered. The application sees nothing.
    End,
    /// An answer of the application, which sees one request without any of these.
    Reading(&'static [&'static str]),
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn malformed() -> Vec<(&'static str, Vec<u8>, Comes)> {
    use Comes::{End, Reading, Refusal};
    let text = |head: &str| head.as_bytes().to_vec();
    let post = |fields: &str, body: &str| text(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{SMUGGLED}"));
    let chunks = "0\r\n\r\n";
    vec![
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 35\r\n", ""), Refusal(400)),
        ("lengths in one field", post("Content-Length: 0, 35\r\n", ""), Refusal(400)),
        ("a length with a sign", post("Content-Length: +0\r\n", ""), Refusal(400)),
        ("chunked and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", chunks), Refusal(400)),
        ("a length and chunked", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunks), Refusal(400)),
        ("chunked in disguise", post("Transfer-Encoding: xchunked\r\n", chunks), Refusal(400)),
        ("a space before the colon", post("Transfer-Encoding : chunked\r\n", chunks), Refusal(400)),
        ("a folded field", post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n", ""), Refusal(400)),
        ("a bare CR", post("X: y\rContent-Length: 35\r\nContent-Length: 0\r\n", ""), Refusal(400)),
        ("a bare CR alone", text("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"), Refusal(400)),
        ("two hosts", text("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Refusal(400)),
        ("NUL in a field", text("GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"), Refusal(400)),
        (
            "a head of 70,000 bytes",
            text(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000))),
            Refusal(431),
        ),
        ("300 fields", text(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(300))), Refusal(431)),
        (
            "an upgrade to h2c",
            text(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
            ),
            Reading(&["upgrade", "http2-settings", "h2c"]),
        ),
        (
            "fields that the connection takes away",
            text("GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: b\r\nWeft-Client-Id: c\r\n\r\n"),
            Reading(&["x-a", "id: c"]),
        ),
        ("garbage", (0..4096_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect(), End),
        ("half a ClientHello", [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 100]].concat(), End),
        ("a ClientHello of nothing", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00".to_vec(), End),
    ]
}

fn malformed_input(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let host = mesh.workload("server")?.host();
    let seen = record(host.listen(host.socket(scene.family, 8080))?)?;
    let stranger = scene.world.host("stranger")?;
    let ways = [
        ("from an application", mesh.workload("client")?.host(), server(scene, 80)),
        ("from a stranger", &stranger, mesh.workload("server")?.socket(8080)),
    ];
    for (way, host, to) in ways {
        for (what, bytes, comes) in malformed() {
            let before = taken(&seen);
            ensure!(before.is_empty(), "left over: {before:?}");
            let answer = send(host, to, &bytes)?;
            check(comes, &answer, &taken(&seen)).with_context(|| format!("{what}, {way}"))?;
        }
        // None of it has harmed the next one.
        let answer = send(host, to, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        check(Comes::Reading(&[]), &answer, &taken(&seen)).with_context(|| format!("afterwards, {way}"))?;
    }
    Ok(())
}

fn check(comes: Comes, answer: &str, seen: &str) -> anyhow::Result<()> {
    let told = format!("answered {answer:?}, the application saw {seen:?}");
    match comes {
        Comes::Refusal(status) => {
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
            // One answer, not a second one to what was smuggled behind it.
            ensure!(answer.matches("HTTP/1.1 ").count() == 1 && seen.is_empty(), "{told}");
        }
        Comes::End => ensure!(answer.is_empty() && seen.is_empty(), "{told}"),
        Comes::Reading(without) => {
            ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.matches("HTTP/1.1 ").count() == 1, "{told}");
            let seen = seen.to_ascii_lowercase();
            ensure!(seen.matches(" http/1.1\r\n").count() == 1 && seen.ends_with("\r\n\r\n"), "{told}");
            ensure!(without.iter().all(|field| !seen.contains(field)), "{told}");
        }
    }
    Ok(())
}

/// Sends bytes, ends, and returns what comes back.
fn send(host: &Host, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<String> {
    let mut stream = host.connect(to, SOON)?;
    stream.set_read_timeout(Some(2 * SOON))?;
    // Who is refused early may be reset while it still writes.
    drop(stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write)));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error).context("neither an answer nor an end"),
        Ok(_) | Err(_) => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// An application that keeps every byte it sees, and answers whatever ends like a head.
fn record(listener: TcpListener) -> anyhow::Result<Arc<Mutex<Vec<u8>>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&seen);
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&shared);
            drop(std::thread::spawn(move || drop(keep(stream, &seen))));
        }
    };
    std::thread::Builder::new().name("recorder".to_owned()).spawn(accept).context("starting a thread")?;
    Ok(seen)
}

fn keep(mut stream: TcpStream, seen: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let (mut piece, mut head) = ([0; 4096], Vec::new());
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let bytes = piece.get(..read).unwrap_or_default();
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        head.extend_from_slice(bytes);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }
}

fn taken(seen: &Mutex<Vec<u8>>) -> String {
    let bytes = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    String::from_utf8_lossy(&bytes).into_owned()
}
