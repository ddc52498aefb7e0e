//! What is done to a pair, and what is read off meanwhile: first it runs in, then a window is measured within it, so that neither
//! the opening nor the closing of connections is part of a figure.

pub(crate) mod bytes;
pub(crate) mod latency;
pub(crate) mod requests;

use std::time::Duration;

use anyhow::ensure;
use weft_cli::world::{Stopwatch, pause};

use crate::contestant::Stage;
use crate::server::Counter;

/// How long a load runs before it is measured, and goes on after.
pub(crate) const RUN_IN: Duration = Duration::from_millis(500);
/// Longest that a load may take to end beyond its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What happened in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// How often what was counted happened.
    pub(crate) count: f64,
    /// CPU time of both proxies, in seconds.
    pub(crate) cpu: f64,
    /// Its length in seconds.
    pub(crate) seconds: f64,
}

impl Window {
    /// Lets a load run in, and measures it for a while.
    pub(crate) fn measure(stage: &Stage<'_>, counter: Counter, length: Duration) -> anyhow::Result<Self> {
        pause(RUN_IN)?;
        let (cpu, count, watch) = (stage.cpu_seconds()?, stage.servers().count(counter)?, Stopwatch::start());
        pause(length)?;
        let (seconds, counted) = (watch.elapsed().as_secs_f64(), stage.servers().count(counter)?);
        let cpu = stage.cpu_seconds()? - cpu;
        let count = counted.saturating_sub(count);
        ensure!(count > 0, "nothing arrived at the server");
        Ok(Self { count: float(count), cpu, seconds })
    }

    /// CPU time for each, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu * 1e6 / self.count
    }

    /// How many in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count / self.seconds
    }
}

/// A count for a quotient.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
