//! The program from its arguments to its exit code.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{Action, Raw};
use crate::error::InitError;
use crate::options::Options;
use crate::{apply, prove, remove, render};

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
            InitError::KernelLacks { .. } => Self::Unavailable,
            InitError::Malformed(_) | InitError::Refused { .. } => Self::Refused,
            InitError::NoPermission { .. } => Self::NoPermission,
            InitError::Unproven(_) => Self::Unproven,
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
        Action::ApplyAndProve => {
            apply(options)?;
            let proof = prove(options)?;
            Ok(format!("{done}weft-init: {proof}\n"))
        }
        Action::Prove => prove(options).map(|proof| format!("{done}weft-init: {proof}\n")),
        Action::Remove => remove().map(|()| done),
        Action::Render => Ok(render(options)),
    }
}

fn print(text: &str) {
    // A closed stdout does not undo what was done.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// The whole chain of causes, on one line.
fn report(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    for line in text.lines() {
        // See `print`.
        drop(writeln!(std::io::stderr(), "weft-init: {line}"));
    }
}
