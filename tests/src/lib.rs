//! Whole-system tests and their harness: real processes in real network namespaces.
//!
//! A test here is a [`Case`]: a function that gets a fresh [`Scene`] for each family of addresses. It may do what it likes with the
//! scene's world; everything is gone when it returns, and when it fails the logs of all its processes are part of the failure.

pub mod echo;
pub mod flood;
pub mod memory;
pub mod stage;
pub mod steady;

use std::any::Any;
use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::available_parallelism;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_cli::world::{self, Family, Privilege, World};

/// Lines of each log that a failure shows.
const LOG_LINES: usize = 60;

/// Scenes that play at once on each core where the command line names no number: most of them wait for most of their time. On 2
/// cores the whole program takes 600 s with one for each core and 156 s with three.
const SCENES_PER_CORE: usize = 3;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The claim, in the words of a test's name.
    pub name: &'static str,
    /// What it may take at most; past that it has failed.
    pub within: Duration,
    /// What is done and asserted.
    pub body: fn(&Scene) -> anyhow::Result<()>,
}

impl Case {
    /// A scenario that takes seconds.
    pub const fn new(name: &'static str, body: fn(&Scene) -> anyhow::Result<()>) -> Self {
        Self { name, within: Duration::from_secs(60), body }
    }

    /// Gives the scenario more time.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// What a case plays in.
#[derive(Debug)]
pub struct Scene {
    /// An empty world of its own.
    pub world: World,
    /// The family of addresses that this run is about.
    pub family: Family,
}

/// The `main` of a test program: runs the cases in both families, as the arguments of `cargo test` say.
pub fn main(cases: &[Case]) -> ExitCode {
    if let Some(code) = world::run_internal() {
        return code;
    }
    // Before any thread is started. Where it fails, each test fails with the reason.
    let privilege = world::enter().map_err(|error| format!("{error:#}"));
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        arguments.test_threads = available_parallelism().ok().map(|cores| cores.get() * SCENES_PER_CORE);
    }
    let mut cases = cases.to_vec();
    // Those that may take longest begin first, so that none of them is left to run alone.
    cases.sort_by_key(|case| Reverse(case.within));
    let mut trials = Vec::new();
    for case in cases {
        for family in [Family::V4, Family::V6] {
            let privilege = privilege.clone();
            trials.push(Trial::test(format!("{}::{family}", case.name), move || play(case, family, privilege?)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn play(case: Case, family: Family, privilege: Privilege) -> Result<(), Failed> {
    let world = World::new(privilege).map_err(|error| format!("{error:#}"))?;
    let scene = Arc::new(Scene { world, family });
    let (done, result) = sync_channel(1);
    let player = Arc::clone(&scene);
    std::thread::Builder::new()
        .name(case.name.to_owned())
        .spawn(move || {
            let played = catch_unwind(AssertUnwindSafe(|| (case.body)(&player)));
            drop(player);
            // Too late for the answer to be wanted: the time limit has told already.
            drop(done.send(played));
        })
        .map_err(|error| format!("starting a thread: {error}"))?;
    let failure = match result.recv_timeout(case.within) {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(error))) => format!("{error:?}"),
        Ok(Err(panic)) => format!("panicked: {}", message(panic.as_ref())),
        Err(_) => format!("not done within {:?}", case.within),
    };
    Err(format!("{failure}\n{}", scene.world.logs(LOG_LINES)).into())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("not with a text")
}
