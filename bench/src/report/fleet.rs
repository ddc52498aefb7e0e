//! What was measured of the control plane.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::fleet::{Measured, Size};
use crate::load::float;

/// One line: what it is, and its value in a mesh of one size.
type Line = (&'static str, fn(&Measured) -> Option<f64>);

const LINES: &[Line] = &[
    ("from a change to the last acknowledgement, p50 (ms)", |measured| measured.change.median()),
    ("from a change to the last acknowledgement, p99 (ms)", |measured| measured.change.p99()),
    ("CPU of a change (ms)", |measured| Some(measured.change_cpu)),
    ("RSS (MiB)", |measured| Some(measured.rss[2])),
    ("memory of a service (KiB)", |measured| Some(each(measured.rss[1] - measured.rss[0], measured.size.services))),
    ("memory of a workload with its proxy (KiB)", |measured| {
        Some(each(measured.rss[2] - measured.rss[1], measured.size.proxies))
    }),
    ("restart to all proxies back (s)", |measured| Some(measured.storm)),
    ("the most that is resident meanwhile (MiB)", |measured| Some(measured.storm_peak)),
    ("certificates (1/s)", |measured| Some(measured.certificates)),
];

/// MiB of so many, in KiB of one.
fn each(mib: f64, count: usize) -> f64 {
    mib.max(0.0) * 1024.0 / float(count as u64)
}

/// A table; nothing where nothing was measured.
pub(super) fn write(text: &mut String, fleets: &[Measured]) {
    if fleets.is_empty() {
        return;
    }
    // Writing to a text cannot fail.
    let mut say = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
    say(format_args!("\n{:<52}", "control plane, proxies × services"));
    for Measured { size: Size { proxies, services }, .. } in fleets {
        say(format_args!("{:>18}", format!("{proxies} × {services}")));
    }
    say(format_args!("\n"));
    for (title, value) in LINES {
        say(format_args!("{title:<52}"));
        for measured in fleets {
            let value = value(measured).map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            say(format_args!("{value:>18}"));
        }
        say(format_args!("\n"));
    }
}

/// Everything, for programs.
pub(super) fn json(fleets: &[Measured]) -> Vec<Value> {
    let one = |measured: &Measured| {
        let Size { proxies, services } = measured.size;
        let lines = LINES.iter().map(|(title, value)| ((*title).to_owned(), json!(value(measured))));
        let lines: serde_json::Map<String, Value> = lines.collect();
        json!({ "proxies": proxies, "services": services, "changes_ms": measured.change.values(), "figures": lines })
    };
    fleets.iter().map(one).collect()
}
