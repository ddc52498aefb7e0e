//! `weft-control-plane`: see the library.

use std::process::ExitCode;

use clap::Parser;
use weft_control_plane::app::App;
use weft_control_plane::config::{Config, RawConfig};
use weft_runtime::exit::{self, last_words};
use weft_runtime::telemetry;

/// What we are called.
const PROGRAM: &str = "weft-control-plane";

fn main() -> ExitCode {
    let config = match Config::new(RawConfig::parse()) {
        Ok(config) => config,
        Err(errors) => return last_words(PROGRAM, &errors, exit::CONFIG),
    };
    let log = match telemetry::init(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => return last_words(PROGRAM, &error, exit::CONFIG),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return last_words(PROGRAM, &error, exit::FAILED),
    };
    let outcome = runtime.block_on(async { Box::pin(App::start(config, Some(log))).await?.run_until_signal().await });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "control plane ended");
            last_words(PROGRAM, &error, exit::FAILED)
        }
    }
}
