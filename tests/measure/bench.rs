//! The scenarios: a client, a server, a proxy at each.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use weft_cli::mesh::programs::Programs;
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{self, Mesh, Settings, service_ip};
use weft_cli::world::{Family, Host, Stopwatch, World, pause, wait_for};
use weft_tests::memory::memory;

use crate::clients::{Stalled, idle};
use crate::figures::{Figures, Limit};
use crate::{proc, server};

const NAMESPACE: &str = "measure";
const SERVICE: u8 = 10;
const PORT: u16 = 8080;
const CONNECTIONS: usize = 1000;
/// How long load runs; it stops by itself.
const LOAD: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(30);
/// What a proxy does after it was ready or loaded is over by then, and the allocator has given back what is free.
const SETTLE: Duration = Duration::from_secs(3);
/// The proxies and their part.
const PARTS: [(&str, &str); 2] = [("client", "outbound"), ("server", "inbound")];
const COUNTER: &str = "weft_requests_total";

/// One measurement.
pub(crate) struct Scenario {
    /// What it is about.
    pub(crate) name: &'static str,
    /// Does it.
    pub(crate) run: fn(&mut Bench<'_>, &mut Figures) -> anyhow::Result<()>,
}

/// Those of an ordinary run, in order.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "start and idle", run: start_and_idle },
    Scenario { name: "1,000 idle connections", run: idle_connections },
    Scenario { name: "1,000 stalled bodies", run: stalled_bodies },
    Scenario { name: "load", run: load },
    Scenario { name: "system calls", run: system_calls },
];

/// A mesh with one caller and one called.
#[derive(Debug)]
pub(crate) struct Bench<'w> {
    /// It, with `client` and `server`.
    pub(crate) mesh: Mesh<'w>,
    /// Somebody without a proxy.
    pub(crate) outsider: Host,
}

impl<'w> Bench<'w> {
    /// Starts it and waits until a request passed.
    pub(crate) fn open(world: &'w World, programs: &Programs) -> anyhow::Result<Self> {
        let settings = Settings { log: "warn".to_owned(), ..Settings::new(Family::V4) };
        let mut mesh = Mesh::start(world, programs, settings)?;
        let ports = format!("[{{name: http, port: {PORT}, targetPort: {PORT}}}]");
        mesh.write("service.yaml", &mesh::service(NAMESPACE, "server", SERVICE, &ports))?;
        for (name, _) in PARTS {
            mesh.join(Member::new(NAMESPACE, name, name))?;
        }
        let host = mesh.workload("server")?.host();
        server::start(host.listen(host.socket(Family::V4, PORT))?)?;
        mesh.ready()?;
        let bench = Self { outsider: world.host("outsider")?, mesh };
        Ok(bench)
    }

    /// Where the caller is.
    pub(crate) fn client(&self) -> anyhow::Result<&Host> {
        Ok(self.mesh.workload("client")?.host())
    }

    /// Lets one request through: what is learnt on demand is there then.
    pub(crate) fn warm(&self) -> anyhow::Result<()> {
        wait_for("the first answer", WITHIN, || idle(self.client().ok()?, service(), 1).ok()).map(drop)
    }

    /// The number of a proxy's process.
    pub(crate) fn proxy(&self, name: &str) -> anyhow::Result<u32> {
        self.mesh.workload(name)?.proxy_id().with_context(|| format!("the proxy of {name} does not run"))
    }

    fn memory(&self, name: &str, what: &str, limit: Limit, figures: &mut Figures) -> anyhow::Result<()> {
        let memory = memory(self.proxy(name)?)?;
        figures.add(format!("RSS, {what}"), "MiB", limit, Ok(memory.rss));
        figures.add("  of it anonymous", "MiB", Limit::None, Ok(memory.anon));
        Ok(())
    }

    fn requests(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.mesh.workload(name)?.scrape()?.sum(COUNTER, &[]))
    }

    /// Saturates the pair; returns how long that took.
    fn saturate(&self) -> anyhow::Result<Duration> {
        let seconds = LOAD.as_secs().to_string();
        let url = format!("http://{}/", service());
        let launch = self.client()?.launch("h2load", "h2load").args(["--h1", "-c", "32", "-t", "1", "-D", &seconds]);
        let watch = Stopwatch::start();
        let said = launch.arg(url).finish(WITHIN)?.success().context("h2load (Debian: nghttp2-client)")?;
        let lines = || said.lines().filter(|line| line.starts_with("requests:") || line.starts_with("status codes:"));
        ensure!(
            lines().any(|line| line.contains(" 0 failed, 0 errored")) && said.contains(" 0 4xx, 0 5xx"),
            "{}",
            lines().collect::<Vec<_>>().join("; ")
        );
        Ok(watch.elapsed())
    }
}

