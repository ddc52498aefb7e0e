//! Which endpoint takes a request: power of two choices over peak EWMA, or by the client's address.
//!
//! Endpoints that were tried already and those that are ejected are left out while there is another; in panic (too few
//! healthy) ejections do not count. An ejected endpoint whose time has come gets exactly one request as a trial.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::breaker::Admission;
use crate::endpoint::{Endpoint, InFlight};
use crate::snapshot::View;
use crate::ticks::mix;

// The ring that keeps a client on its endpoint.
pub(crate) mod affinity;
// The latency of an endpoint.
pub(crate) mod ewma;
// Drawing two candidates.
pub(crate) mod p2c;

/// How often a pair is drawn before all endpoints are looked at in turn. At most half are ejected by default, and then
/// eight draws miss once in 65,536.
const DRAWS_MAX: u32 = 8;

/// Picks an endpoint and counts the request to it. `tried` are the ids of endpoints that have had their chance.
///
/// `None`: no endpoint takes traffic, or all are ejected and the policy knows no panic.
///
/// **Cost:** constant on average, whatever the number of endpoints; linear only where nearly all are left out. No
/// allocation.
pub fn pick<'a>(among: impl Into<View<'a>>, now: Instant, roll: u64, tried: &[u64]) -> Option<InFlight> {
    let choice = Choice::of(among.into(), now, tried);
    let (among, mut roll) = (choice.among, roll);
    for _ in 0..DRAWS_MAX.min(u32::try_from(among.active_len()).unwrap_or(u32::MAX)) {
        let (one, other) = among.side.sampler.pair(roll);
        if let Some(picked) = choice.cheaper(one, other) {
            return Some(picked);
        }
        roll = mix(roll);
    }
    let from = among.side.sampler.one(roll);
    choice.first(from).or_else(|| choice.forgiving().first(from))
}

/// Picks the endpoint that belongs to the client's address (`sessionAffinity: ClientIP`), or while that one is left out
/// the next on the ring. The same on every worker and every proxy; few clients move when endpoints come and go.
///
/// **Cost:** logarithmic. The first call on a set builds the ring and allocates it.
pub fn pick_by_client<'a>(among: impl Into<View<'a>>, now: Instant, client: IpAddr, tried: &[u64]) -> Option<InFlight> {
    let choice = Choice::of(among.into(), now, tried);
    let walk = |choice: &Choice<'_>| choice.among.ring().from(client).find_map(|at| choice.take(at));
    walk(&choice).or_else(|| walk(&choice.forgiving()))
}

/// What one choice goes by.
struct Choice<'a> {
    among: View<'a>,
    now: Instant,
    tried: &'a [u64],
    /// Whether ejections count.
    ejecting: bool,
}

/// How an endpoint that may be chosen stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It waits for its trial.
    Due,
    Open,
}

impl<'a> Choice<'a> {
    fn of(among: View<'a>, now: Instant, tried: &'a [u64]) -> Self {
        let set = among.set;
        Self { among, now, tried, ejecting: set.policy().ejection.is_some() && !set.panics() }
    }

    /// The same, but an endpoint may be tried again.
    fn forgiving(&self) -> Self {
        Self { tried: &[], ..*self }
    }

    /// The better of two, if either may be chosen.
    fn cheaper(&self, one: usize, other: usize) -> Option<InFlight> {
        let (first, second) = match (self.candidate(one), self.candidate(other)) {
            (Some(a), Some(b)) => {
                // A trial goes first: by its cost an endpoint that failed would hardly ever be chosen again.
                let b_first = a.1 == Standing::Open && (b.1 == Standing::Due || self.cost(b.0) < self.cost(a.0));
                if b_first { (b, Some(a)) } else { (a, Some(b)) }
            }
            (Some(only), None) | (None, Some(only)) => (only, None),
            (None, None) => return None,
        };
        self.enter(first).or_else(|| self.enter(second?))
    }

    /// The first in turn, from one on, that may be chosen.
    fn first(&self, from: usize) -> Option<InFlight> {
        let len = self.among.active_len();
        (from..len).chain(0..from.min(len)).find_map(|at| self.take(at))
    }

    fn take(&self, at: usize) -> Option<InFlight> {
        self.enter(self.candidate(at)?)
    }

    fn candidate(&self, at: usize) -> Option<Candidate<'a>> {
        let endpoint = self.among.active(at)?;
        if self.tried.contains(&endpoint.id()) {
            return None;
        }
        match endpoint.breaker().admission(endpoint.now_ms(self.now)) {
            Admission::Due if self.among.set.policy().ejection.is_some() => Some((endpoint, Standing::Due)),
            Admission::Ejected if self.ejecting => None,
            Admission::Closed | Admission::Due | Admission::Ejected => Some((endpoint, Standing::Open)),
        }
    }

    fn cost(&self, endpoint: &Endpoint) -> f32 {
        let in_flight = self.among.side.sampler.share(endpoint.in_flight(), endpoint.spec().weight);
        endpoint.latency_s(self.now) * (in_flight + 1.0)
    }

    /// Begins the request; of those who ask for the same trial only one gets it.
    fn enter(&self, (endpoint, standing): Candidate<'_>) -> Option<InFlight> {
        let trial = standing == Standing::Due && endpoint.breaker().claim_trial(endpoint.now_ms(self.now));
        // Another worker was faster: without the claim it is an ejected endpoint like any other.
        if standing == Standing::Due && !trial && self.ejecting {
            return None;
        }
        Some(endpoint.enter(self.now, trial))
    }
}

type Candidate<'a> = (&'a Arc<Endpoint>, Standing);

#[cfg(test)]
mod tests;
