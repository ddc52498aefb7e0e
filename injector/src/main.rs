//! `weft-injector`: see the library.

use std::process::ExitCode;

use clap::Parser;
use weft_injector::app;
use weft_injector::config::Config;
use weft_runtime::telemetry;

/// Something was typed that makes no sense.
const EXIT_CONFIG: u8 = 2;

/// It could not start.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let config = Config::parse();
    let log = match telemetry::init(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => return complain(&error, EXIT_CONFIG),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, EXIT_FAILED),
    };
    match runtime.block_on(async { Box::pin(app::run(config, log)).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, EXIT_FAILED),
    }
}

/// Says what went wrong with all that caused it; logs may not be set up, or go elsewhere.
#[expect(clippy::print_stderr, reason = "the last words of a process are for who started it")]
fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprint!("weft-injector: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(code)
}
