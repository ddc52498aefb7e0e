//! What is measured of whom, in which order.

use std::time::Duration;

use clap::ValueEnum;
use weft_cli::world::{Privilege, World, is_interrupted, pause};
use weft_tests::memory::memory;

use crate::contestant::{Contestant, Stage};
use crate::figure::{Figure, Figures};
use crate::fleet::{self, Size};
use crate::kernel;
use crate::load::{bytes, float, latency, requests};
use crate::overload;
use crate::programs::Programs;
use crate::server::{BYTES_PORT, GRPC_PORT, HTTP1_PORT, HTTP2_PORT};

/// Connections that are idle at once.
const IDLE: usize = 1000;
/// Connections after which it is looked at what is left of them, and again.
const LEAKS: [u64; 2] = [10_000, 1_000_000];
/// Meshes that the control plane is measured with; one workload for each proxy.
const FLEETS: &[Size] = &[
    Size { proxies: 10, services: 100 },
    Size { proxies: 100, services: 100 },
    Size { proxies: 1000, services: 1000 },
    Size { proxies: 5000, services: 5000 },
];
/// Changes that are timed with each.
const CHANGES: usize = 50;
/// What a proxy does after load is over by then, and its allocator has given back what is free.
const SETTLE: Duration = Duration::from_secs(2);

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Round {
    /// How large, how soon ready, how much memory at rest.
    Rest,
    /// HTTP/1.1 at saturation, 64 connections.
    Http1,
    /// HTTP/2 at saturation, 8 connections × 8 streams.
    Http2,
    /// gRPC at saturation, 8 connections × 8 streams.
    Grpc,
    /// HTTP/1.1 at 1,000 requests a second, timed from the intended send.
    Latency,
    /// One TCP stream as fast as it goes.
    Bulk,
    /// New opaque TCP connections.
    Connections,
    /// System calls per HTTP/1.1 request.
    Calls,
    /// Memory with idle connections.
    Idle,
    /// What a million connections leave behind.
    Leaks,
    /// Twice as much as a proxy may take.
    Overload,
    /// The control plane under a fleet of simulated proxies.
    Fleet,
}

impl Round {
    /// All of them; what loads leave behind does not touch what is measured at rest.
    const ALL: [Self; 12] = [
        Self::Rest,
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Latency,
        Self::Bulk,
        Self::Connections,
        Self::Calls,
        Self::Idle,
        Self::Leaks,
        Self::Overload,
        Self::Fleet,
    ];

    /// Whether it says something of a contestant.
    fn concerns(self, contestant: Contestant) -> bool {
        use Contestant::{Direct, Envoy, ForwarderHttp1, ForwarderHttp2, ForwarderShared, Weft};
        match (self, contestant) {
            (Self::Fleet | Self::Overload, _) => false,
            (Self::Leaks, contestant) => contestant == Weft,
            (_, Envoy | Weft) => true,
            (Self::Rest | Self::Idle, _) => false,
            (Self::Calls, Direct) => false,
            (Self::Http1 | Self::Calls, ForwarderHttp1 | ForwarderShared) => true,
            (Self::Latency, ForwarderHttp1) => true,
            (Self::Http2 | Self::Grpc, ForwarderHttp2) => true,
            (_, contestant) => !contestant.is_bare(),
        }
    }

    /// What varies little and costs a while is measured once.
    fn is_once(self) -> bool {
        matches!(self, Self::Calls | Self::Idle | Self::Leaks)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rest => "at rest",
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
            Self::Latency => "latency",
            Self::Bulk => "bulk TCP",
            Self::Connections => "new connections",
            Self::Calls => "system calls",
            Self::Idle => "idle connections",
            Self::Leaks => "a million connections",
            Self::Overload => "overload",
            Self::Fleet => "control plane",
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How often each figure is measured.
    pub(crate) repetitions: u32,
    /// For how long.
    pub(crate) length: Duration,
    rounds: Vec<Round>,
    smoke: bool,
}

impl Plan {
    /// All rounds unless some are named; a smoke test is one short repetition of each.
    pub(crate) fn new(repetitions: u32, seconds: u32, smoke: bool, only: &[Round]) -> Self {
        let wanted = |round: &Round| only.is_empty() || only.contains(round);
        let rounds = Round::ALL.into_iter().filter(wanted).collect();
        let (repetitions, seconds) = if smoke { (1, 1) } else { (repetitions.max(1), seconds.max(1)) };
        Self { repetitions, length: Duration::from_secs(seconds.into()), rounds, smoke }
    }

