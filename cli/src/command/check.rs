//! `weft check`.

use std::io::Write as _;

use anyhow::{Context as _, anyhow};
use clap::Args;
use weft_install::Manifest;
use weft_runtime::clock::WallClock;

use super::install::ValueArgs;
use super::{Ends as _, Exit};
use crate::check::{self, Level, Stage, Verdict};
use crate::cluster::ClusterArgs;
use crate::terminal::{Colour, Paint};

/// Flags of `weft check`.
#[derive(Debug, Args)]
#[command(after_help = "\
docs/checks.md says of each check what it means. The exit code is 0 where nothing fails (warnings do not, unless \
--strict), 1 where something does, and 69 where the API server does not answer.

Examples:
  weft check --pre && weft install | kubectl apply -f -
  weft check --pre --set cni.enabled=true
  weft check --strict --colour never")]
pub(crate) struct Options {
    /// Before the installation: whether the cluster has what Weft needs, and this account may install it. --set and --values say
    /// what will be installed, as for `weft install`.
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    values: ValueArgs,
    /// A warning is a failure too.
    #[arg(long)]
    strict: bool,
    /// Whether to use colours.
    #[arg(long, alias = "color", value_enum, default_value = "auto", value_name = "WHEN")]
    colour: Colour,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Makes the checks and prints what they say.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let stage = if options.pre { Stage::Before } else { Stage::After };
    let now = WallClock::system().unix_seconds();
    let planned = planned(options)?;
    let facts = options.cluster.run(async |client| check::gather(&client, stage, &planned, now).await)?;
    let verdicts = check::verdicts(&facts, stage);
    let text = table(&verdicts, Paint::when(options.colour));
    std::io::stdout().write_all(text.as_bytes()).context("printing the checks")?;
    Ok(exit(&verdicts, options.strict))
}

/// What will be installed; afterwards the cluster says what was.
fn planned(options: &Options) -> anyhow::Result<Vec<Manifest>> {
    if options.pre {
        let (values, set) = options.values.read(None)?;
        return Ok(weft_install::installed(&values, &set));
    }
    if options.values.is_empty() {
        return Ok(Vec::new());
    }
    Err(anyhow!("--set and --values say what will be installed, and go with --pre")).ends(Exit::Usage)
}

fn exit(verdicts: &[(&str, Verdict)], strict: bool) -> Exit {
    let worst = verdicts.iter().map(|(_, verdict)| verdict.level).max();
    match (worst, verdicts) {
        // Nothing came after it.
        (Some(Level::Failure), [(_, _)]) => Exit::Unavailable,
        (Some(Level::Failure), _) => Exit::Failed,
        (Some(Level::Warning), _) if strict => Exit::Failed,
        _ => Exit::Done,
    }
}

fn table(verdicts: &[(&str, Verdict)], paint: Paint) -> String {
    let width = verdicts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, Verdict { level, said, remedy }) in verdicts {
        let mark = match level {
            Level::Good => paint.good("ok  "),
            Level::Warning => paint.odd("warn"),
            Level::Failure => paint.bad("FAIL"),
        };
        text.extend([&mark, "  ", &format!("{name:<width$}"), "  ", said, "\n"]);
        if !remedy.is_empty() {
            let pad = " ".repeat(width + 8);
            text.extend([&pad, &paint.faint(&format!("→ {remedy}")), "\n"]);
        }
    }
    let count = |wanted: Level| verdicts.iter().filter(|(_, verdict)| verdict.level == wanted).count();
    let (good, odd, bad) = (count(Level::Good), count(Level::Warning), count(Level::Failure));
    text + &format!("{good} ok, {odd} warnings, {bad} failures\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(level: Level, remedy: &str) -> Verdict {
        Verdict { level, said: "said".to_owned(), remedy: remedy.to_owned() }
    }

    #[test]
    fn values_are_of_what_is_installed_later() {
        let planned = |pre: bool, set: &[&str]| {
            let values = ValueArgs { set: set.iter().map(|it| (*it).to_owned()).collect(), files: Vec::new() };
            let (colour, cluster) = (Colour::default(), ClusterArgs::default());
            planned(&Options { pre, strict: false, values, colour, cluster }).map(|planned| planned.len())
        };
        let (less, more) = (planned(true, &[]).unwrap(), planned(true, &["cni.enabled=true"]).unwrap());
        assert!(0 < less && less < more, "{less} {more}");
        assert_eq!(planned(false, &[]).unwrap(), 0);
        assert!(planned(true, &["cni.enable=true"]).is_err());
        assert!(planned(false, &["cni.enabled=true"]).unwrap_err().to_string().contains("--pre"));
    }

    #[test]
    fn the_exit_code_says_how_bad_it_is() {
        let (good, odd) = (("a", verdict(Level::Good, "")), ("b", verdict(Level::Warning, "do")));
        let bad = ("c", verdict(Level::Failure, "do"));
        for (verdicts, strict, want) in [
            (vec![good.clone(), odd.clone()], false, Exit::Done),
            (vec![good.clone(), odd.clone()], true, Exit::Failed),
            (vec![good.clone(), bad.clone()], false, Exit::Failed),
            (vec![good.clone()], true, Exit::Done),
            (vec![bad.clone()], false, Exit::Unavailable),
        ] {
            assert_eq!(exit(&verdicts, strict), want, "{verdicts:?}");
        }
        let text = table(&[good, odd, bad], Paint::plain());
        assert_eq!(
            text,
            "ok    a  said\nwarn  b  said\n         → do\nFAIL  c  said\n         → do\n1 ok, 1 warnings, 1 failures\n"
        );
    }
}
