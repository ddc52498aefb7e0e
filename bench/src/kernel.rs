//! What the kernel says of processes, and on which core they run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use weft_cli::world::Stopwatch;

/// Where something runs: proxies on one core, all else on another, where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    Load,
    Proxies,
}

impl Core {
    fn set(self) -> anyhow::Result<CpuSet> {
        let count = fs::read_dir("/sys/devices/system/cpu")?.flatten();
        let is_core = |name: &str| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<usize>().is_ok());
        let count = count.filter(|entry| entry.file_name().to_str().is_some_and(is_core)).count();
        let mut set = CpuSet::new();
        set.set(match self {
            Self::Load => count.saturating_sub(1).min(1),
            Self::Proxies => 0,
        })?;
        Ok(set)
    }
}

/// Keeps every thread of a process on a core.
pub(crate) fn pin(process: u32, core: Core) -> anyhow::Result<()> {
    let set = core.set()?;
    for id in tasks(process)? {
        let id = id.parse().context("a thread without a number")?;
        sched_setaffinity(Pid::from_raw(id), &set).context("keeping a proxy on its core")?;
    }
    Ok(())
}

/// Keeps this thread, and all that it starts from now on, on a core.
pub(crate) fn pin_self(core: Core) -> anyhow::Result<()> {
    sched_setaffinity(Pid::from_raw(0), &core.set()?).context("keeping the rig on its core")
}

/// The CPU time that the threads of a process have used, in seconds: its own and the kernel's for it, in nanoseconds where
/// `stat` has hundredths of a second.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let mut total = Duration::ZERO;
    for id in tasks(process)? {
        let path = format!("/proc/{process}/task/{id}/schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // Time on the processor, time waiting for it, and turns (Documentation/scheduler/sched-stats.rst).
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("no time in schedstat")?;
        total += Duration::from_nanos(ns);
    }
    Ok(total.as_secs_f64())
}

fn tasks(process: u32) -> anyhow::Result<Vec<String>> {
    let path = Path::new("/proc").join(process.to_string()).join("task");
    let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// How many files a process has open.
pub(crate) fn open_files(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/fd");
    let count = fs::read_dir(&path).with_context(|| format!("reading {path}"))?.count();
    Ok(u64::try_from(count)?)
}

/// How large a program is without symbols, in MiB.
pub(crate) fn stripped_mib(program: &Path) -> anyhow::Result<f64> {
    let out = tempfile::NamedTempFile::new().context("making a file")?;
    let status = Command::new("strip").arg("-o").arg(out.path()).arg(program).status().context("starting strip")?;
    ensure!(status.success(), "strip: {status}");
    let kib = u32::try_from(fs::metadata(out.path())?.len() / 1024)?;
    Ok(f64::from(kib) / 1024.0)
}

/// Thousands of connections are held here, and by what is started here.
pub(crate) fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of descriptors")
}

/// Asks every millisecond until something holds: what takes ten is not to be measured in tens.
pub(crate) fn until(what: &str, within: Duration, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    while !holds() {
        ensure!(watch.elapsed() < within, "{what}: not within {within:?}");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Sleeps, to the microsecond where [`precise_sleep`] was called on this thread.
#[expect(clippy::disallowed_methods, reason = "no worker of a runtime runs this")]
pub(crate) fn sleep(length: Duration) {
    std::thread::sleep(length);
}

/// Has the kernel end this thread's sleeps when they are over, and not up to 50 µs later.
pub(crate) fn precise_sleep() -> anyhow::Result<()> {
    nix::sys::prctl::set_timerslack(1).context("asking for precise sleeps")
}

/// The machine, in a line.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let field = |name: &str| info.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} × {}, Linux {}", field("model name").unwrap_or("CPU"), kernel.trim())
}
