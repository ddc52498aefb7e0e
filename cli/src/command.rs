//! The commands, from what was typed to the exit code.

mod check;
mod inject;
mod install;
mod status;
mod token;
mod uninstall;
mod upgrade;

use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo;
use crate::world::{self, Interrupted};

/// Weft, a sidecar service mesh: what people type.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find out what is wrong with an installation, or with a cluster before it, and what to do about it.
    Check(check::Options),
    /// Show the mesh on one machine: a small shop, step by step, with live figures.
    Demo(demo::Options),
    /// Add the proxy to workloads in YAML files, as the webhook does to pods.
    Inject(inject::Options),
    /// Print what is installed on a Kubernetes cluster, for `kubectl apply`.
    Install(install::Options),
    /// Show how every resource stands: accepted or why not, and how many proxies run it.
    Status(status::Options),
    /// Join tokens: the first proof of a machine that has no Kubernetes.
    #[command(subcommand)]
    Token(token::Command),
    /// Print what an uninstallation deletes, for `kubectl delete`, and say what stays.
    Uninstall(uninstall::Options),
    /// Print this version with what was set before, for `kubectl apply`; or restart workloads so that they get its proxy.
    Upgrade(upgrade::Options),
}

/// How the program ends. Numbers above 60 are those of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is done and holds.
    Done = 0,
    /// It was done and does not hold: a step of the demo, a resource that is not accepted.
    Failed = 1,
    /// What was typed makes no sense.
    Usage = 64,
    /// Somebody who is needed does not answer.
    Unavailable = 69,
    /// The system forbids what is needed.
    NoPermission = 77,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the program with a code of its own.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Ended {}

/// Gives an error's exit code.
pub(crate) trait Ends {
    /// Ends the program with this code if this is an error.
    fn ends(self, exit: Exit) -> Self;
}

impl<T> Ends for anyhow::Result<T> {
    fn ends(self, exit: Exit) -> Self {
        self.map_err(|error| Ended { exit, error }.into())
    }
}

/// The program `weft`, from its arguments to its exit code. To be called while there is one thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Some(code) = world::run_internal() {
        return code;
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // If even this cannot be printed there is nobody to tell.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let ended = match arguments.command {
        Command::Check(options) => check::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Inject(options) => inject::run(&options),
        Command::Install(options) => install::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Token(token::Command::Create(options)) => token::create(&options),
        Command::Uninstall(options) => uninstall::run(&options),
        Command::Upgrade(options) => upgrade::run(&options),
    };
    ended.unwrap_or_else(|error| report(&error)).into()
}

/// Says what went wrong, with its causes, once.
fn report(error: &anyhow::Error) -> Exit {
    if error.is::<Interrupted>() {
        return Exit::Interrupted;
    }
    // See `run`.
    drop(writeln!(std::io::stderr(), "weft: {error:#}"));
    error.downcast_ref::<Ended>().map_or(Exit::Failed, |ended| ended.exit)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
