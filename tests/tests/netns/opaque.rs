//! Bytes that nobody looks into: intact, in both directions, to their end, authenticated.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh::Mesh;
use weft_cli::mesh::workload::App;
use weft_cli::world::{Stopwatch, wait_for};
use weft_tests::stage::{COMMAND, hash, pair, server};
use weft_tests::{Case, Scene, echo};

pub(crate) const CASES: &[Case] = &[
    Case::new("opaque::redis_works_and_is_authenticated", redis_works),
    Case::new("opaque::half_close_passes_and_bytes_are_intact", half_close_passes),
    Case::new("opaque::a_server_that_speaks_first_is_heard", a_server_that_speaks_first_is_heard),
    Case::new("opaque::a_reset_arrives_as_a_reset", a_reset_arrives_as_a_reset),
    Case::new("opaque::no_byte_passes_the_wire_in_the_clear", nothing_in_the_clear),
];

const SOON: Duration = Duration::from_secs(10);

/// Enough to fill every buffer on the way several times.
const BYTES: usize = 8 * 1024 * 1024;

fn redis_works(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    let args = ["--port", "6379", "--bind", "*", "-::*", "--save", "", "--appendonly", "no", "--protected-mode", "no"];
    mesh.start_app("server", App::new("redis", "redis-server", args))?;
    let to = server(scene, 6379);
    let redis = |args: &[&str]| {
        let client = mesh.workload("client")?.host();
        let launch = client.launch("redis-cli", "redis-cli");
        let launch = launch.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]).args(args);
        launch.finish(COMMAND)?.success()
    };
    wait_for("redis", SOON, || redis(&["ping"]).ok().filter(|said| said.trim() == "PONG"))?;
    redis(&["set", "shuttle", "weft"])?;
    assert_eq!(redis(&["get", "shuttle"])?.trim(), "weft");
    let said = redis(&["eval", "return string.rep('w', 3000000)", "0"])?;
    assert_eq!(said.trim_end().len(), 3_000_000);
    assert!(said.trim_end().bytes().all(|byte| byte == b'w'));

    let yes = [("mtls", "yes"), ("protocol", "tcp")];
    wait_for("the connections' counts", SOON, || {
        let scrapes = mesh.scrape().ok()?;
        let count = |name: &str, metric| scrapes.get(name).map_or(0, |scrape| scrape.count(metric, &yes));
        let (out, into) = (
            count("client", "weft_tcp_connections_closed_total"),
            count("server", "weft_tcp_connections_closed_total"),
        );
        let bytes = count("client", "weft_tcp_received_bytes_total");
        (out >= 4 && into >= 4 && bytes > 3_000_000).then_some(())
    })
}

/// The server's side of a transfer: reads to the end, then sends all of it back and closes.
fn send_back_on(
    mesh: &Mesh<'_>,
    scene: &Scene,
    port: u16,
) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<usize>>> {
    let host = mesh.workload("server")?.host();
    let listener = host.listen(host.socket(scene.family, port))?;
    Ok(std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(&bytes)?;
        Ok(bytes.len())
    }))
}

fn half_close_passes(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    for port in [6379, 7000] {
        let serving = send_back_on(&mesh, scene, port)?;
        let body = echo::pattern(BYTES);
        let mut stream = mesh.workload("client")?.host().connect(server(scene, port), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&body)?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).with_context(|| format!("port {port}: after {} bytes", back.len()))?;
        assert_eq!((back.len(), hash(&back)), (body.len(), hash(&body)), "port {port}");
        assert_eq!(served(serving)?, BYTES);
    }
    Ok(())
}

fn a_server_that_speaks_first_is_heard(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    // Declared as bytes, and undeclared, where the proxy has to find out.
    for port in [6379, 7000] {
        let host = mesh.workload("server")?.host();
        let listener = host.listen(host.socket(scene.family, port))?;
        let serving = std::thread::spawn(move || -> std::io::Result<()> {
            for _ in 0..5 {
                let (mut stream, _) = listener.accept()?;
                stream.write_all(b"220 ready\r\n")?;
                let mut line = [0; 6];
                stream.read_exact(&mut line)?;
                stream.write_all(b"221 bye\r\n")?;
            }
            Ok(())
        });
        for number in 0..5 {
            let watch = Stopwatch::start();
            let mut stream = mesh.workload("client")?.host().connect(server(scene, port), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            let mut greeting = [0; 11];
            stream.read_exact(&mut greeting).with_context(|| format!("port {port}: no greeting"))?;
            assert_eq!(&greeting, b"220 ready\r\n");
            // Generous for a busy machine; the first connection also asks discovery and shakes hands.
            ensure!(watch.elapsed() < Duration::from_secs(3), "port {port}, number {number}: {:?}", watch.elapsed());
            stream.write_all(b"QUIT\r\n")?;
            let mut rest = String::new();
            stream.read_to_string(&mut rest)?;
            assert_eq!(rest, "221 bye\r\n");
        }
        served(serving)?;
    }
    Ok(())
}

fn a_reset_arrives_as_a_reset(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let host = mesh.workload("server")?.host();
    let listener = host.listen(host.socket(scene.family, 6379))?;
    let serving = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut some = [0; 4];
        stream.read_exact(&mut some)?;
        stream.write_all(b"part")?;
        // Closing with bytes unread resets.
        wait_for_unread(&stream)?;
        drop(stream);
        Ok(())
    });
    let mut stream = mesh.workload("client")?.host().connect(server(scene, 6379), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"some")?;
    let mut part = [0; 4];
    stream.read_exact(&mut part)?;
    stream.write_all(&echo::pattern(1024))?;
    let end = stream.read(&mut part);
    // An end here would look as if the server had said all it had to say.
    assert!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
    served(serving)?;
    Ok(())
}

fn wait_for_unread(stream: &std::net::TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    stream.peek(&mut [0]).map(drop)
}

fn nothing_in_the_clear(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let body = echo::pattern(64 * 1024);
    let needle = body.get(1000..1032).context("a piece of the body")?.to_vec();
    let transfer = |from: &weft_cli::world::Host| -> anyhow::Result<Vec<u8>> {
        let serving = send_back_on(&mesh, scene, 6379)?;
        let capture = scene.world.capture()?;
        // The stranger knows no services; the pod's own address leads to the same port.
        let to = if from.name() == "client" { server(scene, 6379) } else { mesh.workload("server")?.socket(6379) };
        let mut stream = from.connect(to, SOON)?;
        stream.write_all(&body)?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        assert_eq!(hash(&back), hash(&body));
        served(serving)?;
        capture.finish()
    };
    let holds = |packets: &[u8]| packets.windows(needle.len()).any(|window| window == needle);
    let meshed = transfer(mesh.workload("client")?.host())?;
    ensure!(meshed.len() > 2 * body.len(), "the capture holds {} bytes only", meshed.len());
    ensure!(!holds(&meshed), "a piece of the body passed the wire");
    // And it would have been seen: the same from somebody who is not meshed.
    let clear = transfer(&scene.world.host("stranger")?)?;
    ensure!(holds(&clear), "the capture does not even see what is in the clear");
    Ok(())
}

/// What a server's thread came to.
fn served<T, E>(serving: std::thread::JoinHandle<Result<T, E>>) -> anyhow::Result<T>
where
    Result<T, E>: anyhow::Context<T, E>,
{
    serving.join().map_err(|_panic| anyhow::anyhow!("the server panicked"))?.context("serving")
}
