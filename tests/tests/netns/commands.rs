//! `weft` itself: what it prints, how it ends, and that its demo proves something.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh::{Mesh, WITHIN, programs};
use weft_cli::world::{Host, Launch, wait_for};
use weft_tests::stage::{COMMAND, pair};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("commands::a_demo_with_a_stopped_proxy_fails", a_demo_with_a_stopped_proxy_fails)
        .within(Duration::from_secs(180)),
    Case::new("commands::an_interrupted_demo_leaves_nothing", an_interrupted_demo_leaves_nothing),
    Case::new("commands::status_and_token", status_and_token),
];

fn weft<'a>(host: &'a Host) -> anyhow::Result<Launch<'a>> {
    let directory = std::env::var_os("WEFT_PROGRAMS").map(PathBuf::from);
    let programs = programs(directory.as_deref())?;
    let launch = host.launch("weft", programs.find("weft")?);
    Ok(match directory {
        Some(directory) => launch.env("WEFT_PROGRAMS", directory),
        None => launch,
    })
}

fn a_demo_with_a_stopped_proxy_fails(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("terminal")?;
    let demo = weft(&host)?.args(["demo", "--plain", "--without-proxy", "intruder"]);
    let ended = demo.finish(Duration::from_secs(170))?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(ended.status.code() == Some(1), "{}: {said}\n{}", ended.status, ended.stderr);
    // The intruder takes part in one step only; no other holds without its figures either.
    ensure!(said.contains("8 of 8 steps did not hold"), "{said}");
    ensure!(said.contains("scraping the proxy of intruder"), "{said}");
    Ok(())
}

fn an_interrupted_demo_leaves_nothing(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("terminal")?;
    let place = scene.world.directory().join("temporary");
    std::fs::create_dir(&place).context("a directory for temporary files")?;
    let mut demo = weft(&host)?.args(["demo", "--plain"]).env("TMPDIR", &place).start()?;
    demo.wait_for_log("real orders flow", WITHIN)?;
    demo.signal(nix::sys::signal::Signal::SIGINT)?;
    let ended = demo.wait(Duration::from_secs(20))?;
    ensure!(ended.code() == Some(130), "{ended}: {}", demo.log());
    let left = std::fs::read_dir(&place)?.count();
    ensure!(left == 0, "{left} files are left: {}", demo.log());
    let id = demo.id().to_string();
    wait_for("the end of all that it started", WITHIN, || (!has_children(&id)).then_some(()))
}

/// Whether a process has one that it started.
fn has_children(id: &str) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).is_some_and(|parent| parent == id)
    })
}

fn status_and_token(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    settled(&mesh)?;
    let host = mesh.control().host();
    let status = weft(host)?.arg("status").finish(COMMAND)?.success()?;
    ensure!(status.contains("Service test/server") && status.contains("2 proxies connected"), "{status}");
    let nobody = weft(host)?.args(["status", "--admin", "127.0.0.1:1"]).finish(COMMAND)?;
    ensure!(nobody.status.code() == Some(69) && nobody.stderr.contains("127.0.0.1:1"), "{nobody:?}");

    let token = || weft(host).map(|weft| weft.args(["token", "create", "--namespace", "test", "--ca-dir"]));
    let minted = token()?.arg(&mesh.control().directories().authority).finish(COMMAND)?.success()?;
    ensure!(minted.starts_with("weft-join-1~") && minted.contains("/ns/test/sa/default~"), "{minted}");
    let missing = token()?.arg("/no/such/directory").finish(COMMAND)?;
    ensure!(missing.status.code() == Some(64) && missing.stderr.contains("/no/such/directory"), "{missing:?}");
    Ok(())
}

fn settled(mesh: &Mesh<'_>) -> anyhow::Result<()> {
    wait_for("the mesh to settle", WITHIN, || mesh.control().status().ok().filter(|it| it.is_settled()).map(drop))
}
