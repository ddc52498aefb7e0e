//! The control plane's own figures.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use weft_model::version::Skew;

/// From a file that is saved on a laptop to a rollout in a large cluster.
const SETTLED_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Everything that is counted. Cheap to update; shown by [`Metrics::write`].
#[derive(Debug)]
pub struct Metrics {
    /// Answers that proxies acknowledged.
    pub acks: Counter,
    /// Distinct answers that are kept because somebody asked for them.
    pub answers: Gauge,
    /// Answers that were computed, for a first asker or because a change may have changed them.
    pub answers_computed: Counter,
    /// Certificates issued.
    pub certificates: Counter,
    /// Resources that came, changed or went.
    pub changes: Counter,
    /// Documents of the source that cannot be taken.
    pub file_problems: Gauge,
    /// Answers that proxies refused.
    pub nacks: Counter,
    /// Proxies with a stream.
    pub proxies: Gauge,
    /// Requests of proxies that this version has no word for.
    pub not_understood: Counter,
    /// Connections that were refused before they became one.
    pub refused: Counter,
    /// From a change to the acknowledgement of the last proxy that it concerns.
    pub settled: Histogram,
    /// What proxies asked for.
    pub subscriptions: Gauge,
    anchor_expiry: Gauge<f64, AtomicU64>,
    issuer_expiry: Gauge<f64, AtomicU64>,
    issuer_overdue: Gauge<f64, AtomicU64>,
    issuer_refused: Gauge,
    not_injected: Family<ReasonLabel, Gauge>,
    peers: Family<PeerLabel, Gauge>,
    proxies_by_skew: Family<SkewLabel, Gauge>,
    resources: Family<ResourceLabels, Gauge>,
    source_heard: Family<KindLabel, Gauge<f64, AtomicU64>>,
    source_missed: Family<KindLabel, Counter>,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    kind: &'static str,
    accepted: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    heard: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkewLabel {
    skew: &'static str,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            acks: Counter::default(),
            answers: Gauge::default(),
            answers_computed: Counter::default(),
            certificates: Counter::default(),
            changes: Counter::default(),
            file_problems: Gauge::default(),
            nacks: Counter::default(),
            not_understood: Counter::default(),
            proxies: Gauge::default(),
            refused: Counter::default(),
            settled: Histogram::new(SETTLED_BUCKETS),
            subscriptions: Gauge::default(),
            anchor_expiry: Gauge::default(),
            issuer_expiry: Gauge::default(),
            issuer_overdue: Gauge::default(),
            issuer_refused: Gauge::default(),
            not_injected: Family::default(),
            peers: Family::default(),
            proxies_by_skew: Family::default(),
            resources: Family::default(),
            source_heard: Family::default(),
            source_missed: Family::default(),
            registry: Registry::with_prefix("weft_control_plane"),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("acks", "Answers that proxies acknowledged", self.acks.clone());
        r.register("answers", "Distinct answers that somebody asked for", self.answers.clone());
        let help = "Answers computed, for a first asker or because a change may have changed them";
        r.register("answers_computed", help, self.answers_computed.clone());
        r.register("certificates_issued", "Certificates issued", self.certificates.clone());
        r.register("changes", "Resources that came, changed or went", self.changes.clone());
        r.register("file_problems", "Documents of the source that cannot be taken", self.file_problems.clone());
        r.register("nacks", "Answers that proxies refused", self.nacks.clone());
        let help = "Pods that should have a proxy and have none, by reason; of the replica that writes";
        r.register("pods_not_injected", help, self.not_injected.clone());
        let help = "Other replicas, by whether they tell this one of their proxies";
        r.register("peers", help, self.peers.clone());
        r.register("proxies", "Proxies with a stream", self.proxies.clone());
        let help = "Proxies with a stream, by how many minor versions they are from this control plane: same, next, far or unknown";
        r.register("proxies_by_skew", help, self.proxies_by_skew.clone());
        r.register(
            "refused_connections",
            "Connections refused in the handshake or for lack of room",
            self.refused.clone(),
        );
        let help = "Requests of proxies that this version has no word for, and passed over";
        r.register("requests_not_understood", help, self.not_understood.clone());
        r.register("resources", "Resources by kind and whether all of them is in force", self.resources.clone());
        r.register("subscriptions", "What proxies asked for", self.subscriptions.clone());
        let help = "From a change to the acknowledgement of the last proxy that it concerns";
        r.register_with_unit("change_to_last_ack", help, Unit::Seconds, self.settled.clone());
        let help = "Until when the trust anchor that expires first is valid, in seconds since 1970";
        r.register("anchor_expiry_timestamp_seconds", help, self.anchor_expiry.clone());
        let help = "Until when the issuer is valid, in seconds since 1970";
        r.register("issuer_expiry_timestamp_seconds", help, self.issuer_expiry.clone());
        let help = "From when on the issuer should have been replaced, a sixth of its life before its end, in seconds since 1970";
        r.register("issuer_overdue_timestamp_seconds", help, self.issuer_overdue.clone());
        let help =
            "Whether the Secret of the issuer, where there is one, cannot be used: 1, and what was in force stays";
        r.register("issuer_secret_refused", help, self.issuer_refused.clone());
        let help = "When it was last known that what is held of a kind is what the API server has, in seconds since 1970: \
                    an event came, or a list agreed";
        r.register("source_heard_timestamp_seconds", help, self.source_heard.clone());
        let help = "Resources of a kind that a watch did not tell of, and a comparison with the API server found";
        r.register("source_missed", help, self.source_missed.clone());
    }

