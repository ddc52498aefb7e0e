//! The program from its arguments to its exit code.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::config::{Action, Raw};
use crate::error::{InitError, told};
use crate::options::Options;
use crate::ready;
use crate::{Proof, apply, prove, prove_capture, remove, render};

/// How long to pause before a proof is tried again.
const PROVE_PAUSE: Duration = Duration::from_millis(100);

/// How the program ends, in the numbers of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Usage = 64,
    Unavailable = 69,
    Unproven = 70,
    Refused = 71,
    NoPermission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&InitError> for Exit {
    fn from(error: &InitError) -> Self {
        match error {
            InitError::KernelLacks { .. } | InitError::NotReady { .. } => Self::Unavailable,
            InitError::Malformed(_) | InitError::Refused { .. } => Self::Refused,
            InitError::NoPermission { .. } => Self::NoPermission,
            InitError::NotSet(_) | InitError::Unproven(_) => Self::Unproven,
        }
    }
}

/// Runs `weft-init` with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let raw = match Raw::try_parse_from(arguments) {
        Ok(raw) => raw,
        Err(error) => {
            // If even this cannot be printed there is nobody to tell.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let (action, options) = match raw.resolve() {
        Ok(parsed) => parsed,
        Err(errors) => {
            report(&errors);
            return Exit::Usage.into();
        }
    };
    match act(action, &options) {
        Ok(outcome) => {
            print(&outcome);
            Exit::Done.into()
        }
        Err(error) => {
            report(&error);
            Exit::from(&error).into()
        }
    }
}

/// Does it and says what was done.
fn act(action: Action, options: &Options) -> Result<String, InitError> {
    let done = format!("weft-init: redirect rules {action}\n");
    match action {
        Action::Apply => apply(options).map(|()| done),
        Action::ApplyAndProve { until_ready } => {
            apply(options)?;
            if until_ready {
                // Before it is ready its port is not taken yet: whoever proves then would take it.
                ready::ever(options.admin_port, |said| {
                    print(&format!("weft-init: redirect rules set; waiting for the proxy to be ready: {said}\n"));
                });
            }
            let proof = prove(options)?;
            Ok(format!("{done}weft-init: rules read back; {proof}\n"))
        }
        Action::Prove => prove(options).map(|proof| format!("{done}weft-init: rules read back; {proof}\n")),
        Action::ProveCapture(wait) => prove_within(options, wait).map(|proof| format!("{done}weft-init: {proof}\n")),
        Action::AwaitProxy(wait) => {
            ready::within(options.admin_port, wait).map(|()| "weft-init: the proxy is ready\n".to_owned())
        }
        Action::Linger(wait) => {
            linger(wait);
            Ok(String::new())
        }
        Action::Remove => remove().map(|()| done),
        Action::Render => Ok(render(options)),
    }
}

/// Proves capture by rules that somebody else sets, and may set late.
#[expect(clippy::disallowed_methods, reason = "this program waits for another in real time")]
fn prove_within(options: &Options, wait: Duration) -> Result<Proof, InitError> {
    let begun = Instant::now();
    loop {
        match prove_capture(options) {
            Err(InitError::Unproven(_)) if begun.elapsed() < wait => std::thread::park_timeout(PROVE_PAUSE),
            Err(InitError::Unproven(error)) => return Err(InitError::NotSet(error)),
            other => return other,
        }
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "this program waits in real time")]
fn linger(wait: Duration) {
    let begun = Instant::now();
    // Parked threads may wake early.
    while let Some(left) = wait.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn print(text: &str) {
    // A closed stdout does not undo what was done.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// The whole chain of causes, on one line.
fn report(error: &dyn Error) {
    for line in told(error).lines() {
        // See `print`.
        drop(writeln!(std::io::stderr(), "weft-init: {line}"));
    }
}
