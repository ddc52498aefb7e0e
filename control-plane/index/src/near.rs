//! Which endpoints a client is told of, where a Service says that it shall not be all: those of its node, or of its zone.
//!
//! The rules are kube-proxy's: an endpoint may say for which zones and nodes it is meant (hints); where every ready endpoint says so,
//! and one is meant for the client's node or zone, the client gets those; else it gets all. `internalTrafficPolicy: Local` has no
//! "else".

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::Health;

/// Where a client or a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
}

/// How far a Service's traffic may go, or shall not go without need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    #[default]
    Anywhere,
    /// Within the zone, where the endpoints are spread evenly over the zones.
    EvenZones,
    /// On the node and nowhere else.
    NodeOnly,
    /// On the node, else within the zone.
    PreferNode,
    /// Within the zone.
    PreferZone,
}

impl Reach {
    /// What an endpoint at a place is meant for, where nothing is written at the endpoint itself.
    pub(crate) fn hints(self, place: &Place) -> Option<Arc<Hints>> {
        let one = |it: &Option<Arc<str>>| it.iter().cloned().collect::<Vec<_>>();
        let hints = match self {
            Self::Anywhere => return None,
            Self::EvenZones | Self::PreferZone => Hints { nodes: Vec::new(), zones: one(&place.zone) },
            Self::NodeOnly => Hints { nodes: one(&place.node), zones: Vec::new() },
            Self::PreferNode => Hints { nodes: one(&place.node), zones: one(&place.zone) },
        };
        Some(Arc::new(hints))
    }
}

/// Whom an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) nodes: Vec<Arc<str>>,
    pub(crate) zones: Vec<Arc<str>>,
}

/// Which endpoints a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen<'a> {
    All,
    OfNode(Option<&'a Arc<str>>),
    OfZone(&'a Arc<str>),
}

impl Chosen<'_> {
    /// Whether an endpoint with these hints is among them.
    pub(crate) fn has(self, hints: Option<&Hints>) -> bool {
        match (self, hints) {
            (Self::All, _) => true,
            (Self::OfNode(Some(node)), Some(hints)) => hints.nodes.contains(node),
            (Self::OfZone(zone), Some(hints)) => hints.zones.contains(zone),
            (Self::OfNode(_) | Self::OfZone(_), _) => false,
        }
    }
}

/// How many ready endpoints are meant for whom, and when a client's choice changed last.
#[derive(Debug, Default)]
pub(crate) struct Census {
    reach: Reach,
    ready: usize,
    with_nodes: usize,
    with_zones: usize,
    nodes: BTreeMap<Arc<str>, usize>,
    zones: BTreeMap<Arc<str>, usize>,
    /// Nodes and zones that got their first endpoint, or lost their last, with the version of that.
    turned_nodes: BTreeMap<Arc<str>, u64>,
    turned_zones: BTreeMap<Arc<str>, u64>,
}

/// What holds for every client of a set alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    reach: Reach,
    by_node: bool,
    by_zone: bool,
}

impl Census {
    /// Sets how far the traffic may go.
    pub(crate) fn set_reach(&mut self, reach: Reach) {
        self.reach = reach;
    }

    /// Whether clients at different places may have different choices.
    pub(crate) fn has_near(&self) -> bool {
        self.reach != Reach::Anywhere || self.with_nodes + self.with_zones > 0
    }

    /// Counts an endpoint in.
    pub(crate) fn add(&mut self, hints: Option<&Hints>, health: Health, version: u64) {
        self.count(hints, health, version, |count| *count += 1);
    }

    /// Counts an endpoint out.
    pub(crate) fn remove(&mut self, hints: Option<&Hints>, health: Health, version: u64) {
        self.count(hints, health, version, |count| *count = count.saturating_sub(1));
    }

    /// What holds for every client alike. When it changes, every client's choice may have changed.
    pub(crate) fn rules(&self) -> Rules {
        let all = |count: usize| self.ready > 0 && count == self.ready;
        let by_zone = all(self.with_zones) && (self.reach != Reach::EvenZones || self.is_even());
        Rules { reach: self.reach, by_node: all(self.with_nodes), by_zone }
    }

