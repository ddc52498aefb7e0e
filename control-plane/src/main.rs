//! `weft-control-plane`: see the library.

use std::process::ExitCode;

use clap::Parser;
use weft_control_plane::app::App;
use weft_control_plane::config::{Config, RawConfig};
use weft_runtime::telemetry;

/// Something was typed that makes no sense.
const EXIT_CONFIG: u8 = 2;

/// It could not start, or not go on.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let config = match Config::new(RawConfig::parse()) {
        Ok(config) => config,
        Err(errors) => return complain(&errors, EXIT_CONFIG),
    };
    let log = match telemetry::init(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => return complain(&error, EXIT_CONFIG),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, EXIT_FAILED),
    };
    let outcome = runtime.block_on(async { Box::pin(App::start(config, Some(log))).await?.run_until_signal().await });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "control plane ended");
            complain(&error, EXIT_FAILED)
        }
    }
}

/// Says what went wrong with all that caused it; logs may not be set up, or go elsewhere.
#[expect(clippy::print_stderr, reason = "the last words of a process are for who started it")]
fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprint!("weft-control-plane: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(code)
}
