//! The endpoints of one service port at one moment: immutable, shared by all workers, replaced as a whole.
//!
//! Building the next one carries over what was seen of every endpoint that stays. One writer builds; readers pick.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use weft_model::endpoint::{EndpointSpec, Health};
use weft_model::policy::BackendPolicy;
use weft_model::resources::EndpointsDelta;

use crate::balance::affinity::Ring;
use crate::balance::p2c::Sampler;
use crate::breaker::Outliers;
use crate::endpoint::Endpoint;

/// The endpoints of one service port.
#[derive(Debug)]
pub struct EndpointSet {
    /// Sorted by address; an address stands here once.
    all: Box<[Arc<Endpoint>]>,
    /// Places in `all` of those that take traffic: the ready ones, or where none is the terminating ones that still
    /// serve.
    active: Box<[usize]>,
    pub(crate) sampler: Sampler,
    policy: BackendPolicy,
    outliers: Arc<Outliers>,
    /// Made when the first client asks for affinity.
    ring: OnceLock<Ring>,
}

impl EndpointSet {
    /// Builds the next set. Endpoints that stay (same address, identity and workload) keep their counters and their id;
    /// those that do not are marked as gone. Without an old set the delta is the whole.
    ///
    /// **Cost:** linear in the size of the set, with one reference counted per endpoint that stays.
    pub fn build(old: Option<&Self>, delta: &EndpointsDelta, now: Instant) -> Self {
        let outliers = old.map_or_else(Arc::default, |old| Arc::clone(&old.outliers));
        let mut fresh: BTreeMap<SocketAddr, &EndpointSpec> = BTreeMap::new();
        fresh.extend(delta.upserted.iter().map(|spec| (spec.addr.0, spec)));
        let removed: BTreeSet<SocketAddr> = delta.removed.iter().copied().collect();
        let same_policy = old.is_some_and(|old| old.policy == delta.policy);

        let mut all: Vec<Arc<Endpoint>> = Vec::with_capacity(old.map_or(0, Self::len) + fresh.len());
        for endpoint in old.map_or(&[][..], |old| &old.all) {
            let addr = endpoint.spec().addr.0;
            match fresh.get(&addr) {
                Some(spec) if is_same_instance(endpoint.spec(), spec) => {
                    let unchanged = same_policy && endpoint.spec() == *spec;
                    all.push(if unchanged { Arc::clone(endpoint) } else { renewed(endpoint, spec, &delta.policy) });
                    fresh.remove(&addr);
                }
                None if !delta.reset && !removed.contains(&addr) => {
                    let spec = endpoint.spec();
                    all.push(if same_policy { Arc::clone(endpoint) } else { renewed(endpoint, spec, &delta.policy) });
                }
                Some(_) | None => endpoint.retire(),
            }
        }
        let new = |spec: &EndpointSpec| Arc::new(Endpoint::new(spec.clone(), delta.policy, Arc::clone(&outliers), now));
        all.extend(fresh.into_values().map(new));
        all.sort_by_key(|endpoint| endpoint.spec().addr);
        Self::of(all, delta.policy, outliers)
    }

    /// A set of one, for a workload that is dialled by its own address.
    pub fn single(spec: EndpointSpec, policy: BackendPolicy, now: Instant) -> Self {
        let outliers: Arc<Outliers> = Arc::default();
        let endpoint = Endpoint::new(spec, policy, Arc::clone(&outliers), now);
        Self::of(vec![Arc::new(endpoint)], policy, outliers)
    }

    fn of(all: Vec<Arc<Endpoint>>, policy: BackendPolicy, outliers: Arc<Outliers>) -> Self {
        let with = |health: Health| -> Box<[usize]> {
            let fits = |(_, endpoint): &(usize, &Arc<Endpoint>)| endpoint.spec().health == health;
            all.iter().enumerate().filter(fits).map(|(at, _)| at).collect()
        };
        let ready = with(Health::Ready);
        let active = if ready.is_empty() { with(Health::ServingTerminating) } else { ready };
        outliers.set_total(active.len());
        let weights = active.iter().filter_map(|&at| all.get(at)).map(|endpoint| endpoint.spec().weight);
        let sampler = Sampler::of(&weights.collect::<Vec<_>>());
        Self { all: all.into(), active, sampler, policy, outliers, ring: OnceLock::new() }
    }

    /// Every endpoint, in the order of addresses; also those that take no traffic.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many take traffic.
    pub fn active_len(&self) -> usize {
        self.active.len()
    }

    /// How many are left out after failures.
    pub fn ejected_len(&self) -> u32 {
        self.outliers.ejected()
    }

    /// Whether so few are healthy that ejections are ignored.
    pub fn panics(&self) -> bool {
        self.policy.ejection.is_some_and(|ejection| self.outliers.panics(ejection.panic_percent))
    }

    /// Balancing and ejection.
    pub fn policy(&self) -> &BackendPolicy {
        &self.policy
    }

    /// The endpoint at an address.
    pub fn get(&self, addr: SocketAddr) -> Option<&Arc<Endpoint>> {
        let at = self.all.binary_search_by_key(&addr, |endpoint| endpoint.spec().addr.0).ok()?;
        self.all.get(at)
    }

    /// The `at`th of those that take traffic.
    pub(crate) fn active(&self, at: usize) -> Option<&Arc<Endpoint>> {
        self.active.get(at).and_then(|&at| self.all.get(at))
    }

    pub(crate) fn ring(&self) -> &Ring {
        self.ring.get_or_init(|| Ring::of((0..self.active.len()).filter_map(|at| self.active(at))))
    }
}

/// Whether what was seen of one holds for the other. A pod that takes over another's address is not the same, even with
/// the same identity.
fn is_same_instance(a: &EndpointSpec, b: &EndpointSpec) -> bool {
    a.addr == b.addr && a.identity == b.identity && a.workload == b.workload
}

fn renewed(endpoint: &Endpoint, spec: &EndpointSpec, policy: &BackendPolicy) -> Arc<Endpoint> {
    Arc::new(endpoint.renewed(spec.clone(), *policy))
}

#[cfg(test)]
pub(crate) mod tests;
