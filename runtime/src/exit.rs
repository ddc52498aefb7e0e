//! How a process says that it cannot go on.

use std::error::Error;
use std::process::ExitCode;

/// Something was typed that makes no sense.
pub const CONFIG: u8 = 2;

/// It could not start, or not go on.
pub const FAILED: u8 = 1;

/// Says what went wrong with all that caused it, and hands back the exit code. On standard error: logs may not be set up, or go
/// elsewhere.
#[expect(clippy::print_stderr, reason = "the last words of a process are for who started it")]
pub fn last_words(program: &str, error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("{program}: {}", told(error));
    ExitCode::from(code)
}

/// An error and each of its causes after a colon, on one line.
pub fn told(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