    /// Measures; what cannot be measured is noted, and the rest goes on.
    pub(crate) fn run(
        &self,
        stages: &mut [Stage<'_>],
        programs: &Programs,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        for round in self.rounds.iter().copied() {
            let repetitions = if round.is_once() { 1 } else { self.repetitions };
            for repetition in 1..=repetitions {
                for stage in stages.iter_mut().filter(|stage| round.concerns(stage.contestant())) {
                    let contestant = stage.contestant();
                    eprintln!("{}, {repetition} of {repetitions}: {}", round.title(), contestant.title());
                    if let Err(error) = self.measure(round, stage, programs, figures) {
                        if is_interrupted() {
                            return Err(error);
                        }
                        eprintln!("  {error:#}");
                        figures.miss(round.title(), contestant.title(), &error);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the outbound proxy holds after many connections, as a multiple of what it holds after few: memory and open files.
    fn leaks(&self, stage: &mut Stage<'_>) -> anyhow::Result<[f64; 2]> {
        let [few, many] = if self.smoke { LEAKS.map(|count| count / 100) } else { LEAKS };
        stage.reuse_ports()?;
        stage.restart()?;
        bytes::churn(stage, few)?;
        pause(SETTLE)?;
        let (rss, files) = (outbound(stage)?, open_files(stage)?);
        bytes::churn(stage, many - few)?;
        pause(SETTLE)?;
        Ok([outbound(stage)? / rss, open_files(stage)? / files])
    }

    /// Whether pairs of proxies are to be measured.
    pub(crate) fn has_pairs(&self) -> bool {
        self.rounds.iter().any(|round| Contestant::ALL.iter().any(|contestant| round.concerns(*contestant)))
    }

    /// Measures what becomes of too many requests.
    pub(crate) fn run_overload(
        &self,
        privilege: Privilege,
        programs: &Programs,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        if !self.rounds.contains(&Round::Overload) {
            return Ok(());
        }
        for repetition in 1..=self.repetitions {
            eprintln!("{}, {repetition} of {}", Round::Overload.title(), self.repetitions);
            let measure = |world: &World| overload::measure(world, programs, self.length);
            let measured = alone(privilege, Round::Overload, Contestant::Weft.title(), figures, measure)?;
            if let Some(overload::Measured { p99, others }) = measured {
                figures.add(Figure::OverloadP99, Contestant::Weft, p99);
                figures.add(Figure::OverloadOthers, Contestant::Weft, others);
            }
        }
        Ok(())
    }

    /// Measures the control plane, each size in a world of its own.
    pub(crate) fn run_fleets(
        &self,
        privilege: Privilege,
        programs: &Programs,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        if !self.rounds.contains(&Round::Fleet) {
            return Ok(());
        }
        let (sizes, changes) = if self.smoke { (&FLEETS[..1], 3) } else { (FLEETS, CHANGES) };
        for size in sizes.iter().copied() {
            let whom = format!("{} proxies, {} services", size.proxies, size.services);
            eprintln!("{}: {whom}", Round::Fleet.title());
            let measure = |world: &World| fleet::measure(world, programs, size, changes, self.length);
            if let Some(measured) = alone(privilege, Round::Fleet, &whom, figures, measure)? {
                figures.add_fleet(measured);
            }
        }
        Ok(())
    }

    fn measure(
        &self,
        round: Round,
        stage: &mut Stage<'_>,
        programs: &Programs,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let contestant = stage.contestant();
        let length = self.length;
        let mut add = |figure, value| figures.add(figure, contestant, value);
        match round {
            Round::Rest => {
                let program = if contestant == Contestant::Weft { &programs.proxy } else { &programs.envoy };
                add(Figure::Size, kernel::stripped_mib(program)?);
                add(Figure::Start, stage.restart()?.as_secs_f64() * 1e3);
                pause(SETTLE)?;
                add(Figure::RssRest, outbound(stage)?);
            }
            Round::Http1 | Round::Http2 | Round::Grpc => {
                let (port, cpu, rate) = match round {
                    Round::Http1 => (HTTP1_PORT, Figure::Http1Cpu, Figure::Http1Rate),
                    Round::Http2 => (HTTP2_PORT, Figure::Http2Cpu, Figure::Http2Rate),
                    _ => (GRPC_PORT, Figure::GrpcCpu, Figure::GrpcRate),
                };
                let window = requests::saturate(stage, port, length)?;
                add(rate, window.rate());
                if contestant.has_proxies() {
                    add(cpu, window.cpu_us());
                }
                if round == Round::Http1 && matches!(contestant, Contestant::Envoy | Contestant::Weft) {
                    add(Figure::RssLoad, outbound(stage)?);
                }
            }
            Round::Latency => {
                let latencies = latency::measure(stage, length)?;
                let at = |quantile| float(latencies.value_at_quantile(quantile));
                add(Figure::LatencyP50, at(0.5));
                add(Figure::LatencyP99, at(0.99));
                add(Figure::LatencyP999, at(0.999));
            }
            Round::Bulk => {
                let window = bytes::bulk(stage, length)?;
                add(Figure::BulkRate, window.rate() * 8.0 / 1e9);
                if contestant.has_proxies() {
                    add(Figure::BulkCpu, window.cpu * 1e9 / window.count);
                }
            }
            Round::Connections => {
                let window = bytes::connections(stage, length)?;
                add(Figure::ConnectionRate, window.rate());
                if contestant.has_proxies() {
                    add(Figure::ConnectionCpu, window.cpu_us());
                }
            }
            Round::Calls => {
                let [outbound, inbound] = stage.proxies()?;
                add(Figure::CallsOutbound, requests::calls(stage, outbound, length)?);
                add(Figure::CallsInbound, requests::calls(stage, inbound, length)?);
            }
            Round::Leaks => {
                let [rss, files] = self.leaks(stage)?;
                add(Figure::LeakRss, rss);
                add(Figure::LeakFiles, files);
            }
            // Each has worlds of its own.
            Round::Fleet | Round::Overload => {}
            Round::Idle => {
                for (port, figure) in [(HTTP1_PORT, Figure::RssIdleHttp), (BYTES_PORT, Figure::RssIdleTcp)] {
                    // From the beginning, so that neither load nor the other kind has left anything behind.
                    stage.restart()?;
                    let connections = bytes::idle(stage, port, IDLE)?;
                    pause(SETTLE)?;
                    add(figure, outbound(stage)?);
                    drop(connections);
                }
            }
        }
        Ok(())
    }
}

/// Measures something in a world of its own. `None`: it could not be measured, which is noted.
fn alone<T>(
    privilege: Privilege,
    round: Round,
    whom: &str,
    figures: &mut Figures,
    measure: impl FnOnce(&World) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let world = World::new(privilege)?;
    match measure(&world) {
        Ok(measured) => Ok(Some(measured)),
        Err(error) if is_interrupted() => Err(error),
        Err(error) => {
            eprintln!("  {error:#}\n{}", world.logs(20));
            figures.miss(round.title(), whom, &error);
            Ok(None)
        }
    }
}

/// How many files the outbound proxy has open.
fn open_files(stage: &Stage<'_>) -> anyhow::Result<f64> {
    let [outbound, _] = stage.proxies()?;
    kernel::open_files(outbound).map(float)
}

/// What is resident of the outbound proxy, in MiB.
fn outbound(stage: &Stage<'_>) -> anyhow::Result<f64> {
    let [outbound, _] = stage.proxies()?;
    Ok(memory(outbound)?.rss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoke_test_is_short_and_whole() {
        let plan = Plan::new(5, 10, true, &[]);
        assert_eq!((plan.repetitions, plan.length.as_secs(), plan.rounds.len()), (1, 1, Round::ALL.len()));
        assert_eq!(Plan::new(0, 0, false, &[Round::Bulk]).rounds, [Round::Bulk]);
    }

    #[test]
    fn weft_and_its_peer_are_in_every_round() {
        let alone = |round: &Round| matches!(round, Round::Fleet | Round::Leaks | Round::Overload);
        for round in Round::ALL.into_iter().filter(|round| !alone(round)) {
            assert!(round.concerns(Contestant::Weft) && round.concerns(Contestant::Envoy), "{round:?}");
        }
    }
}
