//! The one entry for everything: `cargo xtask test`, `cargo demo`, `cargo xtask tidy`, `cargo xtask gen`.
//!
//! It is not a build system: cargo builds, this calls it with the same settings everywhere. It depends on next to nothing, so that
//! the first command after a clone answers within seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal")]

mod bench;
mod cluster;
mod conformance;
mod demo;
mod r#gen;
mod images;
mod measure;
mod packages;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
Usage: cargo xtask <command>

Commands:
  test [--only NAME]... [--fail-fast] [--list]
                 everything CI runs; as root it first installs the system packages that the tests use
  demo [args]    builds the mesh and runs `weft demo [args]` (alias: cargo demo)
  tidy           the order of modules, the size of files, forbidden crates
  measure [--floods] [--profile demo|release]
                 prints each figure beside its limit; fails on one that is missing or exceeded
  bench [args]   measures Weft beside its peers; `cargo xtask bench --help` tells more
  cluster up|load|conformance|down|run COMMAND...
                 a real Kubernetes of one node, out of everybody's way; as root
  images         Weft's images, from static programs and without an engine; prints their files
  gen [--check]  writes the generated code, or checks that it is current and that released peers understand the wire
  gen --release  remembers the wire as that of this version, for later ones to be compared with
  help           this page

Build output is kept in ${XDG_CACHE_HOME:-$HOME/.cache}/weft, for all checkouts together.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> anyhow::Result<ExitCode> {
    match words {
        ["test", rest @ ..] => return test::run(rest),
        ["demo", rest @ ..] => demo::run(rest)?,
        ["bench", rest @ ..] => bench::run(rest)?,
        ["measure", rest @ ..] => measure::run(rest)?,
        ["cluster", rest @ ..] => return cluster::run(rest),
        ["tidy"] => tidy::run(&workspace::root()?)?,
        ["images"] => drop(images::make(&workspace::Workspace::open()?, "release")?),
        ["gen"] => r#gen::run(false)?,
        ["gen", "--check"] => r#gen::run(true)?,
        ["gen", "--release"] => r#gen::release()?,
        ["help" | "--help" | "-h"] => print!("{HELP}"),
        [] => bail!("a command is expected\n\n{HELP}"),
        [other, ..] => bail!("{other:?} is not a command, or does not take these arguments\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}
