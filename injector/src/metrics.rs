//! The injector's own figures.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use weft_model::kubernetes::NotInjected;

/// In seconds. One pod costs some hundred microseconds (docs/measurements), 10 ms are promised, and at 5 s the API server asks
/// no longer.
const ADMISSION_BUCKETS: [f64; 11] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

/// Why a pod that is asked about is left alone. The one other reason is that nobody asked.
const SKIPPED: [NotInjected; 4] =
    [NotInjected::Disabled, NotInjected::HasProxy, NotInjected::HostNetwork, NotInjected::Static];

/// Everything that is counted. Cheap to update; shown by [`Metrics::write`].
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Pods that got a proxy.
    pub(crate) injected: Counter,
    /// Pods that were refused.
    pub(crate) refused: Counter,
    admission: Histogram,
    skipped: Family<ReasonLabel, Counter>,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            injected: Counter::default(),
            refused: Counter::default(),
            admission: Histogram::new(ADMISSION_BUCKETS),
            skipped: Family::default(),
            registry: Registry::with_prefix("weft_injector"),
        };
        for reason in SKIPPED {
            // There from the start, so that the first one is an increase.
            let _zero = metrics.skipped(reason);
        }
        let r = &mut metrics.registry;
        let help = "From the API server's question about a pod to the answer, its body read and written";
        r.register_with_unit("admission_duration", help, Unit::Seconds, metrics.admission.clone());
        r.register("injected_pods", "Pods that got a proxy", metrics.injected.clone());
        r.register("refused_pods", "Pods whose settings make no sense", metrics.refused.clone());
        r.register("skipped_pods", "Pods that were left alone, by reason", metrics.skipped.clone());
        metrics
    }

    /// Pods that were left alone for this reason.
    pub(crate) fn skipped(&self, reason: NotInjected) -> Counter {
        self.skipped.get_or_create_owned(&ReasonLabel { reason: reason.as_str() })
    }

    /// Notes how long an answer took.
    pub(crate) fn answered(&self, after: Duration) {
        self.admission.observe(after.as_secs_f64());
    }

    /// Writes everything as OpenMetrics text.
    pub(crate) fn write(&self, out: &mut String) {
        if encode(out, &self.registry).is_err() {
            // Writing to a string does not fail; if it did, half a page would be a lie.
            out.clear();
        }
    }
}
