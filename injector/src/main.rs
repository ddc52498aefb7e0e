//! `weft-injector`: see the library.

use std::process::ExitCode;

use clap::Parser;
use weft_injector::app;
use weft_injector::config::Config;
use weft_runtime::exit::{self, last_words};
use weft_runtime::telemetry;

/// What we are called.
const PROGRAM: &str = "weft-injector";

fn main() -> ExitCode {
    let config = Config::parse();
    let log = match telemetry::init(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => return last_words(PROGRAM, &error, exit::CONFIG),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return last_words(PROGRAM, &error, exit::FAILED),
    };
    match runtime.block_on(async { Box::pin(app::run(config, log)).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => last_words(PROGRAM, &error, exit::FAILED),
    }
}
