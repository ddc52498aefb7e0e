//! `weft`: what people type.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::run(std::env::args_os())
}
