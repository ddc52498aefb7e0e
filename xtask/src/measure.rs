//! `cargo xtask measure`: builds the proxy and has it measured; the program itself is `tests/measure`.

use std::process::Command;

use anyhow::bail;

use crate::workspace::{Workspace, check};

/// Measures the proxy of a profile: `[--floods] [--profile demo|release]`. Floods take a minute and a half each, and are a
/// selection of their own.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let (floods, args) = match args {
        ["--floods", rest @ ..] => (Some("--floods"), rest),
        rest => (None, rest),
    };
    let is_release = match args {
        [] | ["--profile", "demo"] => false,
        ["--profile", "release"] => true,
        _ => bail!("measure takes --floods, and --profile demo (the default) or --profile release, not {args:?}"),
    };
    let workspace = Workspace::open()?;
    check(&mut workspace.cargo_build_programs())?;
    let programs = workspace.programs();
    let mut measure = Command::new(programs.join("measure"));
    measure.args(floods);
    if is_release {
        // Only the proxy is measured: with everything linked into one piece it takes minutes as it is.
        check(workspace.cargo().args(["build", "--release", "--package", "weft-proxy", "--bins"]))?;
        measure.arg("--proxy").arg(programs.with_file_name("release").join("weft-proxy"));
    }
    check(&mut measure)
}
