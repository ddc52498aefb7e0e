//! The maps that workers read. Filled by [`super::apply`]; a reader takes no lock and changes nothing but the time at
//! which something was last used.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use weft_runtime::Live;

use super::service::{Inbound, Mesh, Service, Workload};
use super::stats::Stats;

/// An answer that is complete: a service is found once its routes and its backends' endpoints are there.
#[derive(Clone, Debug)]
pub(super) enum Known {
    NotFound,
    PortNotFound,
    Service(Arc<Service>),
    Workload(Arc<Workload>),
}

/// All that readers see.
#[derive(Debug)]
pub(super) struct Cache {
    epoch: Instant,
    pub(super) destinations: Live<HashMap<SocketAddr, Entry>>,
    pub(super) mesh: Told<Mesh>,
    pub(super) inbound: Told<Inbound>,
    pub(super) stats: Stats,
}

/// A destination as readers see it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// `None`: asked for, and nothing is known yet. Only peers stand here so, lest each request asks again.
    pub(super) found: Option<Known>,
    pub(super) used: Arc<LastUsed>,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            destinations: Live::default(),
            mesh: Told::new(),
            inbound: Told::new(),
            stats: Stats::default(),
        }
    }

    /// What is known of a destination, `Some(None)` where it is asked for only; counts as using it.
    pub(super) fn find(&self, addr: SocketAddr) -> Option<Option<Known>> {
        let destinations = self.destinations.get();
        let entry = destinations.get(&addr)?;
        entry.used.touch(self.now());
        Some(entry.found.clone())
    }

    /// Time since this cache was made: what [`LastUsed`] counts in.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// When something was last used, to the millisecond; written by readers.
#[derive(Debug)]
pub(super) struct LastUsed(AtomicU64);

impl LastUsed {
    pub(super) fn new(now: Duration) -> Self {
        Self(AtomicU64::new(millis(now)))
    }

    pub(super) fn touch(&self, now: Duration) {
        self.0.store(millis(now), Ordering::Relaxed);
    }

    pub(super) fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A value that is read per decision, and that sleepers can wait for.
#[derive(Debug)]
pub(super) struct Told<T> {
    value: Live<Option<Arc<T>>>,
    generation: watch::Sender<u64>,
}

impl<T> Told<T> {
    fn new() -> Self {
        Self { value: Live::new(None), generation: watch::Sender::new(0) }
    }

    pub(super) fn get(&self) -> Option<Arc<T>> {
        Option::clone(&self.value.get())
    }

    pub(super) fn is_told(&self) -> bool {
        self.value.get().is_some()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The value, once there is one.
    pub(super) async fn told(&self) -> Arc<T> {
        let mut changes = self.changes();
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            if changes.changed().await.is_err() {
                // The sender is in `self`; it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The value first, then the wake-up: who wakes sees the new one.
    pub(super) fn publish(&self, value: T) {
        self.value.publish(Some(Arc::new(value)));
        self.generation.send_modify(|generation| *generation += 1);
    }
}
