//! HTTP/2 by prior knowledge as nghttp2's programs speak it, against hyper.

use anyhow::{Context as _, ensure};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{COMMAND, file, hash, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("http2::many_streams_on_few_connections_all_succeed", many_streams),
    Case::new("http2::bodies_are_intact", bodies_are_intact),
    Case::new("http2::trailers_pass_both_ways", trailers_pass),
];

const REQUESTS: u32 = 3000;

fn many_streams(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8081, Version::Http2, "server")?;
    let client = mesh.workload("client")?.host();
    let load = client.launch("h2load", "h2load").args(["-n", &REQUESTS.to_string(), "-c", "4", "-m", "16"]);
    // By name: of an IPv6 address it would make an `:authority` without brackets, which is none.
    let load = load.arg(format!("--connect-to={}", server(scene, 81)));
    let said = load.arg("http://server/").finish(COMMAND)?.success()?;
    ensure!(said.contains(&format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout")), "{said}");
    let scrapes = mesh.scrape()?;
    for name in ["client", "server"] {
        let scrape = scrapes.get(name).context("no scrape")?;
        let counted =
            scrape.count("weft_requests_total", &[("protocol", "http2"), ("mtls", "yes"), ("status_code", "200")]);
        assert_eq!(counted, u64::from(REQUESTS), "{name}");
    }
    Ok(())
}

fn bodies_are_intact(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8081, Version::Http2, "server")?;
    let client = mesh.workload("client")?.host();
    let body = echo::pattern(5 * 1024 * 1024);
    let upload = file(scene, "upload", &body)?;
    let launch = client.launch("nghttp", "nghttp").arg("--data").arg(&upload).args(["--header", ":method: POST"]);
    let answer = launch.arg(format!("http://{}/echo", server(scene, 81))).finish(COMMAND)?;
    ensure!(answer.status.success(), "{}", answer.stderr);
    assert_eq!((answer.stdout.len(), hash(&answer.stdout)), (body.len(), hash(&body)), "{}", answer.stderr);
    let launch = client.launch("nghttp", "nghttp").arg(format!("http://{}/bytes/3000000", server(scene, 81)));
    let answer = launch.finish(COMMAND)?;
    assert_eq!(hash(&answer.stdout), hash(&echo::pattern(3_000_000)), "{}", answer.stderr);
    Ok(())
}

fn trailers_pass(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let host = mesh.workload("server")?.host();
    echo::serve(host, 8081, Version::Http2, "server")?;
    echo::serve(host, 7000, Version::Http2, "server")?;
    let client = mesh.workload("client")?.host();
    let upload = file(scene, "upload", b"warp and weft\n")?;
    // Declared, and undeclared, where the preface tells.
    for port in [81, 7000] {
        let launch = client.launch("nghttp", "nghttp").args(["--verbose", "--no-dep", "--header", ":method: POST"]);
        let launch = launch.args(["--trailer", "woven: yes", "--data"]).arg(&upload);
        // The server sends back the request's body, its trailers with it.
        let said = launch.arg(format!("http://{}/echo", server(scene, port))).finish(COMMAND)?.success()?;
        let (_, body) = said.split_once("warp and weft").with_context(|| format!("port {port}: no body: {said}"))?;
        let trailers = body.lines().filter(|line| line.contains("recv (stream_id=") && line.ends_with("woven: yes"));
        assert_eq!(trailers.count(), 1, "port {port}: {said}");
    }
    Ok(())
}
