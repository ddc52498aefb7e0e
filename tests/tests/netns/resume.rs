//! A proxy that restarts while the control plane is away: it resumes from its state, or waits and says so.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{Mesh, WITHIN, service};
use weft_cli::world::{Host, PROXY_USER, wait_for};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{COMMAND, NAMESPACE, PORTS, SERVER, curl, mesh, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("resume::with_a_state_directory_a_restart_needs_no_control_plane", with_a_state_directory)
        .within(Duration::from_secs(120)),
    Case::new("resume::without_a_state_directory_a_restarted_proxy_waits_and_says_so", without_a_state_directory)
        .within(Duration::from_secs(120)),
    Case::new("resume::a_state_directory_on_a_disk_or_open_to_others_is_refused", unfit_directories),
];

/// A directory in memory that only the proxy's user may enter.
fn in_memory(scene: &Scene) -> anyhow::Result<TempDir> {
    let mode = fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix("weft-state-").permissions(mode).tempdir_in("/dev/shm");
    let directory = made.context("a directory for state")?;
    if !scene.world.privilege().is_user_namespace() {
        chown(directory.path(), Some(PROXY_USER), Some(PROXY_USER)).context("giving it to the proxy's user")?;
    }
    Ok(directory)
}

/// Waits until what is known of an address is kept. The form of the file is the proxy's own; addresses are text in it.
fn kept(state: &TempDir, addr: SocketAddr) -> anyhow::Result<()> {
    let (file, addr) = (state.path().join("snapshots"), addr.to_string());
    wait_for("the state of the client's proxy", WITHIN, || {
        let bytes = fs::read(&file).unwrap_or_default();
        bytes.windows(addr.len()).any(|window| window == addr.as_bytes()).then_some(())
    })
}

fn ask(host: &Host, to: SocketAddr) -> anyhow::Result<String> {
    curl(host).arg(format!("http://{to}/")).finish(COMMAND)?.success()
}

fn with_a_state_directory(scene: &Scene) -> anyhow::Result<()> {
    let state = in_memory(scene)?;
    let mut mesh = mesh(scene)?;
    mesh.write("server.yaml", &service(NAMESPACE, "server", SERVER, PORTS))?;
    mesh.join(Member::new(NAMESPACE, "client", "client").proxy_option("--state-dir", path_of(&state)?))?;
    mesh.join(Member::new(NAMESPACE, "server", "server"))?;
    mesh.ready()?;
    for (port, name) in [(8080, "first\n"), (8090, "second\n")] {
        echo::serve(mesh.workload("server")?.host(), port, Version::Http1, name.trim_end())?;
    }
    let (client, to) = (mesh.workload("client")?.host().clone(), server(scene, 80));
    ensure!(ask(&client, to)? == "first\n", "the mesh works");
    kept(&state, to)?;
    let secrets: Vec<_> = ["credentials", "snapshots"].map(|name| fs::metadata(state.path().join(name))).into();
    for file in secrets {
        ensure!(file?.permissions().mode() & 0o777 == 0o600, "only the proxy's user may read its state");
    }

    mesh.control_mut().kill()?;
    for restart in 1..=2 {
        mesh.workload_mut("client")?.kill_proxy()?;
        ensure!(ask(&client, to).is_err(), "an answer without a proxy: the traffic is not redirected");
        mesh.restart("client")?;
        ensure!(ask(&client, to)? == "first\n", "restart {restart}");
    }
    is_meshed(&mesh)?;

    mesh.control_mut().start()?;
    let edited = service(NAMESPACE, "server", SERVER, "[{name: http, port: 80, targetPort: 8090}]");
    mesh.apply("server.yaml", &edited)?;
    wait_for("what the control plane says now", WITHIN, || {
        ask(&client, to).is_ok_and(|answer| answer == "second\n").then_some(())
    })
}

/// What was restored is the identity too: requests go by mesh TLS.
fn is_meshed(mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let scrape = mesh.workload("client")?.scrape()?;
    let requests = |more: &[(&str, &str)]| {
        scrape.count("weft_requests_total", &[&[("direction", "outbound"), ("status_code", "200")], more].concat())
    };
    let (all, meshed) = (requests(&[]), requests(&[("mtls", "yes")]));
    ensure!(all > 0 && all == meshed, "{meshed} of {all} by mesh TLS");
    ensure!(scrape.value("weft_discovery_connected")? < 0.5, "the control plane is away");
    ensure!(scrape.value("weft_identity_expiry_timestamp_seconds")? > 0.0, "the certificate is the one of before");
    Ok(())
}

fn without_a_state_directory(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let (client, to) = (mesh.workload("client")?.host().clone(), server(scene, 80));
    ensure!(ask(&client, to)? == "server\n", "the mesh works");
    mesh.control_mut().kill()?;
    mesh.workload_mut("client")?.kill_proxy()?;
    let workload = mesh.start_again("client")?;
    let proxy = workload.proxy().context("it was started")?;
    proxy.wait_for_log("waits for the control plane; with WEFT_STATE_DIR", WITHIN)?;
    let ready = workload.get("/ready")?;
    ensure!(ready.status == 503 && ready.body.contains("a certificate"), "{ready:?}");
    mesh.control_mut().start()?;
    mesh.ready()?;
    ensure!(ask(&client, to)? == "server\n", "it goes on where it waited");
    Ok(())
}

fn unfit_directories(scene: &Scene) -> anyhow::Result<()> {
    let open = in_memory(scene)?;
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).context("opening it to others")?;
    let mut mesh = mesh(scene)?;
    for (name, path, said) in
        [("disk", "/proc", "WEFT_STATE_DIR: /proc does not lie in memory"), ("shared", path_of(&open)?, "mode 0755")]
    {
        let workload = mesh.join(Member::new(NAMESPACE, name, name).proxy_option("--state-dir", path))?;
        let proxy = workload.proxy().context("it was started")?;
        let ended = proxy.wait(WITHIN)?;
        ensure!(ended.code() == Some(70) && proxy.log().contains(said), "{ended}: {}", proxy.log());
    }
    Ok(())
}

fn path_of(directory: &TempDir) -> anyhow::Result<&str> {
    directory.path().to_str().context("a path of characters")
}
