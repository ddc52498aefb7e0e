//! RFC 6455's sockets between two ends of a library that is not ours.

use anyhow::{Context as _, ensure};
use weft_cli::mesh::workload::App;
use weft_cli::world::wait_for;
use weft_tests::stage::{COMMAND, file, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[Case::new("websockets::messages_pings_and_closes_pass", messages_pass)];

const SCRIPT: &[u8] = include_bytes!("../../counterparts/websocket.py");

/// Debian's, which has Debian's library; another may come first on the path.
const PYTHON: &str = "/usr/bin/python3";

/// Connections that the script's client makes: one with compression and one without, and one for each kind of end.
const CONNECTIONS: u64 = 5;

fn messages_pass(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    let script = file(scene, "websocket.py", SCRIPT)?.display().to_string();
    // Declared as HTTP, and undeclared.
    for (port, target) in [(80, "8080"), (7000, "7000")] {
        let name = format!("websocket-{target}");
        mesh.start_app("server", App::new(&name, PYTHON, [&script, "server", target]))?;
        mesh.workload_mut("server")?.app(&name).context("no server")?.wait_for_log("listening", COMMAND)?;
        let client = mesh.workload("client")?.host();
        let uri = format!("ws://{}/", server(scene, port));
        let client = client.launch("websocket", PYTHON).args([&script, "client", &uri]);
        let said = client.finish(COMMAND)?.success().with_context(|| format!("port {port}"))?;
        assert_eq!(said, "held\n", "port {port}");

        let server = mesh.workload_mut("server")?.app(&name).context("no server")?;
        // 1006 is what a side notes that was told nothing.
        for code in ["1000 ", "3001 the client's", "4002 the server's", "1006 "] {
            server.wait_for_log(&format!("closed: {code}"), COMMAND).with_context(|| format!("port {port}"))?;
        }
        let log = server.log();
        ensure!(log.matches("closed: ").count() == 5 && log.matches("closed: 1000 ").count() == 2, "{log}");
    }
    // Counted when they end, as requests that were answered with an upgrade.
    let labels = [("protocol", "http1"), ("mtls", "yes"), ("status_code", "101")];
    wait_for("the connections' counts", COMMAND, || {
        let scrapes = mesh.scrape().ok()?;
        let count = |name: &str| scrapes.get(name).map_or(0, |scrape| scrape.count("weft_requests_total", &labels));
        (count("client") == 2 * CONNECTIONS && count("server") == 2 * CONNECTIONS).then_some(())
    })
}
