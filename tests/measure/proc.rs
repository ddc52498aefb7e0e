//! What the kernel says of a process, beside its memory, and what a program weighs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// The CPU time that a process has used, in seconds, its own and the kernel's for it.
pub(crate) fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("reading a process's times")?;
    // The name before the last parenthesis may hold anything; utime and stime are fields 14 and 15 (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("no times");
    let a_second =
        sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u32::try_from(ticks).ok()).context("no clock tick")?;
    Ok((ticks(11)? + ticks(12)?) / f64::from(a_second))
}

/// How large a program is without symbols, in MiB.
pub(crate) fn stripped_mb(program: &Path) -> anyhow::Result<f64> {
    let out = tempfile::NamedTempFile::new().context("making a file")?;
    let status = Command::new("strip").arg("-o").arg(out.path()).arg(program).status().context("starting strip")?;
    anyhow::ensure!(status.success(), "strip: {status}");
    let kib = u32::try_from(fs::metadata(out.path())?.len() / 1024)?;
    Ok(f64::from(kib) / 1024.0)
}

/// Thousands of connections are held here.
pub(crate) fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of descriptors")
}
