//! `cargo xtask test`: everything CI runs, as a table of steps.
//!
//! Every step is run, also after a failure, so that one run tells all that is wrong; `--fail-fast` stops at the first. A step
//! that cannot run has failed, and says what it lacks.

mod fuzz;
mod programs;
mod steps;
mod unprivileged;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::workspace::Workspace;

/// One part of the run.
struct Step {
    /// What `--only` takes.
    name: &'static str,
    /// What it needs of the machine, beyond Rust and a C compiler.
    needs: &'static str,
    /// What it claims when it passes.
    claim: &'static str,
    run: fn(&Workspace) -> anyhow::Result<()>,
}

/// What came of one step.
struct Outcome {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request<'a> {
    only: Vec<&'a str>,
    fail_fast: bool,
    list: bool,
}

/// Runs the steps that were asked for and sums up.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    let request = parse(words)?;
    if request.list {
        for Step { name, needs, claim, .. } in steps::ALL {
            println!("{name:<20} {claim}; needs {needs}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::open()?;
    let wanted = |step: &&Step| request.only.is_empty() || request.only.contains(&step.name);
    let mut outcomes = Vec::new();
    for step in steps::ALL.iter().filter(wanted) {
        let outcome = run_step(step, &workspace);
        let stop = request.fail_fast && outcome.failure.is_some();
        outcomes.push(outcome);
        if stop {
            break;
        }
    }
    Ok(sum_up(&outcomes))
}

fn parse<'a>(words: &[&'a str]) -> anyhow::Result<Request<'a>> {
    let mut request = Request::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--fail-fast" => request.fail_fast = true,
            "--list" => request.list = true,
            "--only" => match words.next() {
                Some(name) if steps::ALL.iter().any(|step| step.name == *name) => request.only.push(name),
                Some(name) => bail!("no step is named {name:?}; --list names them"),
                None => bail!("--only takes the name of a step; --list names them"),
            },
            other => bail!("{other:?}: expected --only NAME, --fail-fast or --list"),
        }
    }
    Ok(request)
}

#[expect(clippy::disallowed_methods, reason = "the time a step takes is real time")]
fn run_step(step: &Step, workspace: &Workspace) -> Outcome {
    println!("\n== {}: {}", step.name, step.claim);
    let begun = Instant::now();
    let failure = (step.run)(workspace).err().map(|error| format!("{error:#}"));
    let took = begun.elapsed();
    match &failure {
        None => println!("== {}: ok, {:.1} s", step.name, took.as_secs_f64()),
        Some(reason) => println!("== {}: FAILED after {:.1} s: {reason}", step.name, took.as_secs_f64()),
    }
    Outcome { name: step.name, took, failure }
}

fn sum_up(outcomes: &[Outcome]) -> ExitCode {
    println!("\n== summary");
    for Outcome { name, took, failure } in outcomes {
        let verdict = if failure.is_none() { "ok" } else { "FAILED" };
        println!("{name:<20} {verdict:<6} {:>7.1} s", took.as_secs_f64());
    }
    for Outcome { name, failure, .. } in outcomes {
        if let Some(reason) = failure {
            println!("{name}: {reason}");
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    // A run of nothing has shown nothing.
    if failed > 0 || outcomes.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_chosen_by_name() {
        let want = Request { only: vec!["fmt", "tidy"], fail_fast: true, list: false };
        assert_eq!(parse(&["--only", "fmt", "--fail-fast", "--only", "tidy"]).unwrap(), want);
    }

    #[test]
    fn a_step_that_does_not_exist_is_refused() {
        for words in [["--only", "fnt"].as_slice(), &["--only"], &["fmt"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn names_of_steps_are_unique() {
        let mut names: Vec<_> = steps::ALL.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), steps::ALL.len());
    }
}
