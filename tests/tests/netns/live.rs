//! What changes while traffic flows: routes, certificates, the control plane, instances. None of it fails a request.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::load::{Load, Plan};
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{Mesh, Settings, WITHIN, documents, service, service_selecting};
use weft_cli::world::{pause, wait_for};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{NAMESPACE, mesh, mesh_with, pair, pair_in, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("live::weights_move_traffic", weights_move_traffic),
    Case::new("live::the_control_plane_may_be_away", the_control_plane_may_be_away),
    Case::new("live::leaves_of_ten_seconds_rotate_for_a_minute", leaves_rotate).within(Duration::from_secs(150)),
    Case::new("live::a_bad_edit_changes_nothing_and_is_told", a_bad_edit_changes_nothing),
    Case::new("live::a_terminating_workload_drains_without_loss", a_terminating_workload_drains),
    Case::new("live::a_killed_instance_costs_no_get", a_killed_instance_costs_no_get).within(Duration::from_secs(120)),
];

fn weights_move_traffic(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = mesh(scene)?;
    let ports = "[{name: http, port: 80, targetPort: 8080}]";
    let version = |number, name: &str, version: &str| {
        service_selecting(NAMESPACE, name, number, ports, &format!("{{app: server, version: {version}}}"))
    };
    let services = [service(NAMESPACE, "server", 20, ports), version(21, "v1", "v1"), version(22, "v2", "v2")];
    mesh.write("services.yaml", &documents(services))?;
    mesh.write("route.yaml", &route(100, 0))?;
    mesh.join(Member::new(NAMESPACE, "client", "client"))?;
    for name in ["v1", "v2"] {
        let host = mesh.join(Member::new(NAMESPACE, name, "server").label("version", name))?.host().clone();
        echo::serve(&host, 8080, Version::Http1, name)?;
    }
    mesh.ready()?;
    for (v1, v2) in [(100, 0), (50, 50), (0, 100), (90, 10)] {
        if (v1, v2) != (100, 0) {
            mesh.apply("route.yaml", &route(v1, v2))?;
        }
        let before = mesh.scrape()?;
        let load = Load::start(mesh.workload("client")?.host(), Plan::get(server(scene, 80), "/").rate(400))?;
        pause(Duration::from_secs(2))?;
        let report = load.finish()?;
        ensure!(report.failed == 0, "{v1}:{v2}: {report}");
        let after = mesh.scrape()?;
        let counted = |name: &str| {
            let (before, after) = (before.get(name)?, after.get(name)?);
            Some(after.since(before).count("weft_requests_total", &[("direction", "inbound")]))
        };
        let (one, two) = (counted("v1").context("v1")?, counted("v2").context("v2")?);
        let share = 100.0 * two as f64 / (one + two) as f64;
        // Six standard deviations where it is drawn; exact at the ends.
        let slack = if v1 == 0 || v2 == 0 { 0.0 } else { 12.0 };
        ensure!((share - f64::from(v2)).abs() <= slack, "{v1}:{v2} asked for, {one}:{two} counted");
    }
    Ok(())
}

fn route(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  namespace: {NAMESPACE}\n  name: server\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: server, port: 80}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: v1, port: 80, weight: {v1}}}\n    - {{name: v2, port: 80, weight: {v2}}}\n"
    )
}

fn the_control_plane_may_be_away(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let client = mesh.workload("client")?.host().clone();
    let plan = Plan::get(server(scene, 80), "/").rate(300).length_max(Duration::from_secs(50));
    let load = Load::start(&client, plan.clone())?;
    pause(Duration::from_secs(1))?;
    mesh.control_mut().kill()?;
    pause(Duration::from_secs(1))?;
    // New connections to what is known.
    let fresh = Load::start(&client, plan)?;
    pause(Duration::from_secs(3))?;
    mesh.control_mut().start()?;
    connected(&mesh)?;
    mesh.apply(
        "server.yaml",
        &service(
            NAMESPACE,
            "server",
            20,
            "[{name: http, port: 80, targetPort: 8080}, {name: http-new, port: 82, targetPort: 8080}]",
        ),
    )?;
    pause(Duration::from_secs(1))?;
    for load in [load, fresh] {
        let report = load.finish()?;
        ensure!(report.failed == 0 && report.succeeded > 300, "{report}");
    }
    Ok(())
}

fn connected(mesh: &Mesh<'_>) -> anyhow::Result<()> {
    wait_for("every proxy's return to the control plane", WITHIN, || {
        let scrapes = mesh.scrape().ok()?;
        scrapes.values().all(|scrape| scrape.value("weft_discovery_connected").is_ok_and(|it| it > 0.0)).then_some(())
    })
}

