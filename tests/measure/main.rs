//! Measures the mesh with real processes in network namespaces: prints each figure beside its limit, and fails where one is
//! missing or beyond it. `cargo xtask measure` builds and starts it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod bench;
mod clients;
mod figures;
mod floods;
mod proc;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use weft_cli::mesh::programs::Programs;
use weft_cli::world::{self, World};

use crate::figures::{Figures, Limit};

const HELP: &str = "Usage: measure [--floods] [--proxy FILE]\n";

/// Lines of each log that a failure shows.
const LOG_LINES: usize = 10;

fn main() -> ExitCode {
    if let Some(code) = world::run_internal() {
        return code;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let Selected { scenarios, proxy } = selected()?;
    let privilege = world::enter()?;
    proc::raise_descriptor_limit()?;
    let directory = chosen(proxy.as_deref())?;
    let mut figures = Figures::default();
    figures.add("binary, stripped", "MiB", Limit::None, proc::stripped_mb(&directory.path().join("weft-proxy")));
    for scenario in scenarios {
        eprintln!("measuring: {}", scenario.name);
        // A world each: what one leaves in pools, tables and allocators is no part of the next.
        let world = World::new(privilege)?;
        let measured = bench::Bench::open(&world, &Programs::of(directory.path()))
            .and_then(|mut bench| (scenario.run)(&mut bench, &mut figures));
        if let Err(error) = measured {
            eprintln!("{}: {error:#}\n{}", scenario.name, world.logs(LOG_LINES));
            figures.add(scenario.name, "", Limit::None, Err(error));
        }
    }
    print!("{}", figures.table());
    Ok(figures.hold())
}

/// What is measured.
struct Selected {
    scenarios: &'static [bench::Scenario],
    /// Where it is not the one that lies beside.
    proxy: Option<PathBuf>,
}

fn selected() -> anyhow::Result<Selected> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (scenarios, rest) = match args.as_slice() {
        ["--floods", rest @ ..] => (floods::SCENARIOS, rest),
        rest => (bench::SCENARIOS, rest),
    };
    match rest {
        [] => Ok(Selected { scenarios, proxy: None }),
        ["--proxy", file] => Ok(Selected { scenarios, proxy: Some(PathBuf::from(file)) }),
        _ => bail!("{HELP}"),
    }
}

/// A directory of links to the programs: the proxy may be of another profile than the rest.
fn chosen(proxy: Option<&std::path::Path>) -> anyhow::Result<tempfile::TempDir> {
    let beside = Programs::beside()?;
    let proxy = proxy.map_or_else(|| beside.find("weft-proxy"), |file| Ok(file.to_owned()))?;
    let directory = tempfile::Builder::new().prefix("weft-measure-").tempdir().context("making a directory")?;
    for (name, program) in [("weft-proxy", proxy), ("weft-control-plane", beside.find("weft-control-plane")?)] {
        std::os::unix::fs::symlink(&program, directory.path().join(name)).context("linking a program")?;
    }
    Ok(directory)
}
