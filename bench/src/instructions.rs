//! Instructions per request, counted by callgrind: the one figure that no machine's mood changes. A program runs some fifty times slower
//! below it, so that it is asked little, in a world of its own. What the kernel does for it is not counted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh;
use weft_cli::world::World;

use crate::contestant::{Contestant, Stage};
use crate::figure::Figure;
use crate::load::{float, requests};
use crate::programs::Programs;
use crate::server::{GRPC_PORT, HTTP1_PORT, HTTP2_PORT};

/// Requests before it is counted: connections are made, and what is learned at first is known.
const RUN_IN: u64 = 400;

/// How long a dump takes at most.
const DUMP_WITHIN: Duration = Duration::from_secs(20);

/// Measures a pair with each protocol that it speaks.
pub(crate) fn measure(
    world: &World,
    programs: &Programs,
    contestant: Contestant,
    requests: u64,
) -> anyhow::Result<Vec<(Figure, f64)>> {
    let directory = tempfile::Builder::new().prefix("weft-callgrind-").tempdir().context("making a directory")?;
    // The proxies run as another user and write here.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
    let stage = Stage::open(world, contestant, &below_callgrind(programs, directory.path())?)?;
    let ports = [
        (HTTP1_PORT, Figure::Http1Instructions),
        (HTTP2_PORT, Figure::Http2Instructions),
        (GRPC_PORT, Figure::GrpcInstructions),
    ];
    let spoken = ports.into_iter().filter(|(port, _)| contestant.speaks(*port));
    spoken.map(|(port, figure)| Ok((figure, count(&stage, directory.path(), port, requests)?))).collect()
}

/// Instructions that both proxies of a pair spend on a request.
fn count(stage: &Stage<'_>, directory: &Path, port: u16, requests: u64) -> anyhow::Result<f64> {
    requests::exactly(stage, port, RUN_IN)?;
    let proxies = stage.proxies()?;
    for proxy in proxies {
        control(stage, "--zero", proxy)?;
    }
    requests::exactly(stage, port, requests)?;
    let mut total = 0;
    for proxy in proxies {
        let before = dumps(directory, proxy)?.len();
        control(stage, "--dump", proxy)?;
        let file = || dumps(directory, proxy).ok().filter(|dumps| dumps.len() > before).and_then(|mut all| all.pop());
        crate::kernel::until("a dump of callgrind", DUMP_WITHIN, || {
            file().is_some_and(|file| total_of(&file).is_ok())
        })?;
        total += total_of(&file().context("a dump went away")?)?;
    }
    Ok(float(total) / float(requests))
}

fn control(stage: &Stage<'_>, what: &str, proxy: u32) -> anyhow::Result<()> {
    let id = proxy.to_string();
    let mut control = stage.client().launch("callgrind_control", "callgrind_control").args([what, &id]).start()?;
    control.wait(DUMP_WITHIN).context("callgrind_control (Debian: valgrind)")?;
    let said = control.log();
    ensure!(said.contains("OK."), "{said}");
    Ok(())
}

/// What callgrind has dumped of a process, in its order.
fn dumps(directory: &Path, process: u32) -> anyhow::Result<Vec<PathBuf>> {
    let prefix = format!("callgrind.{process}.");
    let names = fs::read_dir(directory)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let number = |name: &str| name.strip_prefix(&prefix).and_then(|number| number.parse::<u32>().ok());
    let mut found: Vec<(u32, PathBuf)> =
        names.filter_map(|name| Some((number(&name)?, directory.join(name)))).collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The line `totals: 123456` at the end of a dump.
fn total_of(dump: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(dump).with_context(|| format!("reading {}", dump.display()))?;
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    line.and_then(|total| total.trim().parse().ok()).with_context(|| format!("no totals in {}", dump.display()))
}

/// The same programs, each started by way of callgrind.
fn below_callgrind(programs: &Programs, directory: &Path) -> anyhow::Result<Programs> {
    let wrap = |name: &str, program: &Path| -> anyhow::Result<PathBuf> {
        let script = directory.join(name);
        // Where it was built only its owner may go.
        let copy = directory.join(format!("{name}.program"));
        fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
        let out = directory.join("callgrind.%p");
        let text = format!(
            "#!/bin/sh\nexec valgrind --quiet --tool=callgrind --callgrind-out-file='{}' '{}' \"$@\"\n",
            out.display(),
            copy.display()
        );
        fs::write(&script, text).with_context(|| format!("writing {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    };
    let proxy = wrap("weft-proxy", &programs.proxy)?;
    let control_plane = programs.mesh.find("weft-control-plane")?;
    std::os::unix::fs::symlink(control_plane, directory.join("weft-control-plane")).context("linking a program")?;
    Ok(Programs {
        envoy: wrap("envoy", &programs.envoy)?,
        forwarder: wrap("weft-bench-forwarder", &programs.forwarder)?,
        proxy,
        mesh: mesh::programs::Programs::of(directory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dump_of_a_process_is_found_and_read() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["callgrind.7.9", "callgrind.7.10", "callgrind.77.1", "callgrind.7"] {
            fs::write(directory.path().join(name), "fn=(1)\n1 2\ntotals: 41\n").unwrap();
        }
        let dumps = dumps(directory.path(), 7).unwrap();
        assert_eq!(dumps.len(), 2);
        assert!(dumps[1].ends_with("callgrind.7.10"));
        assert_eq!(total_of(&dumps[1]).unwrap(), 41);
        fs::write(&dumps[1], "fn=(1)\n1 2\n").unwrap();
        assert!(total_of(&dumps[1]).is_err(), "it is still being written");
    }
}