fn leaves_rotate(scene: &Scene) -> anyhow::Result<()> {
    let settings = Settings { leaf_life: Duration::from_secs(10), ..Settings::new(scene.family) };
    let mesh = pair_in(mesh_with(scene, settings)?)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let plan = Plan::get(server(scene, 80), "/").rate(500).length_max(Duration::from_secs(100));
    let load = Load::start(mesh.workload("client")?.host(), plan)?;
    pause(Duration::from_secs(60))?;
    let report = load.finish()?;
    ensure!(report.failed == 0 && report.succeeded > 20_000, "{report}");
    for (name, scrape) in mesh.scrape()? {
        let renewals = scrape.value("weft_identity_renewals_total")?;
        ensure!(renewals >= 6.0, "{name} renewed {renewals} times");
    }
    Ok(())
}

fn a_bad_edit_changes_nothing(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let load = Load::start(mesh.workload("client")?.host(), Plan::get(server(scene, 80), "/").rate(200))?;
    pause(Duration::from_millis(500))?;
    mesh.write(
        "server.yaml",
        "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: test\n  name: server\nspec:\n  ports: 80\n",
    )?;
    let told =
        wait_for("the complaint", WITHIN, || mesh.control().status().ok().filter(|status| !status.files.is_empty()))?;
    ensure!(
        told.files.iter().any(|line| line.starts_with("server.yaml:7:") && line.contains("ports")),
        "{:?}",
        told.files
    );
    pause(Duration::from_secs(1))?;
    let report = load.finish()?;
    ensure!(report.failed == 0, "{report}");
    Ok(())
}

/// Two servers behind one Service; both answer.
fn two_servers(scene: &Scene) -> anyhow::Result<Mesh<'_>> {
    let mut mesh = mesh(scene)?;
    mesh.write("server.yaml", &service(NAMESPACE, "server", 20, "[{name: http, port: 80, targetPort: 8080}]"))?;
    mesh.join(Member::new(NAMESPACE, "client", "client"))?;
    for name in ["one", "two"] {
        let host = mesh.join(Member::new(NAMESPACE, name, "server"))?.host().clone();
        echo::serve(&host, 8080, Version::Http1, name)?;
    }
    mesh.ready()?;
    Ok(mesh)
}

fn a_terminating_workload_drains(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = two_servers(scene)?;
    let plan = Plan::get(server(scene, 80), "/").rate(500);
    let load = Load::start(mesh.workload("client")?.host(), plan)?;
    pause(Duration::from_secs(1))?;
    let member = Member::new(NAMESPACE, "one", "server").field("terminating: true");
    let address = mesh.workload("one")?.host().address(scene.family);
    mesh.write("workload-one.yaml", &member.yaml(address))?;
    wait_for("the drain", WITHIN, || {
        let scrape = mesh.workload("one").ok()?.scrape().ok()?;
        scrape.value("weft_draining").is_ok_and(|draining| draining > 0.0).then_some(())
    })?;
    pause(Duration::from_secs(6))?;
    // Nobody is left to be lost.
    mesh.workload_mut("one")?.kill_proxy()?;
    pause(Duration::from_secs(1))?;
    let report = load.finish()?;
    ensure!(report.failed == 0, "{report}");
    Ok(())
}

fn a_killed_instance_costs_no_get(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = two_servers(scene)?;
    mesh.apply("retry.yaml", RETRY)?;
    let plan = Plan::get(server(scene, 80), "/").rate(500).connections(16).length_max(Duration::from_secs(80));
    let load = Load::start(mesh.workload("client")?.host(), plan)?;
    for kill in 0..6 {
        let victim = ["one", "two"][kill % 2];
        pause(Duration::from_millis(300 + 137 * u64::try_from(kill)?))?;
        mesh.workload_mut(victim)?.kill_proxy()?;
        pause(Duration::from_millis(1500))?;
        mesh.restart(victim)?;
        wait_for("its share of the requests", WITHIN, || {
            let scrape = mesh.workload(victim).ok()?.scrape().ok()?;
            (scrape.count("weft_requests_total", &[("direction", "inbound"), ("status_code", "200")]) > 0).then_some(())
        })?;
    }
    let report = load.finish()?;
    ensure!(report.failed == 0, "{report}");
    Ok(())
}

const RETRY: &str = "apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata:
  namespace: test
  name: retry
spec:
  targetRefs: [{kind: Service, name: server}]
  retry: {codes: [502, 503, 504], attempts: 3}
";
