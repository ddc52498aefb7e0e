//! The endpoints of one service port, with what changed since when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use weft_model::EndpointSpec;
use weft_model::bounds::ENDPOINTS_MAX;

use crate::object::Name;

/// How many changes are remembered per service port. Whoever is further behind gets the whole set. A guess: a rollout
/// of 500 instances seen by a proxy that slept through all of it.
const LOG_MAX: usize = 1024;

/// Who says that there is an endpoint. A workload is believed before a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Workload(Name),
    Slice(Name),
}

/// The endpoints of one service port.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    by_addr: BTreeMap<SocketAddr, BTreeMap<Source, EndpointSpec>>,
    by_source: BTreeMap<Source, BTreeSet<SocketAddr>>,
    /// Addresses that were touched, with the version that did; ascending.
    log: VecDeque<(u64, SocketAddr)>,
    /// Whoever has seen an older version than this gets the whole set.
    floor: u64,
}

impl EndpointSet {
    /// An empty set that begins to exist at `version`.
    pub(crate) fn new(version: u64) -> Self {
        Self { floor: version, ..Self::default() }
    }

    /// Makes `endpoints` all that `source` says.
    ///
    /// **Cost:** what the source said before plus what it says now.
    pub(crate) fn replace(&mut self, source: &Source, endpoints: Vec<EndpointSpec>, version: u64) {
        let now: BTreeMap<SocketAddr, EndpointSpec> = endpoints.into_iter().map(|e| (e.addr.0, e)).collect();
        let before = self.by_source.remove(source).unwrap_or_default();
        let touched: BTreeSet<SocketAddr> = before.iter().chain(now.keys()).copied().collect();
        if !now.is_empty() {
            self.by_source.insert(source.clone(), now.keys().copied().collect());
        }
        let mut now = now;
        let was_cut = self.is_cut();
        for addr in touched {
            let was = self.get(addr).cloned();
            let said = self.by_addr.entry(addr).or_default();
            match now.remove(&addr) {
                Some(endpoint) => {
                    said.insert(source.clone(), endpoint);
                }
                None => {
                    said.remove(source);
                }
            }
            if said.is_empty() {
                self.by_addr.remove(&addr);
            }
            if self.get(addr) != was.as_ref() {
                self.remember(version, addr);
            }
        }
        if was_cut || self.is_cut() {
            // What falls behind the cut, or comes before it, is in no log.
            self.floor = version;
        }
    }

    /// How many there are; more than [`ENDPOINTS_MAX`] are not told.
    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
    }

    fn is_cut(&self) -> bool {
        self.len() > ENDPOINTS_MAX
    }

    /// Every endpoint, by address; at most [`ENDPOINTS_MAX`].
    pub(crate) fn iter(&self) -> impl Iterator<Item = &EndpointSpec> {
        self.by_addr.values().filter_map(|said| said.values().next()).take(ENDPOINTS_MAX)
    }

    /// Who says anything.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.by_source.keys()
    }

    /// What changed after `since`: new or changed endpoints, and addresses that are gone. `None`: too long ago to know.
    pub(crate) fn since(&self, since: u64) -> Option<(Vec<EndpointSpec>, Vec<SocketAddr>)> {
        if since < self.floor {
            return None;
        }
        let newer = self.log.iter().rev().take_while(|(version, _)| *version > since);
        let touched: BTreeSet<SocketAddr> = newer.map(|(_, addr)| *addr).collect();
        let mut upserted = Vec::new();
        let mut removed = Vec::new();
        for addr in touched {
            match self.get(addr) {
                Some(endpoint) => upserted.push(endpoint.clone()),
                None => removed.push(addr),
            }
        }
        Some((upserted, removed))
    }

    fn get(&self, addr: SocketAddr) -> Option<&EndpointSpec> {
        self.by_addr.get(&addr).and_then(|said| said.values().next())
    }

    fn remember(&mut self, version: u64, addr: SocketAddr) {
        self.log.push_back((version, addr));
        while self.log.len() > LOG_MAX {
            if let Some((forgotten, _)) = self.log.pop_front() {
                self.floor = self.floor.max(forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{EndpointAddr, Health};

    use super::*;

    fn endpoint(host: u8, weight: u32) -> EndpointSpec {
        EndpointSpec {
            addr: EndpointAddr(SocketAddr::from(([10, 0, 0, host], 80))),
            identity: None,
            workload: None,
            zone: None,
            weight,
            health: Health::Ready,
        }
    }

    fn source(name: &str) -> Source {
        Source::Workload(Name::new("shop", name))
    }

    fn hosts(endpoints: &[EndpointSpec]) -> Vec<String> {
        endpoints.iter().map(|e| e.addr.to_string()).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut set = EndpointSet::new(1);
        set.replace(&source("a"), vec![endpoint(1, 1)], 1);
        set.replace(&source("b"), vec![endpoint(2, 1)], 2);
        set.replace(&source("a"), vec![], 3);
        set.replace(&source("b"), vec![endpoint(2, 1)], 4);
        let (upserted, removed) = set.since(1).unwrap();
        assert_eq!(hosts(&upserted), ["10.0.0.2:80"]);
        assert_eq!(removed, [SocketAddr::from(([10, 0, 0, 1], 80))]);
        assert_eq!(set.since(3).unwrap(), (vec![], vec![]), "what says the same again is no change");
        assert_eq!(set.since(0), None, "before the beginning nothing is known");
    }

    #[test]
    fn an_address_named_twice_stays_until_both_are_gone() {
        let mut set = EndpointSet::new(0);
        let slice = Source::Slice(Name::new("shop", "s"));
        set.replace(&slice, vec![endpoint(1, 5)], 1);
        set.replace(&source("a"), vec![endpoint(1, 7)], 2);
        assert_eq!(set.iter().map(|e| e.weight).collect::<Vec<_>>(), [7], "the workload is believed first");
        set.replace(&source("a"), vec![], 3);
        assert_eq!(set.iter().map(|e| e.weight).collect::<Vec<_>>(), [5]);
        set.replace(&slice, vec![], 4);
        assert_eq!(set.iter().count(), 0);
    }

    #[test]
    fn more_than_one_answer_holds_are_cut_and_told_as_a_whole() {
        let wide = |host: usize| {
            let ip = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(host).unwrap();
            EndpointSpec { addr: EndpointAddr((std::net::Ipv4Addr::from(ip), 80).into()), ..endpoint(0, 1) }
        };
        let mut set = EndpointSet::new(1);
        set.replace(&source("a"), (1..=ENDPOINTS_MAX).map(wide).collect(), 1);
        assert_eq!((set.iter().count(), set.since(1).is_some()), (ENDPOINTS_MAX, true));
        set.replace(&source("b"), vec![wide(0)], 2);
        assert_eq!((set.len(), set.iter().count()), (ENDPOINTS_MAX + 1, ENDPOINTS_MAX));
        assert_eq!(set.since(1), None, "the last one fell out, which no delta says");
        assert_eq!(set.since(2), Some((vec![], vec![])));
        set.replace(&source("b"), vec![], 3);
        assert_eq!((set.iter().count(), set.since(2)), (ENDPOINTS_MAX, None), "and came back");
    }

    #[test]
    fn who_is_too_far_behind_gets_everything() {
        let mut set = EndpointSet::new(0);
        for version in 1..=2000 {
            set.replace(&source("a"), vec![endpoint(1, u32::try_from(version).unwrap())], version);
        }
        assert!(set.since(900).is_none());
        assert_eq!(set.since(1999).unwrap().0.len(), 1);
        assert!(set.log.len() <= LOG_MAX);
    }
}
