//! The endpoints of one service port, with what changed since when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::EndpointSpec;
use weft_model::bounds::ENDPOINTS_MAX;

use crate::near::{Census, Chosen, Hints, Place, Reach};
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

/// An endpoint, and whom it is meant for: `None` where nothing is said about that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) spec: EndpointSpec,
    pub(crate) hints: Option<Arc<Hints>>,
}

/// The endpoints of one service port.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// What is said of an address, by whom; whoever is believed stands first. Hardly ever more than one.
    by_addr: BTreeMap<SocketAddr, Vec<(Arc<Source>, Meant)>>,
    /// Whose addresses, in order.
    by_source: BTreeMap<Arc<Source>, Box<[SocketAddr]>>,
    /// Addresses that were touched, with the version that did; ascending.
    log: VecDeque<(u64, SocketAddr)>,
    /// Whoever has seen an older version than this gets the whole set.
    floor: u64,
    census: Census,
}

impl EndpointSet {
    /// An empty set that begins to exist at `version`.
    pub(crate) fn new(version: u64) -> Self {
        Self { floor: version, ..Self::default() }
    }

    /// Sets how far the Service's traffic may go.
    pub(crate) fn set_reach(&mut self, reach: Reach, version: u64) {
        let rules = self.census.rules();
        self.census.set_reach(reach);
        if self.census.rules() != rules {
            self.floor = version;
        }
    }

    /// Makes `endpoints` all that `source` says.
    ///
    /// **Cost:** what the source said before plus what it says now.
    pub(crate) fn replace(&mut self, source: &Source, endpoints: Vec<Meant>, version: u64) {
        let mut now: BTreeMap<SocketAddr, Meant> = endpoints.into_iter().map(|e| (e.spec.addr.0, e)).collect();
        let (source, before) = match self.by_source.remove_entry(source) {
            Some(entry) => entry,
            None => (Arc::new(source.clone()), Box::default()),
        };
        let touched: BTreeSet<SocketAddr> = before.iter().chain(now.keys()).copied().collect();
        if !now.is_empty() {
            self.by_source.insert(Arc::clone(&source), now.keys().copied().collect());
        }
        let (was_cut, rules) = (self.is_cut(), self.census.rules());
        for addr in touched {
            self.say(addr, &source, now.remove(&addr), version);
        }
        if was_cut || self.is_cut() || rules != self.census.rules() {
            // What falls behind the cut, or comes before it, is in no log; nor is what everybody now gets, or no longer does.
            self.floor = version;
        }
        self.census.forget(self.floor);
    }

    /// Notes what a source says of an address.
    fn say(&mut self, addr: SocketAddr, source: &Arc<Source>, says: Option<Meant>, version: u64) {
        let said = self.by_addr.entry(addr).or_default();
        let place = said.binary_search_by(|(by, _)| by.cmp(source));
        let is_first = matches!(place, Ok(0) | Err(0));
        let was = if is_first { said.first().map(|(_, meant)| meant.clone()) } else { None };
        match (place, says) {
            (Ok(at), Some(meant)) => {
                if let Some(slot) = said.get_mut(at) {
                    slot.1 = meant;
                }
            }
            // The first takes no more room than it needs: of a large cluster's endpoints there is one each.
            (Err(_), Some(meant)) if said.is_empty() => *said = vec![(Arc::clone(source), meant)],
            (Err(at), Some(meant)) => said.insert(at, (Arc::clone(source), meant)),
            (Ok(at), None) => drop(said.remove(at)),
            (Err(_), None) => {}
        }
        let is = said.first().map(|(_, meant)| meant);
        if !is_first || is == was.as_ref() {
            return;
        }
        if let Some(was) = &was {
            self.census.remove(was.hints.as_deref(), was.spec.health, version);
        }
        if let Some(is) = is {
            self.census.add(is.hints.as_deref(), is.spec.health, version);
        } else {
            self.by_addr.remove(&addr);
        }
        self.remember(version, addr);
    }

    /// Whether clients at different places get different ones.
    pub(crate) fn has_near(&self) -> bool {
        self.census.has_near()
    }

    /// Everybody gets everything anew.
    pub(crate) fn restart(&mut self, version: u64) {
        self.floor = version;
    }

