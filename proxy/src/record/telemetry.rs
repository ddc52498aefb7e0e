//! [`Telemetry`]: what the control thread holds of all records: settings, the scrape, and the ways to log and exporter.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};
use weft_model::WorkloadName;
use weft_model::resources::TelemetrySpec;
use weft_runtime::clock::WallClock;
use weft_runtime::task::Tasks;

use super::Recorder;
use super::access_log::{AccessLog, Line};
use super::facts::{HttpFacts, TcpFacts};
use super::metrics::{Event, Gauge, Registry, Text};
use super::span::{Exporter, Finished, SPANS_QUEUED_MAX, Sampling};

/// All that the process tells about itself. Clones are the same.
#[derive(Clone)]
pub(crate) struct Telemetry {
    shared: Arc<Shared>,
}

/// What workers read, all of it without a lock.
pub(super) struct Shared {
    pub(super) metrics: Arc<Registry>,
    pub(super) workload: WorkloadName,
    pub(super) clock: WallClock,
    access_log: AtomicBool,
    /// Made when the log is first turned on.
    log: OnceLock<AccessLog>,
    /// Whether spans have a place to go.
    exporting: AtomicBool,
    trace_per_million: AtomicU32,
    spans: mpsc::Sender<Finished>,
    otlp: watch::Sender<Option<Arc<str>>>,
}

impl Telemetry {
    /// Telemetry of this workload, and the exporter to be run on the control thread.
    pub(crate) fn new(workload: WorkloadName, clock: WallClock) -> (Self, Exporter) {
        let (spans, finished) = mpsc::channel(SPANS_QUEUED_MAX);
        let (otlp, endpoint) = watch::channel(None);
        let metrics = Arc::new(Registry::new(&clock));
        let exporter = Exporter::new(finished, endpoint, Arc::clone(&metrics), workload.clone());
        let shared = Shared {
            metrics,
            workload,
            clock,
            access_log: AtomicBool::new(false),
            log: OnceLock::new(),
            exporting: AtomicBool::new(false),
            trace_per_million: AtomicU32::new(0),
            spans,
            otlp,
        };
        (Self { shared: Arc::new(shared) }, exporter)
    }

    /// One worker's recorder; call it on the worker's thread, once.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(Arc::clone(&self.shared))
    }

    /// Puts what discovery says in force.
    pub(crate) fn apply(&self, spec: &TelemetrySpec) {
        let TelemetrySpec { access_log, trace_per_million, otlp_endpoint } = spec;
        if *access_log && self.shared.log.get().is_none() {
            match AccessLog::start(std::io::stdout(), Arc::clone(&self.shared.metrics)) {
                Ok(log) => drop(self.shared.log.set(log)),
                Err(error) => tracing::error!(%error, "access log has no thread"),
            }
        }
        self.shared.access_log.store(*access_log, Ordering::Relaxed);
        self.shared.trace_per_million.store(*trace_per_million, Ordering::Relaxed);
        self.shared.exporting.store(otlp_endpoint.is_some(), Ordering::Relaxed);
        self.shared.otlp.send_if_modified(|endpoint| {
            let differs = endpoint != otlp_endpoint;
            endpoint.clone_from(otlp_endpoint);
            differs
        });
    }

    /// How often an event happened.
    #[cfg(test)]
    pub(crate) fn counted(&self, event: Event) -> u64 {
        self.shared.metrics.counted(event)
    }

    /// Sets a gauge.
    pub(crate) fn set(&self, gauge: Gauge, value: i64) {
        self.shared.metrics.set(gauge, value);
    }

    /// Changes a gauge.
    pub(crate) fn change(&self, gauge: Gauge, by: i64) {
        self.shared.metrics.change(gauge, by);
    }

    /// Has families written at each scrape by the one who has the numbers. The hook runs on the admin thread and must
    /// be quick.
    pub(crate) fn on_scrape(&self, hook: impl Fn(&mut Text<'_>) + Send + Sync + 'static) {
        self.shared.metrics.on_scrape(Box::new(hook));
    }

    /// Has the panics of these tasks told.
    pub(crate) fn watch_tasks(&self, tasks: Tasks) {
        self.shared.metrics.watch_tasks(tasks);
    }

    /// Writes `/metrics`.
    pub(crate) fn write(&self, out: &mut String) {
        self.shared.metrics.write(out);
    }
}

impl Shared {
    pub(super) fn logs_access(&self) -> bool {
        self.access_log.load(Ordering::Relaxed)
    }

    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            exporting: self.exporting.load(Ordering::Relaxed),
            logging: self.logs_access(),
            per_million: self.trace_per_million.load(Ordering::Relaxed),
        }
    }

    /// Hands a finished request to log and exporter, where they want it.
    pub(super) fn tell_request(&self, facts: &HttpFacts) {
        let (logs, recorded) = (self.logs_access(), facts.trace.is_recorded());
        if !logs && !recorded {
            return;
        }
        let (facts, at) = (Arc::new(facts.clone()), self.clock.now());
        if recorded && self.spans.try_send(Finished { facts: Arc::clone(&facts), at }).is_err() {
            self.metrics.count(Event::SpanDropped);
        }
        if logs {
            self.log(Line::Request { facts, at });
        }
    }

    /// Hands a finished connection to the log, where it is on.
    pub(super) fn tell_connection(&self, facts: &TcpFacts) {
        if self.logs_access() {
            self.log(Line::Connection { facts: Arc::new(facts.clone()), at: self.clock.now() });
        }
    }

    fn log(&self, line: Line) {
        if !self.log.get().is_some_and(|log| log.tell(line)) {
            self.metrics.count(Event::AccessLogDropped);
        }
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}
