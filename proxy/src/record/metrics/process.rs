//! What the process itself uses, from `/proc/self`. A figure that cannot be read is left out.

use std::fs;
use std::time::Duration;

use super::{Kind, Text};

/// Linux reports CPU time to programs in hundredths of a second, whatever the kernel's own tick (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes the usual `process_*` series.
pub(super) fn write(text: &mut Text<'_>, started: Duration) {
    if let Some(cpu_seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
        text.family("process_cpu_seconds", Kind::Counter, "CPU time used, user and system.");
        text.sample(&[], cpu_seconds);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, factor, name, help) in [
        ("VmRSS:", 1024, "process_resident_memory_bytes", "Memory in use."),
        ("VmHWM:", 1024, "process_resident_memory_max_bytes", "The most memory that was ever in use."),
        ("VmSize:", 1024, "process_virtual_memory_bytes", "Address space in use."),
        ("Threads:", 1, "process_threads", "Threads."),
    ] {
        if let Some(value) = field_of(&status, field) {
            text.family(name, Kind::Gauge, help);
            text.sample(&[], value.saturating_mul(factor));
        }
    }
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        text.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
        // The directory itself is open while it is read.
        text.sample(&[], fds.count().saturating_sub(1));
    }
    if let Some(fds_max) = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| fds_max(&limits)) {
        text.family("process_max_fds", Kind::Gauge, "File descriptors that may be open.");
        text.sample(&[], fds_max);
    }
    text.family("process_start_time_seconds", Kind::Gauge, "When the process started, in seconds since 1970.");
    text.sample(&[], started.as_secs_f64());
}

/// `utime` and `stime`, the 14th and 15th field of proc(5)'s `stat`; the second, the name, may hold spaces and
/// parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn field_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn fds_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{cpu_seconds, fds_max, field_of};

    #[test]
    fn proc_is_read_as_proc_5_describes_it() {
        let stat = "7 (weft) proxy)) S 1 7 7 0 -1 4194560 900 0 0 0 250 150 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("garbage"), None);
        assert_eq!(field_of("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(fds_max("Max open files            1024                 4096                 files\n"), Some(1024));
    }

    #[test]
    fn this_machine_tells_all_of_it() {
        let mut out = String::new();
        super::write(&mut super::Text::new(&mut out), std::time::Duration::from_secs(1));
        for name in
            ["cpu_seconds_total", "resident_memory_bytes", "threads", "open_fds", "max_fds", "start_time_seconds"]
        {
            assert!(out.lines().any(|line| line.starts_with(&format!("process_{name} "))), "{name} is not in {out}");
        }
    }
}
