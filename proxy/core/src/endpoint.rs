//! An endpoint as the data plane holds it: what discovery says of it, and what we have seen of it ourselves.
//!
//! What was seen (requests in flight, latency, failures) is shared by all workers and outlives snapshots: it belongs to
//! the *instance* behind the address. Another identity or another workload at the same address is another instance.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_model::endpoint::EndpointSpec;
use weft_model::policy::BackendPolicy;

use crate::balance::ewma::Ewma;
use crate::breaker::{Breaker, Outliers};
use crate::classify::Class;
use crate::ticks::Epoch;

/// An endpoint, under the policy of its service port. Replaced when discovery says something new of it; what was seen
/// stays.
pub struct Endpoint {
    spec: EndpointSpec,
    policy: BackendPolicy,
    seen: Arc<Seen>,
}

/// What all generations of an endpoint share.
struct Seen {
    id: u64,
    epoch: Epoch,
    gone: AtomicBool,
    outliers: Arc<Outliers>,
    counters: Counters,
}

/// What every request writes: on cache lines of its own, so that workers do not slow those who read what stands beside
/// it. 128 bytes, because processors fetch lines in pairs.
#[repr(align(128))]
struct Counters {
    in_flight: AtomicU32,
    silence: Silence,
    ewma: Ewma,
    breaker: Breaker,
}

/// How long answers have been owed. A host whose packets vanish answers nothing, and reports nothing either until its
/// connections are given up: without this it would look as good as it last was, for as long as half a minute.
#[derive(Debug, Default)]
struct Silence {
    /// Requests that were sent and not answered.
    waiting: AtomicU32,
    /// The last answer, or when the first of those was sent. Workers may race for it by a moment, which does no harm.
    since_ms: AtomicU64,
}

impl Silence {
    fn begin(&self, now_ms: u64) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    fn answered(&self, now_ms: u64) {
        self.since_ms.store(now_ms, Ordering::Relaxed);
        self.end();
    }

    fn end(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn length(&self, now_ms: u64) -> Duration {
        let is_owed = self.waiting.load(Ordering::Relaxed) > 0;
        let length_ms = now_ms.saturating_sub(self.since_ms.load(Ordering::Relaxed));
        Duration::from_millis(if is_owed { length_ms } else { 0 })
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    pub(crate) fn new(spec: EndpointSpec, policy: BackendPolicy, outliers: Arc<Outliers>, now: Instant) -> Self {
        let counters = Counters {
            in_flight: AtomicU32::new(0),
            silence: Silence::default(),
            ewma: Ewma::new(policy.balancing.default_rtt),
            breaker: Breaker::default(),
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let seen = Seen { id, epoch: Epoch::new(now), gone: AtomicBool::new(false), outliers, counters };
        Self { spec, policy, seen: Arc::new(seen) }
    }

    /// The next generation of the same instance.
    pub(crate) fn renewed(&self, spec: EndpointSpec, policy: BackendPolicy) -> Self {
        Self { spec, policy, seen: Arc::clone(&self.seen) }
    }

    /// What discovery says of it.
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// The policy of the service port it is an endpoint of.
    pub fn policy(&self) -> &BackendPolicy {
        &self.policy
    }

    /// The instance's number: unique in this process, the same for all generations. Pools are keyed by it.
    pub fn id(&self) -> u64 {
        self.seen.id
    }

    /// Whether discovery has withdrawn it: pooled connections to it are closed when idle, none is opened.
    pub fn is_gone(&self) -> bool {
        self.seen.gone.load(Ordering::Relaxed)
    }

    /// How many requests (or connections, for bytes) are under way, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.seen.counters.in_flight.load(Ordering::Relaxed)
    }

    /// The latency that balancing reckons with: its recent peak, decayed; or, where that is more, for how long it has
    /// answered none of the requests that wait.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_secs_f32(self.latency_s(now))
    }

    /// The same in seconds.
    pub(crate) fn latency_s(&self, now: Instant) -> f32 {
        let (counters, now_ms) = (&self.seen.counters, self.now_ms(now));
        let seen = counters.ewma.read(self.policy.balancing.decay, now_ms);
        seen.max(counters.silence.length(now_ms).as_secs_f32())
    }

    /// Whether it is left out after failures, or waits for its one trial request.
    pub fn is_ejected(&self) -> bool {
        self.policy.ejection.is_some() && self.seen.counters.breaker.is_ejected()
    }

    /// Begins a request to it without asking the balancer: for a workload dialled by its own address.
    pub fn begin(self: &Arc<Self>, now: Instant) -> InFlight {
        self.enter(now, false)
    }

    /// Begins a request; `trial` if it is the one that the breaker has just let through.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant, trial: bool) -> InFlight {
        self.seen.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            endpoint: Arc::clone(self),
            started: now,
            waiting: false,
            measured: false,
            trial,
            open: true,
            ejected: false,
        }
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.seen.counters.breaker
    }

    pub(crate) fn now_ms(&self, now: Instant) -> u64 {
        self.seen.epoch.ms(now)
    }

    /// Marks the instance as gone, once no snapshot holds it any more.
    pub(crate) fn retire(&self) {
        self.seen.gone.store(true, Ordering::Relaxed);
        self.seen.counters.breaker.retire(&self.seen.outliers);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, seen, policy: _ } = self;
        write!(f, "endpoint {} {} (in flight {}, ejected {})", seen.id, spec.addr, self.in_flight(), self.is_ejected())
    }
}

