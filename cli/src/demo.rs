//! `weft demo`: a small shop in a mesh on this machine, shown step by step.
//!
//! It makes claims and proves each by figures that the proxies themselves gave at `/metrics`; a proxy that does not answer fails
//! the step. What it makes is in network namespaces of this process and in one directory, and goes with it.

mod forward;
mod screen;
mod shop;
mod steps;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use weft_runtime::signal::Signals;

use self::screen::Screen;
use self::shop::Shop;
use crate::command::{Ends as _, Exit};
use crate::mesh;
use crate::world::{self, Interrupted, Privilege, Stopwatch, World};

/// Lines of logs that are shown where a step does not hold.
const LOG_LINES_MAX: usize = 40;

/// Flags of `weft demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave the mesh running after the last step, print where to look, and end with Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Print lines as they come, as a log: no colours, nothing overwritten.
    #[arg(long)]
    plain: bool,
    /// Where weft-proxy, weft-control-plane and the shop's programs lie (default: beside this program).
    #[arg(long, env = "WEFT_PROGRAMS", value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Stop the proxy of this workload before the first step: a demo that held all the same would prove nothing.
    #[arg(long, value_name = "WORKLOAD", hide = true)]
    without_proxy: Option<String>,
}

/// What came of a step.
struct Outcome {
    title: &'static str,
    took: Duration,
    /// The figures, or why it does not hold.
    result: Result<String, String>,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let mut screen = Screen::new(options.plain);
    screen.say("weft demo: a shop in a mesh, in network namespaces of this process");
    // While there is one thread.
    let privilege = world::enter().ends(Exit::NoPermission)?;
    watch_signals()?;
    let ended = play(options, privilege, &mut screen);
    if world::is_interrupted() {
        screen.say("interrupted: everything is removed");
    }
    ended
}

fn play(options: &Options, privilege: Privilege, screen: &mut Screen) -> anyhow::Result<Exit> {
    let how = if privilege.is_user_namespace() { "in a user namespace" } else { "as root" };
    screen.say(&format!("running {how}"));
    let world = World::new(privilege)?;
    let programs = mesh::programs(options.programs.as_deref())?;
    let watch = Stopwatch::start();
    let opened = Shop::open(&world, &programs, screen);
    let mut shop = opened.map_err(|error| with_logs(&world, error))?;
    screen.say(&format!(
        "{} workloads are meshed after {:.1} s",
        shop.mesh().workloads().count(),
        watch.elapsed().as_secs_f64()
    ));
    if let Some(name) = &options.without_proxy {
        shop.mesh_mut().workload_mut(name).ends(Exit::Usage)?.kill_proxy()?;
        screen.say(&format!("the proxy of {name} was stopped, as asked"));
    }
    let outcomes = play_steps(&mut shop, screen)?;
    let held = sum_up(&outcomes, screen);
    if !held {
        screen.log(&grave(&world.logs(400)));
    }
    if options.keep {
        keep(&shop, screen)?;
    }
    Ok(if held { Exit::Done } else { Exit::Failed })
}

/// The lines of logs that somebody should look at; the rest is told by the summary.
fn grave(logs: &str) -> String {
    let grave =
        logs.lines().filter(|line| line.contains("ERROR") || line.contains("WARN") || line.contains("panicked"));
    let lines: Vec<&str> = grave.collect();
    let first = lines.len().saturating_sub(LOG_LINES_MAX);
    lines.get(first..).unwrap_or_default().join("\n")
}

fn with_logs(world: &World, error: anyhow::Error) -> anyhow::Error {
    if error.is::<Interrupted>() {
        error
    } else {
        error.context(format!("{}\nthe shop could not be opened", world.logs(15)))
    }
}

fn play_steps(shop: &mut Shop<'_>, screen: &mut Screen) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (number, step) in steps::ALL.iter().enumerate() {
        screen.begin(&format!("{}/{} {}", number + 1, steps::ALL.len(), step.title));
        let watch = Stopwatch::start();
        let result = match (step.run)(shop, screen) {
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => Err(format!("{error:#}")),
            Ok(figures) => Ok(figures),
        };
        screen.end(&result);
        outcomes.push(Outcome { title: step.title, took: watch.elapsed(), result });
    }
    Ok(outcomes)
}

/// Prints the table; returns whether every step held.
fn sum_up(outcomes: &[Outcome], screen: &mut Screen) -> bool {
    screen.headline("summary");
    for Outcome { title, took, result } in outcomes {
        screen.row(title, *took, result);
    }
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    match failed {
        0 => screen.say("every step held"),
        _ => screen.say(&format!("{failed} of {} steps did not hold", outcomes.len())),
    }
    failed == 0 && !outcomes.is_empty()
}

/// Prints where to look and waits for Ctrl-C.
fn keep(shop: &Shop<'_>, screen: &mut Screen) -> anyhow::Result<()> {
    screen.headline("running until Ctrl-C");
    for line in forward::open(shop)? {
        screen.say(&line);
    }
    loop {
        match world::pause(Duration::from_secs(3600)) {
            Err(error) if error.is::<Interrupted>() => return Ok(()),
            other => other?,
        }
    }
}

/// From here on the first Ctrl-C ends all waits and has everything removed, and the second ends the process as it is: the kernel
/// then ends what it started.
fn watch_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("building a runtime")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::install().context("watching for Ctrl-C")?
    };
    let watcher = std::thread::Builder::new().name("signals".to_owned());
    let watching = move || {
        runtime.block_on(async {
            signals.next().await;
            world::interrupt();
            signals.next().await;
        });
        exit();
    };
    watcher.spawn(watching).context("starting a thread").map(drop)
}

#[expect(clippy::exit, reason = "somebody asked twice")]
fn exit() -> ! {
    std::process::exit(Exit::Interrupted as i32)
}
