//! The program `weft-init`: see the crate's head.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_init::run(std::env::args_os())
}
