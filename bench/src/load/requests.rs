//! Requests as fast as they are answered, by h2load.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use weft_cli::world::Process;

use super::{PATIENCE, RUN_IN, Window, float};
use crate::contestant::Stage;
use crate::server::{GRPC_PORT, HTTP1_PORT, counter, message};

/// Connections of HTTP/1, one request at a time on each.
const HTTP1_CONNECTIONS: &str = "64";
/// Connections of HTTP/2, and requests at once on each.
const HTTP2_CONNECTIONS: &str = "8";
const HTTP2_STREAMS: &str = "8";

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load(Process);

impl Load {
    /// Starts what a port of the server serves; it ends by itself.
    pub(crate) fn start(stage: &Stage<'_>, port: u16, length: Duration) -> anyhow::Result<Self> {
        let launch = stage.client().launch("h2load", "h2load");
        let launch = match port {
            HTTP1_PORT => launch.args(["--h1", "-c", HTTP1_CONNECTIONS]),
            _ => launch.args(["-c", HTTP2_CONNECTIONS, "-m", HTTP2_STREAMS]),
        };
        let path = if port == GRPC_PORT { "bench.v1.Echo/Say" } else { "" };
        let launch = if port == GRPC_PORT {
            let body = stage.file("message");
            std::fs::write(&body, message()).context("writing a message")?;
            launch.args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"]).arg(body)
        } else {
            launch
        };
        // Whole seconds are what it takes.
        let seconds = (length + 2 * RUN_IN).as_secs_f64().ceil();
        let url = format!("http://{}/{path}", stage.socket(port));
        Ok(Self(launch.args(["-t", "1", "-D", &seconds.to_string(), &url]).start()?))
    }

    /// Waits for its end; an error if any request failed.
    pub(crate) fn finish(mut self, length: Duration) -> anyhow::Result<()> {
        self.0.wait(length + PATIENCE)?;
        let log = self.0.log();
        let lines = || log.lines().filter(|line| line.starts_with("requests:") || line.starts_with("status codes:"));
        let whole = log.contains(" 0 failed, 0 errored") && log.contains(" 0 3xx, 0 4xx, 0 5xx");
        ensure!(whole && !log.contains("status codes: 0 2xx"), "{}", lines().collect::<Vec<_>>().join("; "));
        Ok(())
    }
}

/// Saturates a pair through one port, and measures it.
pub(crate) fn saturate(stage: &Stage<'_>, port: u16, length: Duration) -> anyhow::Result<Window> {
    let load = Load::start(stage, port, length)?;
    let window = Window::measure(stage, counter(port)?, length);
    load.finish(length)?;
    window
}

/// How many system calls a proxy makes for a request while it is saturated.
pub(crate) fn calls(stage: &Stage<'_>, process: u32, length: Duration) -> anyhow::Result<f64> {
    let load = Load::start(stage, HTTP1_PORT, 2 * length)?;
    weft_cli::world::pause(RUN_IN)?;
    let id = process.to_string();
    let mut strace = stage.client().launch("strace", "strace").args(["-c", "-f", "-p", &id]).start()?;
    strace.wait_for_log("attached", PATIENCE).context("strace (Debian: strace)")?;
    let counter = counter(HTTP1_PORT)?;
    let before = stage.servers().count(counter)?;
    weft_cli::world::pause(length)?;
    let requests = stage.servers().count(counter)? - before;
    strace.signal(Signal::SIGINT)?;
    strace.wait(PATIENCE)?;
    load.finish(2 * length)?;
    ensure!(requests > 0, "no request was counted");
    let log = strace.log();
    Ok(total(&log).with_context(|| format!("strace said no total:\n{log}"))? / float(requests))
}

/// The calls of the last line: `100.00    0.123456           1     12345       678 total`.
fn total(summary: &str) -> Option<f64> {
    let line = summary.lines().rfind(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_read() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       100.00    1.234567           2    617283       123 total\n";
        assert_eq!(total(summary), Some(617_283.0));
        assert_eq!(total("strace: Process 1 attached\n"), None);
    }
}