    /// How many there are; more than [`ENDPOINTS_MAX`] are not told.
    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
    }

    fn is_cut(&self) -> bool {
        self.len() > ENDPOINTS_MAX
    }

    /// Every endpoint that a client gets, by address; at most [`ENDPOINTS_MAX`]. Without a client: every one.
    pub(crate) fn iter<'a>(&'a self, client: Option<&'a Place>) -> impl Iterator<Item = &'a EndpointSpec> {
        let chosen = self.chosen(client);
        let believed = self.by_addr.values().filter_map(|said| said.first().map(|(_, meant)| meant));
        let chosen = believed.filter(move |meant| chosen.has(meant.hints.as_deref()));
        chosen.map(|meant| &meant.spec).take(ENDPOINTS_MAX)
    }

    /// Who says anything.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.by_source.keys().map(Arc::as_ref)
    }

    /// What changed after `since` for a client: new or changed endpoints, and addresses that are gone. `None`: too long ago to
    /// know, or other endpoints are near now. Without a client: for anybody.
    pub(crate) fn since(&self, since: u64, client: Option<&Place>) -> Option<(Vec<EndpointSpec>, Vec<SocketAddr>)> {
        if since < self.floor || client.is_some_and(|client| self.census.turned_since(client, since)) {
            return None;
        }
        let chosen = self.chosen(client);
        let newer = self.log.iter().rev().take_while(|(version, _)| *version > since);
        let touched: BTreeSet<SocketAddr> = newer.map(|(_, addr)| *addr).collect();
        let mut upserted = Vec::new();
        let mut removed = Vec::new();
        for addr in touched {
            match self.get(addr).filter(|meant| chosen.has(meant.hints.as_deref())) {
                Some(meant) => upserted.push(meant.spec.clone()),
                None => removed.push(addr),
            }
        }
        Some((upserted, removed))
    }

    fn chosen<'a>(&self, client: Option<&'a Place>) -> Chosen<'a> {
        client.map_or(Chosen::All, |client| self.census.choose(client))
    }

    fn get(&self, addr: SocketAddr) -> Option<&Meant> {
        self.by_addr.get(&addr).and_then(|said| said.first()).map(|(_, meant)| meant)
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

    fn endpoint(host: u8, weight: u32) -> Meant {
        let addr = EndpointAddr(SocketAddr::from(([10, 0, 0, host], 80)));
        let spec = EndpointSpec { addr, identity: None, workload: None, zone: None, weight, health: Health::Ready };
        Meant { spec, hints: None }
    }

    /// One in a zone, for the clients of that zone.
    fn endpoint_in(zone: &str, host: u8) -> Meant {
        let place = Place { node: None, zone: Some(zone.into()) };
        Meant { hints: Reach::PreferZone.hints(&place), ..endpoint(host, 1) }
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
        let (upserted, removed) = set.since(1, None).unwrap();
        assert_eq!(hosts(&upserted), ["10.0.0.2:80"]);
        assert_eq!(removed, [SocketAddr::from(([10, 0, 0, 1], 80))]);
        assert_eq!(set.since(3, None).unwrap(), (vec![], vec![]), "what says the same again is no change");
        assert_eq!(set.since(0, None), None, "before the beginning nothing is known");
    }

    #[test]
    fn an_address_named_twice_stays_until_both_are_gone() {
        let mut set = EndpointSet::new(0);
        let slice = Source::Slice(Name::new("shop", "s"));
        set.replace(&slice, vec![endpoint(1, 5)], 1);
        set.replace(&source("a"), vec![endpoint(1, 7)], 2);
        assert_eq!(set.iter(None).map(|e| e.weight).collect::<Vec<_>>(), [7], "the workload is believed first");
        set.replace(&source("a"), vec![], 3);
        assert_eq!(set.iter(None).map(|e| e.weight).collect::<Vec<_>>(), [5]);
        set.replace(&slice, vec![], 4);
        assert_eq!(set.iter(None).count(), 0);
    }

    #[test]
    fn more_than_one_answer_holds_are_cut_and_told_as_a_whole() {
        let wide = |host: usize| {
            let ip = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(host).unwrap();
            let addr = EndpointAddr((std::net::Ipv4Addr::from(ip), 80).into());
            Meant { spec: EndpointSpec { addr, ..endpoint(0, 1).spec }, hints: None }
        };
        let mut set = EndpointSet::new(1);
        set.replace(&source("a"), (1..=ENDPOINTS_MAX).map(wide).collect(), 1);
        assert_eq!((set.iter(None).count(), set.since(1, None).is_some()), (ENDPOINTS_MAX, true));
        set.replace(&source("b"), vec![wide(0)], 2);
        assert_eq!((set.len(), set.iter(None).count()), (ENDPOINTS_MAX + 1, ENDPOINTS_MAX));
        assert_eq!(set.since(1, None), None, "the last one fell out, which no delta says");
        assert_eq!(set.since(2, None), Some((vec![], vec![])));
        set.replace(&source("b"), vec![], 3);
        assert_eq!((set.iter(None).count(), set.since(2, None)), (ENDPOINTS_MAX, None), "and came back");
    }

    #[test]
    fn who_is_too_far_behind_gets_everything() {
        let mut set = EndpointSet::new(0);
        for version in 1..=2000 {
            set.replace(&source("a"), vec![endpoint(1, u32::try_from(version).unwrap())], version);
        }
        assert!(set.since(900, None).is_none());
        assert_eq!(set.since(1999, None).unwrap().0.len(), 1);
        assert!(set.log.len() <= LOG_MAX);
    }

    #[test]
    fn a_client_follows_what_is_near() {
        let client = |zone: &str| Place { node: None, zone: Some(zone.into()) };
        let (a, b) = (client("a"), client("b"));
        let mut set = EndpointSet::new(1);
        set.set_reach(Reach::PreferZone, 1);
        set.replace(&source("a1"), vec![endpoint_in("a", 1)], 2);
        assert_eq!(set.iter(Some(&b)).count(), 1, "better far away than nowhere");
        set.replace(&source("b1"), vec![endpoint_in("b", 2)], 3);
        assert_eq!(set.since(2, Some(&b)), None, "from now on it has one of its own");
        assert_eq!(hosts(&set.iter(Some(&b)).cloned().collect::<Vec<_>>()), ["10.0.0.2:80"]);
        set.replace(&source("b2"), vec![endpoint_in("b", 3)], 4);
        assert_eq!(hosts(&set.since(3, Some(&b)).unwrap().0), ["10.0.0.3:80"], "the rest is told as ever");
        assert_eq!(set.since(3, Some(&a)).unwrap().0, []);
        // One that is meant for nobody in particular is everybody's, and so are then all.
        set.replace(&source("x"), vec![endpoint(9, 1)], 5);
        assert_eq!((set.since(4, Some(&a)), set.iter(Some(&a)).count()), (None, 4));
    }
}
