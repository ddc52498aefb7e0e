//! gRPC between two ends of grpc-go, by the test cases that gRPC's own implementations are held to.

use std::path::PathBuf;

use anyhow::Context as _;
use weft_cli::mesh::workload::App;
use weft_cli::mesh::{programs, service};
use weft_cli::world::wait_for;
use weft_tests::stage::{COMMAND, NAMESPACE, SERVER, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[Case::new("grpc::grpc_go_understands_itself", cases_hold)];

/// Ports of the server's Service: one declared, one where the proxies have to find out.
const PORTS: &str = "[{name: grpc, port: 50051}, {name: any, port: 50052}]";

const INTEROP: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

fn cases_hold(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    mesh.apply("server.yaml", &service(NAMESPACE, "server", SERVER, PORTS))?;
    let directory = std::env::var_os("WEFT_PROGRAMS").map(PathBuf::from);
    let program = programs(directory.as_deref())?.find("weft-grpc-interop");
    let program = program.context("made by `cargo xtask test --only counterparts`")?;
    for port in [50051, 50052] {
        let name = format!("grpc-{port}");
        mesh.start_app("server", App::new(&name, &program, ["server", &port.to_string()]))?;
        mesh.workload_mut("server")?.app(&name).context("no server")?.wait_for_log("listening", COMMAND)?;
        let client = mesh.workload("client")?.host().launch("grpc", &program);
        let client = client.args(["client", &server(scene, port).to_string()]).args(INTEROP);
        let said = client.finish(COMMAND)?.success().with_context(|| format!("port {port}"))?;
        assert_eq!(said.matches(": held\n").count(), INTEROP.len(), "port {port}: {said}");
    }
    // The server's end may be counted after the client has gone.
    let mut last = String::from("not known");
    let counted = wait_for("the calls' counts", COMMAND, || {
        let scrapes = mesh.scrape().ok()?;
        last.clear();
        let enough = ["client", "server"].into_iter().all(|name| {
            let Some(scrape) = scrapes.get(name) else { return false };
            let count = |labels: &[(&str, &str)]| scrape.count("weft_requests_total", labels);
            let (calls, all) = (count(&[("protocol", "grpc"), ("mtls", "yes")]), count(&[]));
            let unimplemented = count(&[("protocol", "grpc"), ("grpc_status", "12")]);
            last.extend([name, &format!(": {calls} of {all}, {unimplemented} unimplemented; ")]);
            // Some cases are two calls or three.
            calls == all && calls >= 2 * INTEROP.len() as u64 && unimplemented == 4
        });
        enough.then_some(())
    });
    counted.with_context(|| format!("last seen: {last}"))
}
