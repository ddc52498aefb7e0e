//! `weft-cni`: see the library.

use std::env::var_os;
use std::io::{Read as _, Write as _, stdin, stdout};
use std::process::ExitCode;

use clap::Parser;
use weft_cni::config::Config;
use weft_cni::{app, plugin};
use weft_runtime::exit::{self, last_words};
use weft_runtime::telemetry;

/// What we are called.
const PROGRAM: &str = "weft-cni";

fn main() -> ExitCode {
    // The CNI specification's sign that a container runtime has called.
    if var_os("CNI_COMMAND").is_some() { called() } else { node() }
}

fn called() -> ExitCode {
    let mut input = Vec::new();
    let read = stdin().take(plugin::INPUT_BYTES_MAX).read_to_end(&mut input);
    let of = |name: &str| var_os(name).map(|value| value.to_string_lossy().into_owned());
    let answer = match read {
        Ok(_) => plugin::answer(&of, &input, &plugin::Kernel),
        Err(error) => plugin::unread(&error),
    };
    // Without its standard output the runtime takes the call for failed, as it should.
    let told = stdout().write_all(answer.output.as_bytes());
    if answer.is_error || told.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn node() -> ExitCode {
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
