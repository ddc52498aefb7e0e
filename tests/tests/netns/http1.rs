//! HTTP/1.1 as curl speaks it, against hyper.

use std::io::{Read, Write as _};

use anyhow::{Context as _, ensure};
use weft_cli::mesh::Mesh;
use weft_cli::world::wait_for;
use weft_tests::echo::{self, Counts, Version};
use weft_tests::stage::{COMMAND, curl, file, hash, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("http1::connections_are_kept_and_authenticated", connections_are_kept),
    Case::new("http1::bodies_of_every_kind_are_intact", bodies_are_intact),
    Case::new("http1::expect_continue_is_answered_by_the_server", expect_continue),
    Case::new("http1::mesh_headers_of_an_application_are_removed", mesh_headers_are_removed),
    Case::new("http1::connect_opens_a_tunnel", connect_opens_a_tunnel),
    Case::new("http1::a_port_the_service_does_not_have_is_refused", an_unknown_port_is_refused),
];

const BYTES: usize = 6 * 1024 * 1024;

fn stage(scene: &Scene) -> anyhow::Result<(Mesh<'_>, std::sync::Arc<Counts>)> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    Ok((mesh, counts))
}

fn connections_are_kept(scene: &Scene) -> anyhow::Result<()> {
    let (mesh, counts) = stage(scene)?;
    let urls = (0..20).map(|number| format!("http://{}/{number}", server(scene, 80)));
    let client = mesh.workload("client")?.host();
    let said =
        curl(client).args(["--write-out", " %{http_code} %{num_connects};"]).args(urls).finish(COMMAND)?.success()?;
    let answers: Vec<&str> = said.split_terminator(';').map(str::trim).collect();
    assert_eq!(answers.first(), Some(&"server\n 200 1"));
    assert!(answers.len() == 20 && answers.iter().skip(1).all(|answer| *answer == "server\n 200 0"), "{answers:?}");
    assert_eq!((counts.requests(), counts.connections()), (20, 1));

    let scrapes = mesh.scrape()?;
    let labels = [("protocol", "http1"), ("mtls", "yes"), ("status_code", "200"), ("class", "success")];
    for name in ["client", "server"] {
        let scrape = scrapes.get(name).context("no scrape")?;
        assert_eq!(scrape.count("weft_requests_total", &labels), 20, "{name}");
        assert_eq!(scrape.count("weft_requests_total", &[]), 20, "{name}");
    }
    // The peer's name is looked up meanwhile (semantics 45): all of those before may have come first, not all that follow.
    wait_for("a request that is counted for client", COMMAND, || {
        curl(client).arg(format!("http://{}/", server(scene, 80))).finish(COMMAND).ok()?;
        let scrape = mesh.workload("server").ok()?.scrape().ok()?;
        let labels = [("direction", "inbound"), ("source_workload", "client"), ("mtls", "yes")];
        (scrape.count("weft_requests_total", &labels) > 0).then_some(())
    })
}

fn bodies_are_intact(scene: &Scene) -> anyhow::Result<()> {
    let (mesh, _counts) = stage(scene)?;
    let client = mesh.workload("client")?.host();
    let to = server(scene, 80);
    let body = echo::pattern(BYTES);
    let upload = file(scene, "upload", &body)?;
    let upload = format!("@{}", upload.display());
    let no_expect = ["--header", "Expect:"];
    let chunked = ["--header", "Transfer-Encoding: chunked"];
    let cases: [(&str, Vec<&str>); 3] = [
        ("with a length", vec!["--data-binary", &upload]),
        ("in chunks", vec!["--data-binary", &upload, chunked[0], chunked[1]]),
        ("empty", vec!["--data-binary", ""]),
    ];
    for (what, args) in cases {
        let answer = curl(client).args(no_expect).args(&args).arg(format!("http://{to}/echo")).finish(COMMAND)?;
        ensure!(answer.status.success(), "{what}: {}", answer.stderr);
        let want: &[u8] = if what == "empty" { b"" } else { &body };
        assert_eq!((answer.stdout.len(), hash(&answer.stdout)), (want.len(), hash(want)), "{what}");
    }
    let download = curl(client).arg(format!("http://{to}/bytes/{BYTES}")).finish(COMMAND)?;
    ensure!(download.status.success(), "{}", download.stderr);
    assert_eq!(hash(&download.stdout), hash(&body));
    // HTTP/1.0, where the end of the connection is the end of the body.
    let old = curl(client).args(["--http1.0"]).arg(format!("http://{to}/bytes/100000")).finish(COMMAND)?;
    assert_eq!(hash(&old.stdout), hash(&echo::pattern(100_000)), "{}", old.stderr);
    Ok(())
}

