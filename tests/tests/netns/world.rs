//! The worlds that all other scenarios play in: they join what should be joined, and leave nothing behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use weft_cli::world::{Family, PROXY_USER, wait_for};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("world::two_hosts_talk", two_hosts_talk),
    Case::new("world::hosts_are_apart", hosts_are_apart),
    Case::new("world::an_address_that_nobody_has_is_routed_to_the_fabric", an_unowned_address_is_routed),
    Case::new("world::a_future_runs_inside_a_host", a_future_runs_inside_a_host),
    Case::new("world::an_unplugged_host_is_silent", an_unplugged_host_is_silent),
    Case::new("world::a_process_lives_in_its_host", a_process_lives_in_its_host),
    Case::new("world::a_process_dies_with_its_group", a_process_dies_with_its_group),
    Case::new("world::a_program_that_is_missing_says_so", a_missing_program_says_so),
    Case::new("world::another_user_has_no_rights", another_user_has_no_rights),
    Case::new("world::processes_die_with_the_world", processes_die_with_the_world),
];

const SOON: Duration = Duration::from_secs(5);

fn two_hosts_talk(scene: &Scene) -> anyhow::Result<()> {
    let (client, server) = (scene.world.host("client")?, scene.world.host("server")?);
    let listener = server.listen(server.socket(scene.family, 0))?;
    let mut sent = client.connect(listener.local_addr()?, SOON)?;
    let (mut received, peer) = listener.accept()?;
    assert_eq!(peer.ip(), client.address(scene.family));
    sent.write_all(b"ping")?;
    sent.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    received.read_to_string(&mut text)?;
    assert_eq!(text, "ping");
    received.write_all(b"pong")?;
    drop(received);
    sent.read_to_string(&mut text)?;
    assert_eq!(text, "pingpong");
    Ok(())
}

fn hosts_are_apart(scene: &Scene) -> anyhow::Result<()> {
    let (one, other) = (scene.world.host("one")?, scene.world.host("other")?);
    // The same port on both, and the loopback of one is not the other's.
    let first = one.listen(one.socket(scene.family, 7000))?;
    let second = other.listen(other.socket(scene.family, 7000))?;
    assert_ne!(first.local_addr()?, second.local_addr()?);
    let loopback: SocketAddr = if scene.family == Family::V4 { "127.0.0.1:7001" } else { "[::1]:7001" }.parse()?;
    let _here = one.listen(loopback)?;
    assert!(one.connect(loopback, SOON).is_ok());
    assert!(other.connect(loopback, SOON).is_err());
    Ok(())
}

fn an_unowned_address_is_routed(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("client")?;
    let service: SocketAddr = if scene.family == Family::V4 { "10.96.0.10:80" } else { "[fd96::10]:80" }.parse()?;
    let result = host.connect(service, Duration::from_millis(300)).map_err(|error| format!("{error:#}"));
    // Neither "unreachable" nor an answer: it left, and nobody was there.
    assert!(result.as_ref().is_err_and(|error| error.contains("timed out")), "{result:?}");
    Ok(())
}

fn a_future_runs_inside_a_host(scene: &Scene) -> anyhow::Result<()> {
    let (client, server) = (scene.world.host("client")?, scene.world.host("server")?);
    let listener = server.listen(server.socket(scene.family, 0))?;
    let to = listener.local_addr()?;
    let local = client.block_on(|| async move {
        tokio::net::TcpStream::connect(to).await.and_then(|stream| stream.local_addr())
    })??;
    assert_eq!(local.ip(), client.address(scene.family));
    Ok(())
}

fn an_unplugged_host_is_silent(scene: &Scene) -> anyhow::Result<()> {
    let (client, server) = (scene.world.host("client")?, scene.world.host("server")?);
    let listener = server.listen(server.socket(scene.family, 0))?;
    let to = listener.local_addr()?;
    client.connect(to, SOON)?;
    server.unplug(true)?;
    assert!(client.connect(to, Duration::from_millis(300)).is_err());
    server.unplug(false)?;
    client.connect(to, SOON).map(drop)
}

fn a_process_lives_in_its_host(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("worker")?;
    let ours = host.run(|| fs::read_link("/proc/thread-self/ns/net"))??;
    let said = host.launch("where", "readlink").arg("/proc/self/ns/net").finish(SOON)?.success()?;
    assert_eq!(Path::new(said.trim()), ours);
    let variable =
        host.launch("env", "sh").args(["-c", "echo $GREETING"]).env("GREETING", "hello").directory("/").finish(SOON)?;
    assert_eq!(variable.success()?.trim(), "hello");
    Ok(())
}

fn a_process_dies_with_its_group(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("worker")?;
    let mut shell = host.launch("shell", "sh").args(["-c", "sleep 600 & echo child $!; wait"]).start()?;
    shell.wait_for_log("child ", SOON)?;
    let child = shell.log().split_whitespace().nth(1).context("no number")?.to_owned();
    assert!(Path::new("/proc").join(&child).exists());
    shell.signal(Signal::SIGTERM)?;
    assert!(!shell.wait(SOON)?.success());
    wait_for("the end of the shell's child", SOON, || ended(&child).then_some(()))
}

fn a_missing_program_says_so(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("worker")?;
    let finished = host.launch("nothing", "/no/such/program").finish(SOON)?;
    assert_eq!(finished.status.code(), Some(126));
    assert!(finished.stderr.contains("opening /no/such/program"), "{}", finished.stderr);
    Ok(())
}

fn another_user_has_no_rights(scene: &Scene) -> anyhow::Result<()> {
    let host = scene.world.host("worker")?;
    let finished =
        host.launch("id", "sh").args(["-c", "id -u; grep CapEff /proc/self/status"]).user(PROXY_USER).finish(SOON)?;
    if scene.world.privilege().is_user_namespace() {
        // There is no other user here; better nothing at all than the wrong one.
        ensure!(finished.status.code() == Some(126), "started all the same: {finished:?}");
        return Ok(());
    }
    let said = finished.success()?;
    assert!(said.starts_with("2140\n") && said.contains("0000000000000000"), "{said}");
    Ok(())
}

fn processes_die_with_the_world(scene: &Scene) -> anyhow::Result<()> {
    let world = weft_cli::world::World::new(scene.world.privilege())?;
    let host = world.host("worker")?;
    let process = host.launch("sleep", "sleep").arg("600").start()?;
    let (id, directory) = (process.id().to_string(), world.directory().to_owned());
    // As in a crash: nobody kills the process, the threads just end.
    drop((host, world));
    wait_for("the end of the process", SOON, || ended(&id).then_some(()))?;
    drop(process);
    assert!(!directory.exists());
    Ok(())
}

/// Whether a process is gone, or dead and waiting to be asked for.
fn ended(id: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(id).join("stat"));
    stat.map_or(true, |text| text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}
