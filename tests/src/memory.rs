//! What the kernel says of a process's memory.

use anyhow::Context as _;

/// Memory in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All that is resident.
    pub rss: f64,
    /// Of it, what is in no file: heap and stacks.
    pub anon: f64,
    /// The most that ever was resident.
    pub peak: f64,
}

/// The memory of a process.
///
/// # Errors
/// There is no such process.
pub fn memory(id: u32) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("reading a process's status")?;
    Ok(Memory { rss: mib(&status, "VmRSS:")?, anon: mib(&status, "RssAnon:")?, peak: mib(&status, "VmHWM:")? })
}

fn mib(status: &str, field: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{field}{line}"))?;
    Ok(kib / 1024.0)
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
