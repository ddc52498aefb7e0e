//! A ring of endpoints on which each client address has its place (consistent hashing, Karger et al. 1997).

use std::net::IpAddr;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::ticks::mix;

/// How many points a ring has at most, roughly: more make the shares evener and the ring larger.
const POINTS_TARGET: usize = 8192;

/// How many points an endpoint has at least and at most.
const POINTS_PER_ENDPOINT: (usize, usize) = (4, 128);

/// Points in the order of their hashes, each with the place of its endpoint among those that take traffic.
#[derive(Debug)]
pub(crate) struct Ring(Box<[(u64, usize)]>);

impl Ring {
    pub(crate) fn of<'a>(active: impl Iterator<Item = &'a Arc<Endpoint>>) -> Self {
        let active: Vec<_> = active.collect();
        let (least, most) = POINTS_PER_ENDPOINT;
        // A power of two, so that it seldom changes as endpoints come and go, and when it does half of the points stay.
        let each = (POINTS_TARGET / active.len().max(1)).clamp(least, most).next_power_of_two();
        let mut points: Vec<(u64, usize)> = Vec::with_capacity(each * active.len());
        for (at, endpoint) in active.iter().enumerate() {
            let addr = endpoint.spec().addr;
            let mut point = mix(hash(addr.ip()) ^ u64::from(addr.port()));
            for _ in 0..each {
                points.push((point, at));
                point = mix(point);
            }
        }
        points.sort_unstable();
        Self(points.into())
    }

    /// Places of endpoints from the client's on, around the whole ring; a place comes more than once.
    pub(crate) fn from(&self, client: IpAddr) -> impl Iterator<Item = usize> {
        let start = mix(hash(client.to_canonical()));
        let first = self.0.partition_point(|(point, _)| *point < start);
        let (before, after) = self.0.split_at_checked(first).unwrap_or((&self.0, &[]));
        after.iter().chain(before).map(|(_, at)| *at)
    }
}

/// The same for everybody, always: clients keep their endpoint over restarts.
fn hash(ip: IpAddr) -> u64 {
    let bits = match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let [upper, lower] = [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    mix(mix(upper) ^ lower)
}
