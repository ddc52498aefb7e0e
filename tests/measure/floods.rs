//! What floods cost those who have no part in them. Each runs for a minute against the server's proxy, from somebody who is not
//! meshed, while a meshed client asks the same server at a steady pace.
//!
//! **What the figures mean.** An attacker that is as near as this one always has a core's worth of bytes to send, and on a
//! machine of two cores it takes its own core from somebody. So it is kept on the last core, and the proxy that it attacks on
//! the others, before and during the flood alike: what is told is what the proxy makes of the flood, and not how the kernel
//! divides a core. On two cores the proxy's workers share one. What remains is the attacker's rivalry with the client and the
//! application, which are left to the kernel; figures of a busy machine are worth nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use weft_cli::load::{Load, Plan, Report};
use weft_cli::world::{Family, Stopwatch, pause};
use weft_tests::echo::{self, Version};
use weft_tests::flood::{Flood, Flooding};
use weft_tests::memory::memory;

use crate::bench::{Bench, Scenario, service};
use crate::figures::{Figures, Limit};

/// How long each lasts.
const FLOOD: Duration = Duration::from_secs(60);
/// How long the client is watched before: 4,000 requests, of which 40 are slower than the 99th percentile.
const BEFORE: Duration = Duration::from_secs(20);
/// Requests of the client in a second: far from what the pair can do.
const RATE: u32 = 200;
/// How much slower one of a hundred requests may be because of a flood.
const SLOWER_MAX: f64 = 2.0;
/// By how much a flood may raise what the proxy holds, in MiB; as the scenario tests have it.
const GROWTH_MAX: f64 = 32.0;
/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// Where the server's application speaks HTTP/2.
const HTTP2_PORT: u16 = 8081;
const HTTP1_PORT: u16 = 8080;

/// One for each flood.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "CONTINUATION flood", run: |bench, figures| measure(bench, Flood::Continuation, figures) },
    Scenario { name: "paced reset", run: |bench, figures| measure(bench, Flood::PacedReset, figures) },
    Scenario { name: "PING flood", run: |bench, figures| measure(bench, Flood::Ping, figures) },
    Scenario { name: "rapid reset", run: |bench, figures| measure(bench, Flood::RapidReset, figures) },
    Scenario { name: "SETTINGS flood", run: |bench, figures| measure(bench, Flood::Settings, figures) },
    Scenario { name: "slow heads", run: |bench, figures| measure(bench, Flood::SlowHeads, figures) },
];

fn measure(bench: &mut Bench<'_>, flood: Flood, figures: &mut Figures) -> anyhow::Result<()> {
    bench.warm()?;
    let proxy = bench.proxy("server")?;
    let workload = bench.mesh.workload("server")?;
    echo::serve(workload.host(), HTTP2_PORT, Version::Http2, "server")?;
    let (theirs, ours) = cores()?;
    pin(proxy, &ours)?;
    let before = asked(bench, BEFORE, || Ok(()))?;

    let rss = memory(proxy)?.rss;
    let mut peak = rss;
    let port = if flood.is_http2() { HTTP2_PORT } else { HTTP1_PORT };
    let to = workload.host().socket(Family::V4, port);
    let pin_self = move || sched_setaffinity(Pid::from_raw(0), &theirs).context("keeping the flood on a core");
    let flooding = Flooding::start(&bench.outsider, to, flood, FLOOD, pin_self)?;
    let during = asked(bench, FLOOD, || {
        peak = memory(proxy)?.rss.max(peak);
        Ok(())
    })?;
    let flooded = flooding.finish()?;

    let (slow, slower) = (before.p99.as_secs_f64() * 1e3, during.p99.as_secs_f64() * 1e3);
    figures.add(format!("p99 of others, {flood} / before"), "times", Limit::Most(SLOWER_MAX), Ok(slower / slow));
    figures.add("  before", "ms", Limit::None, Ok(slow));
    figures.add("  during", "ms", Limit::None, Ok(slower));
    figures.add("  requests of others that failed", "", Limit::Most(0.0), Ok(count(during.failed)?));
    figures.add(format!("peak growth of RSS, {flood}"), "MiB", Limit::Below(GROWTH_MAX), Ok(peak - rss));
    figures.add(
        "  taken from the attacker",
        "MiB/s",
        Limit::None,
        Ok(count(flooded.bytes >> 20)? / FLOOD.as_secs_f64()),
    );
    figures.add("  its connections that were ended", "", Limit::None, Ok(count(flooded.ended)?));
    Ok(())
}

/// What came of a client's steady requests over some time; `meanwhile` is done again and again.
fn asked(
    bench: &Bench<'_>,
    length: Duration,
    mut meanwhile: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let plan = Plan::get(service(), "/").rate(RATE).length_max(2 * length);
    let (load, watch) = (Load::start(bench.client()?, plan)?, Stopwatch::start());
    while watch.elapsed() < length {
        meanwhile()?;
        pause(GLANCE)?;
    }
    load.finish()
}

fn count(count: u64) -> anyhow::Result<f64> {
    Ok(f64::from(u32::try_from(count)?))
}

/// The attacker's core, and those of the proxy; all of them to both where there is only one.
fn cores() -> anyhow::Result<(CpuSet, CpuSet)> {
    let count = std::thread::available_parallelism()?.get();
    let (mut theirs, mut ours) = (CpuSet::new(), CpuSet::new());
    theirs.set(count - 1)?;
    (0..(count - 1).max(1)).try_for_each(|core| ours.set(core))?;
    Ok((theirs, ours))
}

/// Keeps every thread of a process on some cores.
fn pin(process: u32, cores: &CpuSet) -> anyhow::Result<()> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    for task in std::fs::read_dir(&tasks).with_context(|| format!("reading {}", tasks.display()))? {
        let name = task?.file_name();
        let id: i32 = name.to_str().and_then(|name| name.parse().ok()).context("a thread without a number")?;
        sched_setaffinity(Pid::from_raw(id), cores).context("keeping the proxy on its cores")?;
    }
    Ok(())
}
