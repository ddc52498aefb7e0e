//! `cargo xtask bench`: Weft beside its peers, in one run, on one machine.
//!
//! Every pair of proxies lives in a world of its own, all at once, and only one is under load at any time. A round measures one
//! figure of every contestant, one after the other, and rounds are repeated: so what the machine does meanwhile does to all
//! alike, and ratios hold where absolute figures do not. The xtask builds what is measured and hands it over by name.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal")]

mod claim;
mod cluster;
mod contestant;
mod figure;
mod fleet;
mod kernel;
mod load;
mod overload;
mod plan;
mod programs;
mod report;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use weft_cli::world::{self, Privilege, World, interrupt};

use crate::contestant::{Contestant, Stage};
use crate::figure::Figures;
use crate::kernel::Core;
use crate::plan::{Plan, Round};
use crate::programs::Programs;
use crate::report::Report;

/// Measures pairs of proxies side by side: Weft, Envoy, bare forwarders, and no proxy at all.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", max_term_width = 100)]
struct Args {
    /// How often each figure is measured.
    #[arg(long, default_value_t = 3, value_name = "N")]
    repetitions: u32,
    /// How long each measurement lasts, in seconds.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    seconds: u32,
    /// One round of one second of everything, to see that all of it works; its figures mean little.
    #[arg(long)]
    smoke: bool,
    /// Only these rounds.
    #[arg(long, value_name = "ROUND", value_enum)]
    only: Vec<Round>,
    /// Only these pairs.
    #[arg(long, value_name = "PAIR", value_enum)]
    of: Vec<Contestant>,
    /// Writes all samples to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the figures into a file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The proxy that is measured.
    #[arg(long, value_name = "FILE")]
    proxy: PathBuf,
    /// The control plane that is measured.
    #[arg(long, value_name = "FILE")]
    control_plane: PathBuf,
    /// The bare forwarder.
    #[arg(long, value_name = "FILE")]
    forwarder: PathBuf,
    /// Envoy.
    #[arg(long, value_name = "FILE")]
    envoy: PathBuf,
}

fn main() -> ExitCode {
    if let Some(code) = world::run_internal() {
        return code;
    }
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "kubernetes") {
        return cluster::run(words);
    }
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: something could not be measured.
fn run(args: &Args) -> anyhow::Result<bool> {
    let privilege = world::enter()?;
    anyhow::ensure!(
        !privilege.is_user_namespace(),
        "the peers' redirect knows proxies by their user id: run it as root"
    );
    kernel::raise_descriptor_limit()?;
    kernel::pin_self(Core::Load)?;
    let interrupted = tokio_interrupt()?;
    let links = tempfile::Builder::new().prefix("weft-bench-").tempdir().context("making a directory")?;
    let programs = programs(args, links.path())?;
    let plan = Plan::new(args.repetitions, args.seconds, args.smoke, &args.only);
    let mut figures = Figures::default();
    pairs(privilege, &plan, &args.of, &programs, &mut figures)?;
    plan.run_overload(privilege, &programs, &mut figures)?;
    plan.run_fleets(privilege, &programs, &mut figures)?;
    drop(interrupted);
    let report = Report::new(&plan, &figures);
    print!("{}", report.table());
    for (file, text) in [(&args.json, report.json()), (&args.svg, report.svg())] {
        if let Some(path) = file {
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(figures.missing().is_empty())
}

/// Starts all pairs, where the plan has anything for them, and measures them.
fn pairs(
    privilege: Privilege,
    plan: &Plan,
    of: &[Contestant],
    programs: &Programs,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    if !plan.has_pairs() {
        return Ok(());
    }
    let wanted = |contestant: &Contestant| of.is_empty() || of.contains(contestant);
    let contestants: Vec<Contestant> = Contestant::ALL.into_iter().filter(wanted).collect();
    let worlds = contestants.iter().map(|_| World::new(privilege)).collect::<Result<Vec<_>, _>>()?;
    let mut stages = Vec::new();
    for (contestant, world) in contestants.into_iter().zip(&worlds) {
        eprintln!("starting: {}", contestant.title());
        match Stage::open(world, contestant, programs) {
            Ok(stage) => stages.push(stage),
            Err(error) => {
                eprintln!("{}", world.logs(20));
                figures.miss("starting", contestant.title(), &error);
            }
        }
    }
    plan.run(&mut stages, programs, figures)
}

/// Has Ctrl-C end the waits of the rig, so that all that was started ends with it.
fn tokio_interrupt() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn_blocking(|| ());
    let handle = runtime.handle().clone();
    handle.spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt();
        }
    });
    Ok(runtime)
}

/// The mesh's programs are looked for side by side: links put them there, whichever builds they are of.
fn programs(args: &Args, links: &Path) -> anyhow::Result<Programs> {
    for (name, program) in [("weft-proxy", &args.proxy), ("weft-control-plane", &args.control_plane)] {
        std::os::unix::fs::symlink(program, links.join(name)).context("linking a program")?;
    }
    let mesh = weft_cli::mesh::programs::Programs::of(links);
    let (envoy, forwarder, proxy) = (args.envoy.clone(), args.forwarder.clone(), args.proxy.clone());
    Ok(Programs { envoy, forwarder, proxy, mesh })
}