    /// Which endpoints a client at a place gets.
    pub(crate) fn choose<'a>(&self, client: &'a Place) -> Chosen<'a> {
        let rules = self.rules();
        if rules.reach == Reach::NodeOnly {
            return Chosen::OfNode(client.node.as_ref());
        }
        let node = client.node.as_ref().filter(|node| rules.by_node && self.nodes.contains_key(*node));
        let zone = client.zone.as_ref().filter(|zone| rules.by_zone && self.zones.contains_key(*zone));
        match (node, zone) {
            (Some(node), _) => Chosen::OfNode(Some(node)),
            (None, Some(zone)) => Chosen::OfZone(zone),
            (None, None) => Chosen::All,
        }
    }

    /// Whether a client at a place may have another choice than it had at a version.
    pub(crate) fn turned_since(&self, client: &Place, version: u64) -> bool {
        let newer = |turned: &BTreeMap<Arc<str>, u64>, at: &Option<Arc<str>>| {
            at.as_ref().and_then(|at| turned.get(at)).is_some_and(|turned| *turned > version)
        };
        newer(&self.turned_nodes, &client.node) || newer(&self.turned_zones, &client.zone)
    }

    /// Forgets what turned at or before a version, of which nobody asks any more.
    pub(crate) fn forget(&mut self, version: u64) {
        self.turned_nodes.retain(|_, turned| *turned > version);
        self.turned_zones.retain(|_, turned| *turned > version);
    }

    /// Whether no zone has less than its share of the endpoints by more than a fifth: else its clients would overload it. So does
    /// Kubernetes with `topology-mode: Auto`, by the processors of the zones' nodes, which are not known here.
    fn is_even(&self) -> bool {
        let total: usize = self.zones.values().sum();
        self.zones.values().all(|count| count * self.zones.len() * 6 >= total * 5)
    }

    fn count(&mut self, hints: Option<&Hints>, health: Health, version: u64, change: impl Fn(&mut usize)) {
        if health != Health::Ready {
            return;
        }
        change(&mut self.ready);
        let Some(hints) = hints else { return };
        if !hints.nodes.is_empty() {
            change(&mut self.with_nodes);
        }
        if !hints.zones.is_empty() {
            change(&mut self.with_zones);
        }
        let each = |counts: &mut BTreeMap<Arc<str>, usize>, turned: &mut BTreeMap<Arc<str>, u64>, at: &Arc<str>| {
            let count = counts.entry(Arc::clone(at)).or_insert(0);
            let before = *count;
            change(count);
            let now = *count;
            if now == 0 {
                counts.remove(at);
            }
            if (before == 0) != (now == 0) {
                turned.insert(Arc::clone(at), version);
            }
        };
        for node in &hints.nodes {
            each(&mut self.nodes, &mut self.turned_nodes, node);
        }
        for zone in &hints.zones {
            each(&mut self.zones, &mut self.turned_zones, zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str, zone: &str) -> Place {
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Arc::from);
        Place { node: text(node), zone: text(zone) }
    }

    fn census(reach: Reach, endpoints: &[(&str, &str)]) -> Census {
        let mut census = Census::default();
        census.set_reach(reach);
        for (node, zone) in endpoints {
            census.add(reach.hints(&place(node, zone)).as_deref(), Health::Ready, 1);
        }
        census
    }

    #[test]
    fn the_client_gets_what_is_near_where_everything_says_where_it_is() {
        let two = &[("n1", "a"), ("n2", "b")][..];
        for (reach, endpoints, client, want) in [
            (Reach::Anywhere, two, ("n1", "a"), "all"),
            (Reach::PreferZone, two, ("n1", "a"), "zone a"),
            (Reach::PreferZone, two, ("n9", "a"), "zone a"),
            (Reach::PreferZone, two, ("n9", "c"), "all"),
            (Reach::PreferZone, two, ("n9", ""), "all"),
            (Reach::PreferZone, &[("n1", "a"), ("n2", "")], ("n1", "a"), "all"),
            (Reach::PreferNode, two, ("n1", "a"), "node n1"),
            (Reach::PreferNode, two, ("n9", "b"), "zone b"),
            (Reach::PreferNode, two, ("n9", "c"), "all"),
            (Reach::PreferNode, &[("n1", "a"), ("", "a")], ("n1", "a"), "zone a"),
            (Reach::NodeOnly, two, ("n1", "a"), "node n1"),
            (Reach::NodeOnly, two, ("n9", "a"), "node n9"),
            (Reach::NodeOnly, two, ("", "a"), "node -"),
            (Reach::EvenZones, two, ("n1", "a"), "zone a"),
            (Reach::EvenZones, &[("n1", "a"), ("n2", "a"), ("n3", "b")], ("n3", "b"), "all"),
        ] {
            let client = place(client.0, client.1);
            let found = match census(reach, endpoints).choose(&client) {
                Chosen::All => "all".to_owned(),
                Chosen::OfNode(node) => format!("node {}", node.map_or("-", |node| node)),
                Chosen::OfZone(zone) => format!("zone {zone}"),
            };
            assert_eq!(found, want, "{reach:?} {endpoints:?} {client:?}");
        }
    }

    #[test]
    fn what_terminates_keeps_nobody_near() {
        let mut census = census(Reach::PreferZone, &[("n1", "a"), ("n2", "b")]);
        let hints = Reach::PreferZone.hints(&place("n1", "a"));
        census.remove(hints.as_deref(), Health::Ready, 2);
        census.add(hints.as_deref(), Health::ServingTerminating, 2);
        assert_eq!(census.choose(&place("n1", "a")), Chosen::All);
        assert!(census.turned_since(&place("n1", "a"), 1) && !census.turned_since(&place("n1", "a"), 2));
        assert!(!census.turned_since(&place("n2", "b"), 1), "whose choice is the same");
    }
}
