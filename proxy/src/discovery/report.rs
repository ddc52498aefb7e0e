//! What discovery knows and did, as metrics, written at each scrape.

use std::collections::BTreeMap;

use super::cache::{Cache, Known};
use super::service::Backend;
use crate::record::{Kind, Text};

/// Writes the counters, and the endpoints of every backend by state.
pub(super) fn write(cache: &Cache, text: &mut Text<'_>) {
    let stats = &cache.stats;
    let counters = [
        ("weft_discovery_lookups", "Destinations that were not known when needed.", &stats.lookups),
        ("weft_discovery_timeouts", "Lookups without an answer in time.", &stats.lookups_timed_out),
        ("weft_discovery_lookups_refused", "Lookups refused by a bound.", &stats.lookups_refused),
        ("weft_discovery_accepted", "Versions of resources that came into force.", &stats.accepted),
        (
            "weft_discovery_refused",
            "Versions of resources refused as invalid; the last good ones stay.",
            &stats.refused,
        ),
        ("weft_discovery_evictions", "Subscriptions given up.", &stats.evicted),
        ("weft_discovery_connects", "Streams opened to the control plane.", &stats.streams),
        (
            "weft_discovery_failures",
            "Streams to the control plane that ended or could not be opened.",
            &stats.stream_failures,
        ),
    ];
    for (name, help, counter) in counters {
        text.family(name, Kind::Counter, help);
        text.sample(&[], counter.get());
    }
    let gauges = [
        ("weft_discovery_connected", "Whether a stream to the control plane is open (1) or not (0).", &stats.connected),
        ("weft_discovery_subscriptions", "Resources asked for.", &stats.subscriptions),
    ];
    for (name, help, gauge) in gauges {
        text.family(name, Kind::Gauge, help);
        text.sample(&[], gauge.get());
    }
    text.family("weft_endpoints", Kind::Gauge, "Endpoints of the services that the workload talks to, by state.");
    for backend in backends(cache).values() {
        endpoints(backend, text);
    }
}

/// Every backend once, in the order of keys.
fn backends(cache: &Cache) -> BTreeMap<weft_model::ServiceKey, std::sync::Arc<Backend>> {
    let mut all = BTreeMap::new();
    let destinations = cache.destinations.get();
    let services = destinations.values().filter_map(|entry| match &entry.found {
        Some(Known::Service(service)) => Some(service),
        _ => None,
    });
    // Collected first, because the order of a hash map is nobody's.
    for service in services.collect::<Vec<_>>() {
        let snapshot = service.snapshot();
        for backend in snapshot.backends.iter().chain([&snapshot.own]) {
            all.insert(backend.key().clone(), std::sync::Arc::clone(backend));
        }
    }
    all
}

fn endpoints(backend: &Backend, text: &mut Text<'_>) {
    let (key, set) = (backend.key(), backend.endpoints());
    let port = key.port.to_string();
    let ejected = u64::from(set.ejected_len());
    let active = (set.active_len() as u64).saturating_sub(ejected);
    let standing_by = (set.len() - set.active_len()) as u64;
    for (state, count) in [("active", active), ("ejected", ejected), ("standing-by", standing_by)] {
        let labels = [
            ("destination_namespace", &*key.namespace),
            ("destination_service", &*key.name),
            ("port", port.as_str()),
            ("state", state),
        ];
        text.sample(&labels, count);
    }
}
