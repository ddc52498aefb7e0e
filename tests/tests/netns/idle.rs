//! What nobody talks to any more: it is given up, and found again when it is needed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh::{Mesh, Settings, WITHIN};
use weft_cli::world::{pause, wait_for};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{COMMAND, NAMESPACE, curl, mesh_with, pair_in, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[Case::new(
    "idle::a_destination_that_nobody_uses_is_given_up_and_found_again",
    a_destination_is_given_up_and_found_again,
)
.within(Duration::from_secs(120))];

/// In place of five minutes.
const IDLE_SECONDS: u64 = 3;
/// Idle, and then two of the sweeps that come every five seconds: one that hides, one that gives up. And a little more.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(IDLE_SECONDS + 3 * 5);
/// What every proxy follows: the mesh, and its own inbound side.
const ALWAYS: usize = 2;

fn a_destination_is_given_up_and_found_again(scene: &Scene) -> anyhow::Result<()> {
    let proxy_args = vec!["--destination-idle".to_owned(), IDLE_SECONDS.to_string()];
    let mut mesh = pair_in(mesh_with(scene, Settings { proxy_args, ..Settings::new(scene.family) })?)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    for round in 0..2 {
        ask(scene, &mesh).with_context(|| format!("round {round}"))?;
        // The destination, the service port, and its endpoints.
        ensure!(followed(&mesh)? == ALWAYS + 3, "{} are followed", followed(&mesh)?);
        ensure!(is_known(scene, &mesh)?, "it was not even known");
        let mut last = (None, None);
        wait_for("the end of the subscription", GIVEN_UP_WITHIN, || {
            let told = mesh.control().status().ok()?.subscriptions.get(&format!("{NAMESPACE}/client")).copied();
            last = (followed(&mesh).ok(), told);
            (last == (Some(ALWAYS), Some(ALWAYS))).then_some(())
        })
        .with_context(|| format!("last seen, by the proxy and by the control plane: {last:?}"))?;
        ensure!(!is_known(scene, &mesh)?, "it is given up and still known");
        // The destination and the service port.
        let evictions = mesh.workload("client")?.scrape()?.value("weft_discovery_evictions_total")?;
        ensure!(evictions >= f64::from(2 * (round + 1)), "{evictions} are counted");
    }

    // What is not used while the control plane is away stays, or it could not be had again.
    ask(scene, &mesh)?;
    mesh.control_mut().kill()?;
    pause(2 * GIVEN_UP_WITHIN)?;
    ensure!(is_known(scene, &mesh)?, "given up while nobody could be asked");
    ask(scene, &mesh).context("without a control plane")?;
    mesh.control_mut().start()?;
    wait_for("the end of the subscription", GIVEN_UP_WITHIN + WITHIN, || {
        (followed(&mesh).ok()? == ALWAYS).then_some(())
    })?;
    ask(scene, &mesh).context("at the end")
}

fn ask(scene: &Scene, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let client = mesh.workload("client")?.host();
    let said = curl(client).arg(format!("http://{}/", server(scene, 80))).finish(COMMAND)?.success()?;
    ensure!(said == "server\n", "{said}");
    Ok(())
}

/// How many resources the client's proxy follows.
fn followed(mesh: &Mesh<'_>) -> anyhow::Result<usize> {
    let scrape = mesh.workload("client")?.scrape()?;
    scrape.value("weft_discovery_subscriptions")?;
    Ok(usize::try_from(scrape.count("weft_discovery_subscriptions", &[]))?)
}

/// Whether the client's proxy knows the server's address.
fn is_known(scene: &Scene, mesh: &Mesh<'_>) -> anyhow::Result<bool> {
    let known = mesh.workload("client")?.get("/config")?.success()?;
    Ok(known.contains(&format!("\"{}\"", server(scene, 80))))
}
