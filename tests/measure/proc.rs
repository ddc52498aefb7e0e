//! What the kernel says of a process, and what a program weighs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Memory in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All that is resident.
    pub(crate) rss: f64,
    /// Of it, what is in no file: heap and stacks.
    pub(crate) anon: f64,
    /// The most that ever was resident.
    pub(crate) peak: f64,
}

/// The memory of a process.
pub(crate) fn memory(id: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("reading a process's status")?;
    Ok(Memory { rss: mib(&status, "VmRSS:")?, anon: mib(&status, "RssAnon:")?, peak: mib(&status, "VmHWM:")? })
}

fn mib(status: &str, field: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{field}{line}"))?;
    Ok(kib / 1024.0)
}

/// The CPU time that a process has used, in seconds, its own and the kernel's for it.
pub(crate) fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("reading a process's times")?;
    // The name before the last parenthesis may hold anything; utime and stime are fields 14 and 15 (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("no times");
    let a_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u32::try_from(ticks).ok()).context("no clock tick")?;
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

#[cfg(test)]
mod tests {
    use super::mib;

    #[test]
    fn memory_is_read() {
        assert_eq!(mib("VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n", "VmRSS:").unwrap(), 1.0);
        assert!(mib("VmRSS:\t x kB\n", "VmRSS:").is_err() && mib("", "VmRSS:").is_err());
    }
}
