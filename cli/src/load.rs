//! A small load generator: keep-alive HTTP/1.1 connections from inside a host, at a steady rate. It counts every answer that is
//! not 2xx, every reset and every stall as a failure, and retries nothing.

mod connection;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::future::join_all;
use hdrhistogram::Histogram;

use crate::world::{Host, Stopwatch};

/// What is asked, how often, by how many.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub to: SocketAddr,
    /// The path.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Requests in a second, by all connections together. What cannot be sent in time is not made up for.
    pub rate: u32,
    /// Connections at once.
    pub connections: u32,
    /// The load ends by itself after this.
    pub length_max: Duration,
}

impl Plan {
    /// GETs of one path: 100 a second on 8 connections, for a minute at most.
    pub fn get(to: SocketAddr, path: &str) -> Self {
        let path = path.to_owned();
        Self { to, path, headers: Vec::new(), rate: 100, connections: 8, length_max: Duration::from_secs(60) }
    }

    /// Sets the rate.
    #[must_use]
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// Sets the number of connections.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the longest time.
    #[must_use]
    pub fn length_max(mut self, length: Duration) -> Self {
        self.length_max = length;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    watch: Stopwatch,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What connections count into.
#[derive(Debug)]
pub(crate) struct Shared {
    stop: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Taken once a request, by the one thread of the load, and when somebody asks.
    details: Mutex<Details>,
}

#[derive(Debug)]
struct Details {
    failures: BTreeMap<String, u64>,
    latency_us: Histogram<u32>,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Report {
    /// Answers with 2xx, whole.
    pub succeeded: u64,
    /// All else.
    pub failed: u64,
    /// How it failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// How long it ran.
    pub length: Duration,
    /// Half of the answers came within this.
    pub p50: Duration,
    /// 99 of 100 answers came within this.
    pub p99: Duration,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Report {
    /// Requests in a second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn rate(&self) -> f64 {
        (self.succeeded + self.failed) as f64 / self.length.as_secs_f64().max(0.001)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.succeeded + self.failed;
        write!(f, "{total} requests at {:.0}/s, {} failed", self.rate(), self.failed)?;
        for (how, count) in &self.failures {
            write!(f, ", {count}× {how}")?;
        }
        write!(f, " (p50 {:.1} ms, p99 {:.1} ms)", self.p50.as_secs_f64() * 1e3, self.p99.as_secs_f64() * 1e3)
    }
}

impl Load {
    /// Starts it inside a host.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(host: &Host, plan: Plan) -> anyhow::Result<Self> {
        let latency_us = Histogram::new_with_bounds(1, 120_000_000, 3).context("making a histogram")?;
        let details = Mutex::new(Details { failures: BTreeMap::new(), latency_us });
        let shared = Shared { stop: AtomicBool::new(false), succeeded: 0.into(), failed: 0.into(), details };
        let shared = Arc::new(shared);
        let (host, counted) = (host.clone(), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("load".to_owned());
        let thread = thread.spawn(move || {
            host.block_on(|| async {
                let all = (0..plan.connections).map(|number| connection::drive(&plan, number, &counted));
                join_all(all).await;
            })
        });
        let thread = Some(thread.context("starting the load")?);
        Ok(Self { shared, watch: Stopwatch::start(), thread })
    }

    /// Answers so far: succeeded and failed.
    pub fn so_far(&self) -> (u64, u64) {
        (self.shared.succeeded.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// How long it has been running.
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// Ends it, after the answers that are under way, and tells what came of it.
    ///
    /// # Errors
    /// It could not run, or asked nothing at all: nothing would have been shown.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let length = self.watch.elapsed();
        let thread = self.thread.take().context("the load was finished before")?;
        thread.join().map_err(|_panic| anyhow!("the load panicked"))??;
        let details = self.shared.details.lock().unwrap_or_else(PoisonError::into_inner);
        let (succeeded, failed) = self.so_far();
        anyhow::ensure!(succeeded + failed > 0, "the load asked nothing");
        let at = |quantile| Duration::from_micros(details.latency_us.value_at_quantile(quantile));
        Ok(Report {
            succeeded,
            failed,
            failures: details.failures.clone(),
            length,
            p50: at(0.5),
            p99: at(0.99),
            slowest: Duration::from_micros(details.latency_us.max()),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || crate::world::is_interrupted()
    }

    fn count(&self, answer: Result<Duration, String>) {
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(took) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                details.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Err(how) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                *details.failures.entry(how).or_default() += 1;
            }
        }
    }
}