fn expect_continue(scene: &Scene) -> anyhow::Result<()> {
    let (mesh, _counts) = stage(scene)?;
    let client = mesh.workload("client")?.host();
    let upload = file(scene, "upload", &echo::pattern(3 * 1024 * 1024))?;
    let post = |path: &str| {
        let launch = curl(client).args(["--verbose", "--header", "Expect: 100-continue", "--expect100-timeout", "15"]);
        let launch = launch.arg("--data-binary").arg(format!("@{}", upload.display()));
        launch.arg(format!("http://{}{path}", server(scene, 80))).finish(COMMAND)
    };
    let taken = post("/count")?;
    ensure!(taken.stderr.contains("< HTTP/1.1 100"), "no 100: {}", taken.stderr);
    assert_eq!(String::from_utf8_lossy(&taken.stdout), format!("{}\n", 3 * 1024 * 1024));
    // A server that does not want it says so at once, and no 100 goes before.
    let refused = post("/status/417")?;
    ensure!(!refused.stderr.contains("< HTTP/1.1 100"), "a 100 before the refusal: {}", refused.stderr);
    ensure!(refused.stderr.contains("< HTTP/1.1 417"), "{}", refused.stderr);
    Ok(())
}

fn mesh_headers_are_removed(scene: &Scene) -> anyhow::Result<()> {
    let (mesh, _counts) = stage(scene)?;
    let client = mesh.workload("client")?.host();
    let to = server(scene, 80);
    let launch = curl(client).args(["--include", "--data", "x"]);
    let launch = launch.args(["--header", "weft-client-id: spiffe://cluster.local/ns/test/sa/admin"]);
    let launch = launch.args(["--header", "x-forwarded-for: 1.2.3.4", "--header", "X-Kept: yes"]);
    let said = launch.arg(format!("http://{to}/echo")).finish(COMMAND)?.success()?.to_ascii_lowercase();
    assert!(said.contains("seen-x-kept: yes\r\n"), "{said}");
    assert!(!said.contains("sa/admin") && !said.contains("1.2.3.4"), "{said}");
    assert!(said.contains("seen-weft-client-id: spiffe://cluster.local/ns/test/sa/client\r\n"), "{said}");
    Ok(())
}

/// The server is itself a proxy of HTTP: an application's own way out, reached through the mesh.
fn connect_opens_a_tunnel(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    for (port, target) in [(80, 8080), (7000, 7000)] {
        let host = mesh.workload("server")?.host();
        let listener = host.listen(host.socket(scene.family, target))?;
        let serving = std::thread::spawn(move || -> std::io::Result<[String; 2]> {
            let (mut stream, _) = listener.accept()?;
            let asked = head(&mut stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            let inner = head(&mut stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwoven\n")?;
            Ok([asked, inner])
        });
        let client = mesh.workload("client")?.host();
        let launch = curl(client).args(["--proxytunnel", "--proxy", &format!("http://{}", server(scene, port))]);
        let said = launch.arg("http://loom.example:4711/cloth").finish(COMMAND)?.success()?;
        assert_eq!(said, "woven\n", "port {port}");
        let [asked, inner] = serving.join().map_err(|_panic| anyhow::anyhow!("the server panicked"))??;
        ensure!(asked.starts_with("CONNECT loom.example:4711 HTTP/1.1\r\n"), "port {port}: {asked}");
        ensure!(inner.starts_with("GET /cloth HTTP/1.1\r\n"), "port {port}: {inner}");
        // What is inside is nobody's business: no header of the mesh's was added.
        ensure!(!inner.to_ascii_lowercase().contains("weft"), "port {port}: {inner}");
    }
    Ok(())
}

/// Reads the head of a request, and nothing past it.
fn head(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn an_unknown_port_is_refused(scene: &Scene) -> anyhow::Result<()> {
    let (mesh, counts) = stage(scene)?;
    let client = mesh.workload("client")?.host();
    let said = curl(client).arg(format!("http://{}/", server(scene, 4444))).finish(COMMAND)?;
    ensure!(!said.status.success() || said.stdout.is_empty(), "answered: {said:?}");
    assert_eq!(counts.requests(), 0);
    Ok(())
}