    /// Sets the dates until which certificates of the authority are valid, and from which on the issuer is overdue, in seconds since
    /// 1970.
    pub fn set_expiries(&self, anchor_unix_s: u64, issuer_unix_s: u64, overdue_unix_s: u64) {
        // Exact until the year 285 million.
        self.anchor_expiry.set(anchor_unix_s as f64);
        self.issuer_expiry.set(issuer_unix_s as f64);
        self.issuer_overdue.set(overdue_unix_s as f64);
    }

    /// Sets whether the Secret of the issuer cannot be used.
    pub(crate) fn set_issuer_refused(&self, is_refused: bool) {
        self.issuer_refused.set(i64::from(is_refused));
    }

    /// Notes that what is held of a kind was current at a time, in seconds since 1970.
    pub(crate) fn heard(&self, kind: &'static str, now_unix_s: u64) {
        // Exact until the year 285 million.
        self.source_heard.get_or_create(&KindLabel { kind }).set(now_unix_s as f64);
        // There from the start, so that the first one that is missed is an increase.
        let _zero = self.source_missed.get_or_create(&KindLabel { kind });
    }

    /// Counts resources of a kind that a watch did not tell of.
    pub(crate) fn missed(&self, kind: &'static str, count: usize) {
        self.source_missed.get_or_create(&KindLabel { kind }).inc_by(count as u64);
    }

    /// How many proxies there are of versions that are so far from ours; `None` where one says no version.
    pub(crate) fn proxies_by_skew(&self, skew: Option<Skew>) -> Gauge {
        let skew = match skew {
            None => "unknown",
            Some(Skew::Far) => "far",
            Some(Skew::Next) => "next",
            Some(Skew::Same) => "same",
        };
        self.proxies_by_skew.get_or_create_owned(&SkewLabel { skew })
    }

    /// Sets how many pods have no proxy, by reason.
    pub(crate) fn set_not_injected(&self, counts: impl IntoIterator<Item = (&'static str, i64)>) {
        self.not_injected.clear();
        for (reason, count) in counts {
            self.not_injected.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }

    /// Sets how many other replicas are heard, and how many are not.
    pub(crate) fn set_peers(&self, heard: i64, unheard: i64) {
        self.peers.get_or_create(&PeerLabel { heard: "true" }).set(heard);
        self.peers.get_or_create(&PeerLabel { heard: "false" }).set(unheard);
    }

    /// Sets how many resources of a kind there are.
    pub(crate) fn set_resources(&self, counts: impl IntoIterator<Item = ((&'static str, bool), i64)>) {
        self.resources.clear();
        for ((kind, accepted), count) in counts {
            let accepted = if accepted { "true" } else { "false" };
            self.resources.get_or_create(&ResourceLabels { kind, accepted }).set(count);
        }
    }

    /// Writes everything as OpenMetrics text.
    pub fn write(&self, out: &mut String) {
        if encode(out, &self.registry).is_err() {
            // Writing to a string does not fail; if it did, half a page would be a lie.
            out.clear();
        }
    }
}
