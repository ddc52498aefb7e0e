//! What is measured, and what was: samples by figure and contestant, never an average that hides its spread.

use std::collections::BTreeMap;

use crate::contestant::Contestant;
use crate::fleet::Measured;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Http1Cpu,
    Http1Rate,
    Http2Cpu,
    Http2Rate,
    GrpcCpu,
    GrpcRate,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    BulkCpu,
    BulkRate,
    ConnectionCpu,
    ConnectionRate,
    CallsOutbound,
    CallsInbound,
    RssRest,
    RssLoad,
    RssIdleHttp,
    RssIdleTcp,
    LeakRss,
    LeakFiles,
    OverloadP99,
    OverloadOthers,
    Start,
    Size,
}

impl Figure {
    /// All of them, in the order they are told.
    pub(crate) const ALL: [Self; 25] = [
        Self::Http1Cpu,
        Self::Http1Rate,
        Self::Http2Cpu,
        Self::Http2Rate,
        Self::GrpcCpu,
        Self::GrpcRate,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::BulkCpu,
        Self::BulkRate,
        Self::ConnectionCpu,
        Self::ConnectionRate,
        Self::CallsOutbound,
        Self::CallsInbound,
        Self::RssRest,
        Self::RssLoad,
        Self::RssIdleHttp,
        Self::RssIdleTcp,
        Self::LeakRss,
        Self::LeakFiles,
        Self::OverloadP99,
        Self::OverloadOthers,
        Self::Start,
        Self::Size,
    ];

    /// What it is, for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Http1Cpu => "HTTP/1.1, CPU per request",
            Self::Http1Rate => "HTTP/1.1, requests",
            Self::Http2Cpu => "HTTP/2, CPU per request",
            Self::Http2Rate => "HTTP/2, requests",
            Self::GrpcCpu => "gRPC unary, CPU per request",
            Self::GrpcRate => "gRPC unary, requests",
            Self::LatencyP50 => "latency at 1,000/s, p50",
            Self::LatencyP99 => "latency at 1,000/s, p99",
            Self::LatencyP999 => "latency at 1,000/s, p99.9",
            Self::BulkCpu => "bulk TCP, CPU per GB",
            Self::BulkRate => "bulk TCP, one stream",
            Self::ConnectionCpu => "new opaque TCP connection, CPU",
            Self::ConnectionRate => "new opaque TCP connections",
            Self::CallsOutbound => "system calls per HTTP/1.1 request, outbound",
            Self::CallsInbound => "system calls per HTTP/1.1 request, inbound",
            Self::RssRest => "RSS at rest, outbound",
            Self::RssLoad => "RSS after load, outbound",
            Self::RssIdleHttp => "RSS with 1,000 idle HTTP connections, outbound",
            Self::RssIdleTcp => "RSS with 1,000 idle TCP connections, outbound",
            Self::LeakRss => "RSS after 1,000,000 connections, × after 10,000",
            Self::LeakFiles => "open files after them, × after 10,000",
            Self::OverloadP99 => "p99 at twice the capacity, × at half of it",
            Self::OverloadOthers => "failures then that are no 503 `overloaded`",
            Self::Start => "start to ready",
            Self::Size => "binary, stripped",
        }
    }

    /// What it is counted in.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Http1Cpu | Self::Http2Cpu | Self::GrpcCpu | Self::ConnectionCpu => "µs",
            Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 => "µs",
            Self::Http1Rate | Self::Http2Rate | Self::GrpcRate | Self::ConnectionRate => "1/s",
            Self::BulkCpu => "s",
            Self::BulkRate => "Gbit/s",
            Self::CallsOutbound
            | Self::CallsInbound
            | Self::LeakRss
            | Self::LeakFiles
            | Self::OverloadP99
            | Self::OverloadOthers => "",
            Self::RssRest | Self::RssLoad | Self::RssIdleHttp | Self::RssIdleTcp | Self::Size => "MiB",
            Self::Start => "ms",
        }
    }
}

/// What one figure came to, over the repetitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// What 99 of 100 do not exceed.
    pub(crate) fn p99(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * 99).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }

    /// The middle one, or the mean of the two in the middle; nothing where nothing was measured.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied();
        let middle = sorted.len() / 2;
        let upper = at(middle)?;
        Some(if sorted.len().is_multiple_of(2) { f64::midpoint(at(middle.checked_sub(1)?)?, upper) } else { upper })
    }

    /// From the least to the most, as a share of the median.
    pub(crate) fn spread(&self) -> Option<f64> {
        let least = self.0.iter().copied().min_by(f64::total_cmp)?;
        let most = self.0.iter().copied().max_by(f64::total_cmp)?;
        self.median().filter(|median| *median > 0.0).map(|median| (most - least) / median)
    }

    /// As they came.
    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }
}

/// All that was measured, and why the rest was not.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    samples: BTreeMap<(Figure, Contestant), Samples>,
    fleets: Vec<Measured>,
    missing: Vec<String>,
}

impl Figures {
    /// Adds a sample.
    pub(crate) fn add(&mut self, figure: Figure, contestant: Contestant, value: f64) {
        self.samples.entry((figure, contestant)).or_default().add(value);
    }

    /// Adds what a fleet measured.
    pub(crate) fn add_fleet(&mut self, measured: Measured) {
        self.fleets.push(measured);
    }

    /// What fleets measured, the smallest first.
    pub(crate) fn fleets(&self) -> &[Measured] {
        &self.fleets
    }

    /// Notes that something could not be measured, and of whom.
    pub(crate) fn miss(&mut self, what: &str, whom: &str, why: &anyhow::Error) {
        self.missing.push(format!("{what}, {whom}: {why:#}"));
    }

    /// What could not be measured, and why.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// One contestant's samples of a figure.
    pub(crate) fn samples(&self, figure: Figure, contestant: Contestant) -> Option<&Samples> {
        self.samples.get(&(figure, contestant))
    }

    /// Its median.
    pub(crate) fn median(&self, figure: Figure, contestant: Contestant) -> Option<f64> {
        self.samples(figure, contestant)?.median()
    }

    /// The figures of which there is at least one sample, in order.
    pub(crate) fn measured(&self) -> impl Iterator<Item = Figure> {
        Figure::ALL.into_iter().filter(|figure| {
            Contestant::ALL.iter().any(|contestant| self.samples.contains_key(&(*figure, *contestant)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Samples};

    #[test]
    fn the_median_is_the_middle_and_the_spread_is_from_least_to_most() {
        for (samples, median, spread) in
            [(vec![3.0, 1.0, 2.0], 2.0, 1.0), (vec![4.0, 1.0, 2.0, 3.0], 2.5, 1.2), (vec![5.0], 5.0, 0.0)]
        {
            let samples = Samples(samples);
            assert_eq!((samples.median(), samples.spread()), (Some(median), Some(spread)));
        }
        assert_eq!((Samples::default().median(), Samples::default().spread()), (None, None));
    }

    #[test]
    fn every_figure_is_told_once() {
        let mut all = Figure::ALL.to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all, Figure::ALL);
    }
}
