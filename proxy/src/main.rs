//! `weft-proxy`: reads its configuration and runs.

use std::process::ExitCode;

use clap::Parser;
use weft_proxy::app;
use weft_proxy::config::{Args, Config};

/// A good fit for many small, short-lived buffers on few threads, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was typed makes no sense (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;
/// It ran and failed (`EX_SOFTWARE`).
const EXIT_FAILED: u8 = 70;

#[expect(clippy::print_stderr, reason = "before logging is set up, and as the last word")]
fn main() -> ExitCode {
    let config = match Config::from_args(Args::parse()) {
        Ok(config) => config,
        Err(wrong) => {
            eprintln!("weft-proxy: {wrong}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-proxy: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