/// Where the called's Service is.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::new(service_ip(SERVICE, Family::V4), PORT)
}

fn start_and_idle(bench: &mut Bench<'_>, figures: &mut Figures) -> anyhow::Result<()> {
    bench.mesh.workload_mut("client")?.kill_proxy()?;
    let watch = Stopwatch::start();
    bench.mesh.restart("client")?;
    figures.add("start to ready", "ms", Limit::None, Ok(watch.elapsed().as_secs_f64() * 1000.0));
    pause(SETTLE)?;
    for (name, part) in PARTS {
        bench.memory(name, &format!("idle proxy ({part})"), Limit::Below(12.0), figures)?;
    }
    Ok(())
}

fn idle_connections(bench: &mut Bench<'_>, figures: &mut Figures) -> anyhow::Result<()> {
    bench.warm()?;
    let (to, host) = (service(), bench.client()?);
    let outbound = idle(host, to, CONNECTIONS)?;
    pause(SETTLE)?;
    bench.memory("client", "1,000 idle connections (outbound)", Limit::Below(40.0), figures)?;
    drop(outbound);
    // The outbound proxy's pool needs few connections for them; somebody without a proxy opens as many as it likes.
    let to = bench.mesh.workload("server")?.socket(PORT);
    let inbound = idle(&bench.outsider, to, CONNECTIONS)?;
    pause(SETTLE)?;
    bench.memory("server", "1,000 idle connections (inbound)", Limit::Below(40.0), figures)?;
    drop(inbound);
    Ok(())
}

fn stalled_bodies(bench: &mut Bench<'_>, figures: &mut Figures) -> anyhow::Result<()> {
    bench.warm()?;
    let limit = Limit::Most(12.0 + 1000.0 * 128.0 / 1024.0);
    let mut stalled = Stalled::push(bench.client()?, service(), CONNECTIONS)?;
    stalled.all_wait()?;
    for (name, part) in PARTS {
        let memory = memory(bench.proxy(name)?)?;
        figures.add(format!("peak RSS, 1,000 stalled bodies ({part})"), "MiB", limit, Ok(memory.peak));
        figures.add("  of it anonymous, at the end", "MiB", Limit::None, Ok(memory.anon));
    }
    Ok(())
}

fn load(bench: &mut Bench<'_>, figures: &mut Figures) -> anyhow::Result<()> {
    bench.warm()?;
    let mut before = Vec::new();
    for (name, _) in PARTS {
        before.push((bench.requests(name)?, proc::cpu_seconds(bench.proxy(name)?)?));
    }
    let length = bench.saturate()?;
    for ((name, part), (requests, cpu)) in PARTS.into_iter().zip(before) {
        let (all, used) = (bench.requests(name)? - requests, proc::cpu_seconds(bench.proxy(name)?)? - cpu);
        ensure!(all > 0.0, "the {part} proxy counted no request");
        if part == "outbound" {
            figures.add("requests of the pair", "1/s", Limit::None, Ok(all / length.as_secs_f64()));
        }
        figures.add(format!("CPU of a request ({part})"), "us", Limit::None, Ok(used / all * 1e6));
    }
    for (name, part) in PARTS {
        bench.memory(name, &format!("after load ({part})"), Limit::None, figures)?;
    }
    Ok(())
}

/// One proxy at a time: what traces one slows the other, and a proxy that waits batches less.
fn system_calls(bench: &mut Bench<'_>, figures: &mut Figures) -> anyhow::Result<()> {
    bench.warm()?;
    bench.saturate()?;
    for (name, part) in PARTS {
        let counted = calls(bench, name);
        figures.add(format!("calls per HTTP/1 request and hop ({part})"), "", Limit::Most(4.3), counted);
    }
    Ok(())
}

fn calls(bench: &Bench<'_>, name: &str) -> anyhow::Result<f64> {
    let id = bench.proxy(name)?.to_string();
    let host = bench.mesh.workload(name)?.host();
    let mut strace = host.launch("strace", "strace").args(["-c", "-f", "-p", &id]).start()?;
    strace.wait_for_log("attached", WITHIN).context("strace (Debian: strace)")?;
    let before = bench.requests(name)?;
    bench.saturate()?;
    let requests = bench.requests(name)? - before;
    strace.signal(Signal::SIGINT)?;
    strace.wait(WITHIN)?;
    ensure!(requests > 0.0, "no request was counted");
    let log = strace.log();
    Ok(total(&log).with_context(|| format!("strace said no total:\n{log}"))? / requests)
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
