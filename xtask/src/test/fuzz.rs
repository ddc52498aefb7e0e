//! Fuzzing: every target of `fuzz/` replays its corpus, then runs for 30 s.
//!
//! cargo-fuzz is not needed: the instrumentation is a set of compiler flags, which stable Rust takes with `RUSTC_BOOTSTRAP=1`.
//! Our code has no `unsafe`, so no address sanitizer either: panics, hangs and memory are what is looked for.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

use super::programs;
use crate::workspace::{Output, TRIPLE, Workspace, describe};

/// The flags that cargo-fuzz gives, without those of the sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// Two at a time, for two cores.
const AT_ONCE: usize = 2;

/// What a single input may take before it counts as a hang.
const SECONDS_PER_INPUT: &str = "-timeout=5";

/// Replays and runs every target.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let directory = workspace.root.join("fuzz");
    if !directory.join("Cargo.toml").is_file() {
        bail!("{} does not exist", directory.join("Cargo.toml").display());
    }
    workspace.claim(Output::Fuzz)?;
    let mut cargo = workspace.cargo_fuzz();
    cargo
        .args(["build", "--release", "--bins", "--target", TRIPLE])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS);
    let targets = programs::executables(&mut cargo)?;
    let work = workspace.programs().join("fuzz-work");
    for pair in targets.chunks(AT_ONCE) {
        let children =
            pair.iter().map(|target| Fuzzer::start(target, &directory, &work)).collect::<anyhow::Result<Vec<_>>>()?;
        for child in children {
            child.finish()?;
        }
    }
    println!("{} targets replayed and run", targets.len());
    Ok(())
}

/// One target at work; killed when dropped early.
struct Fuzzer {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Fuzzer {
    fn start(target: &Path, directory: &Path, work: &Path) -> anyhow::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let corpus = directory.join("corpus").join(&name);
        if !corpus.is_dir() {
            bail!("{name} has no corpus: {} does not exist", corpus.display());
        }
        replay(target, &corpus)?;
        // What the run finds goes to a directory of its own: the corpus in the repository grows by hand only.
        let found = work.join(&name);
        fs::create_dir_all(&found).with_context(|| format!("creating {}", found.display()))?;
        let log = work.join(format!("{name}.log"));
        let file = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(target);
        command.args(["-max_total_time=30", "-rss_limit_mb=1024", SECONDS_PER_INPUT]);
        command.arg(format!("-artifact_prefix={}/", work.display())).arg(&found).arg(&corpus);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", describe(&command)))?;
        Ok(Self { name, child, log })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        if !status.success() {
            for line in lines.iter().skip(lines.len().saturating_sub(40)) {
                println!("{line}");
            }
            bail!("{}: {status}; the whole output is in {}", self.name, self.log.display());
        }
        println!("{}: {}", self.name, lines.last().unwrap_or(&"no output"));
        Ok(())
    }
}

impl Drop for Fuzzer {
    fn drop(&mut self) {
        // Already gone after `finish`; a failure to kill it then says just that.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) && self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

fn replay(target: &Path, corpus: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(target);
    command.args(["-runs=0", SECONDS_PER_INPUT]).arg(corpus).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("starting {}", describe(&command)))?;
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("{}: {}", describe(&command), output.status);
    }
    Ok(())
}
