//! The endpoints of one service port at one moment: immutable, shared by all workers, replaced as a whole.
//!
//! Building the next one carries over what was seen of every endpoint that stays. One writer builds; readers pick.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
    sides: Sides,
    policy: BackendPolicy,
    outliers: Arc<Outliers>,
}

/// Endpoints that take traffic, by the family of their addresses. As kube-proxy does it, who connects to a Service's IPv4 address
/// gets an IPv4 address of its pods, on which alone their applications may listen.
#[derive(Debug)]
enum Sides {
    /// All there is, for everybody.
    One(Side),
    Two {
        v4: Side,
        v6: Side,
    },
}

/// Endpoints that take traffic together.
#[derive(Debug)]
pub(crate) struct Side {
    /// Places in `all`: the ready ones, or where none is the terminating ones that still serve.
    active: Box<[usize]>,
    pub(crate) sampler: Sampler,
    /// Made when the first client asks for affinity.
    ring: OnceLock<Ring>,
}

/// The endpoints among which one client's is chosen.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) set: &'a EndpointSet,
    pub(crate) side: &'a Side,
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
        let (v4, v6) = (Side::of(&all, |ip| ip.is_ipv4()), Side::of(&all, |ip| ip.is_ipv6()));
        outliers.set_total(v4.active.len() + v6.active.len());
        let sides = match (v4.active.is_empty(), v6.active.is_empty()) {
            (false, false) => Sides::Two { v4, v6 },
            (true, false) => Sides::One(v6),
            (_, true) => Sides::One(v4),
        };
        Self { all: all.into(), sides, policy, outliers }
    }

    /// The endpoints for a client at an address: those of its family, where there are of both.
    pub fn for_client(&self, client: IpAddr) -> View<'_> {
        let side = match &self.sides {
            Sides::One(side) => side,
            Sides::Two { v4, .. } if client.to_canonical().is_ipv4() => v4,
            Sides::Two { v6, .. } => v6,
        };
        View { set: self, side }
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
        match &self.sides {
            Sides::One(side) => side.active.len(),
            Sides::Two { v4, v6 } => v4.active.len() + v6.active.len(),
        }
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
}

impl Side {
    fn of(all: &[Arc<Endpoint>], is_of_family: impl Fn(IpAddr) -> bool) -> Self {
        let with = |health: Health| -> Box<[usize]> {
            let fits = |(_, endpoint): &(usize, &Arc<Endpoint>)| {
                let spec = endpoint.spec();
                spec.health == health && is_of_family(spec.addr.ip())
            };
            all.iter().enumerate().filter(fits).map(|(at, _)| at).collect()
        };
        let ready = with(Health::Ready);
        let active = if ready.is_empty() { with(Health::ServingTerminating) } else { ready };
        let weights = active.iter().filter_map(|&at| all.get(at)).map(|endpoint| endpoint.spec().weight);
        let sampler = Sampler::of(&weights.collect::<Vec<_>>());
        Self { active, sampler, ring: OnceLock::new() }
    }
}

impl<'a> View<'a> {
    /// How many there are to choose from.
    pub(crate) fn active_len(&self) -> usize {
        self.side.active.len()
    }

    /// The `at`th of them.
    pub(crate) fn active(&self, at: usize) -> Option<&'a Arc<Endpoint>> {
        self.side.active.get(at).and_then(|&at| self.set.all.get(at))
    }

    pub(crate) fn ring(&self) -> &'a Ring {
        self.side.ring.get_or_init(|| Ring::of((0..self.active_len()).filter_map(|at| self.active(at))))
    }
}

impl<'a> From<&'a EndpointSet> for View<'a> {
    /// The endpoints for whoever has no address.
    fn from(set: &'a EndpointSet) -> Self {
        set.for_client(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
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