/// A request that is under way to an endpoint. Counts from the choice of the endpoint until it is dropped.
///
/// **Cancel:** dropping it without a report counts neither as success nor as failure: a client that gives up says
/// nothing about the server, but for how long it has waited ([`InFlight::give_up`]).
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one request; every combination occurs")]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Instant,
    /// Whether it was sent and not answered.
    waiting: bool,
    measured: bool,
    trial: bool,
    /// Whether the outcome is still to be reported.
    open: bool,
    ejected: bool,
}

impl InFlight {
    /// Where it goes.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether it is the one request that decides if an ejected endpoint comes back.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Measures from `now` instead of from the choice: called when the request is sent, so that a fresh connection's
    /// handshake is not taken for the server's latency.
    pub fn sent(&mut self, now: Instant) {
        self.started = now;
        if !self.measured && !std::mem::replace(&mut self.waiting, true) {
            let Endpoint { seen, .. } = &*self.endpoint;
            seen.counters.silence.begin(seen.epoch.ms(now));
        }
    }

    /// Whether it was sent and not answered.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Whoever asked waits no longer. Its answer would have taken longer than that, which is all that can be said: an
    /// endpoint that answers nobody must not look good to the next one only because everybody gives up.
    pub fn give_up(&mut self, now: Instant) {
        if self.waiting {
            let Endpoint { policy, seen, .. } = &*self.endpoint;
            let waited = now.saturating_duration_since(self.started);
            seen.counters.ewma.raise(waited, policy.balancing.decay, seen.epoch.ms(now));
        }
    }

    /// Records the latency, once: the first byte of the response is there (for bytes: the connection is). `class` is
    /// what can be said by then.
    ///
    /// A failure makes the endpoint look as slow as it took to fail, never faster: an endpoint that fails at once must
    /// not attract traffic.
    pub fn first_byte(&mut self, class: Class, now: Instant) {
        if std::mem::replace(&mut self.measured, true) {
            return;
        }
        let Endpoint { policy, seen, .. } = &*self.endpoint;
        let latency = now.saturating_duration_since(self.started);
        let (ewma, now_ms) = (&seen.counters.ewma, seen.epoch.ms(now));
        if std::mem::take(&mut self.waiting) {
            seen.counters.silence.answered(now_ms);
        }
        match class {
            Class::Failure => ewma.raise(latency, policy.balancing.decay, now_ms),
            Class::Success => ewma.observe(latency, policy.balancing.decay, now_ms),
        }
    }

    /// Reports the outcome, once; further reports are ignored. `roll` spreads the length of an ejection. A failure
    /// without a first byte counts as one for the latency, too.
    pub fn report(&mut self, class: Class, now: Instant, roll: u64) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        if class == Class::Failure {
            self.first_byte(class, now);
        }
        let Endpoint { policy, seen, .. } = &*self.endpoint;
        let (breaker, now_ms) = (&seen.counters.breaker, seen.epoch.ms(now));
        match (class, &policy.ejection) {
            (Class::Success, _) => breaker.on_success(self.trial, &seen.outliers),
            (Class::Failure, Some(ejection)) => {
                self.ejected = breaker.on_failure(self.trial, ejection, &seen.outliers, now_ms, roll);
            }
            (Class::Failure, None) if self.trial => breaker.abandon_trial(),
            (Class::Failure, None) => {}
        }
    }

    /// Whether the report was the failure that ejected the endpoint.
    pub fn has_ejected(&self) -> bool {
        self.ejected
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let counters = &self.endpoint.seen.counters;
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.waiting {
            counters.silence.end();
        }
        if self.open && self.trial {
            counters.breaker.abandon_trial();
        }
    }
}

#[cfg(test)]
mod tests;
