//! What a replica knows of its own proxies, as other replicas are told it: values that are compared, so that only what is new
//! travels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ring::digest::{Context, SHA256};
use weft_index::ObjectKey;
use weft_model::WorkloadName;

use super::RefusalReport;

/// Refusals of one resource that another replica is told of. A status names few, and one proxy's reason is mostly all proxies'.
pub(crate) const REFUSALS_MAX: usize = 16;

/// A set of trust anchors, as replicas name it to each other: their versions are counted by each alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BundleId(u64);

impl BundleId {
    /// The first eight bytes of what the anchors hash to. None of those who say it is a stranger, so that nobody looks for a
    /// second set with the same.
    pub(super) fn of(anchors: &[Vec<u8>]) -> Self {
        let mut context = Context::new(&SHA256);
        anchors.iter().for_each(|anchor| context.update(anchor));
        let mut first = [0; 8];
        first.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        // 0 says on the wire that there is none.
        Self(u64::from_be_bytes(first).max(1))
    }

    /// As it stands in a message; 0: none.
    pub(crate) fn from_wire(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// As it stands in a message.
    pub(crate) fn to_wire(id: Option<Self>) -> u64 {
        id.map_or(0, |id| id.0)
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Everything that one replica tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The trust bundle that it gives to its proxies.
    pub(crate) bundle: Option<BundleId>,
    /// How far resources got; those that concern none of its proxies are left out.
    pub(crate) resources: BTreeMap<ObjectKey, ResourceFact>,
    /// Every proxy that is connected to it, or was and may come back.
    pub(crate) proxies: BTreeMap<WorkloadName, ProxyFact>,
    /// Workloads that go and that none of its proxies sends to any more.
    pub(crate) departed: BTreeSet<WorkloadName>,
}

/// How far a version of a resource got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceFact {
    /// Which version, as Kubernetes counts them.
    pub(crate) generation: i64,
    /// Proxies that run it.
    pub(crate) running: usize,
    /// Proxies that it concerns.
    pub(crate) concerned: usize,
    /// Who refused it.
    pub(crate) refused: Vec<RefusalReport>,
}

/// What a replica knows of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyFact {
    /// Whether it has a stream.
    pub(crate) connected: bool,
    /// The trust bundle that it acknowledged last.
    pub(crate) bundle: Option<BundleId>,
}

/// One of the facts, as it is now; `None`: no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// Of a workload that goes: whether it is spoken of.
    Departure(WorkloadName, bool),
    /// Of a proxy.
    Proxy(WorkloadName, Option<ProxyFact>),
    /// Of a resource.
    Resource(ObjectKey, Option<ResourceFact>),
}

impl Facts {
    /// What has to be said to whoever was told `before`, so that it knows this.
    pub(crate) fn since(&self, before: &Self) -> Vec<Fact> {
        let resources = changes(&before.resources, &self.resources).map(|(key, now)| Fact::Resource(key, now));
        let proxies = changes(&before.proxies, &self.proxies).map(|(name, now)| Fact::Proxy(name, now));
        // Somebody waits for departures.
        departures(&before.departed, &self.departed).chain(proxies).chain(resources).collect()
    }

    /// Takes in what was said.
    pub(crate) fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Departure(name, true) => drop(self.departed.insert(name)),
            Fact::Departure(name, false) => drop(self.departed.remove(&name)),
            Fact::Proxy(name, Some(fact)) => drop(self.proxies.insert(name, fact)),
            Fact::Proxy(name, None) => drop(self.proxies.remove(&name)),
            Fact::Resource(key, Some(fact)) => drop(self.resources.insert(key, fact)),
            Fact::Resource(key, None) => drop(self.resources.remove(&key)),
        }
    }
}

/// What has to be said of workloads that go.
pub(crate) fn departures<'a>(
    before: &'a BTreeSet<WorkloadName>,
    now: &'a BTreeSet<WorkloadName>,
) -> impl Iterator<Item = Fact> + 'a {
    now.symmetric_difference(before).map(|name| Fact::Departure(name.clone(), now.contains(name)))
}

/// Keys whose value is not what it was, with what it is.
fn changes<'a, K: Ord + Clone, V: PartialEq + Clone>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, Option<V>)> + 'a {
    let gone = before.keys().filter(|key| !now.contains_key(key)).map(|key| (key.clone(), None));
    let other = now.iter().filter(|(key, value)| before.get(key) != Some(value));
    gone.chain(other.map(|(key, value)| (key.clone(), Some(value.clone()))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_index::Kind;

    use super::*;

    fn facts() -> impl Strategy<Value = Facts> {
        let name = || (0..4_u8).prop_map(|name| WorkloadName::new("shop", &format!("w{name}")));
        let bundle = || prop::option::of((1..3_u64).prop_map(BundleId));
        let proxy = (any::<bool>(), bundle()).prop_map(|(connected, bundle)| ProxyFact { connected, bundle });
        let key = (0..4_u8).prop_map(|name| ObjectKey {
            kind: Kind::HttpRoute,
            namespace: "shop".into(),
            name: format!("r{name}").into(),
        });
        let resource = (0..3_i64, 0..3_usize).prop_map(|(generation, running)| ResourceFact {
            generation,
            running,
            concerned: 3,
            refused: Vec::new(),
        });
        let all = (
            bundle(),
            prop::collection::btree_map(key, resource, 0..4),
            prop::collection::btree_map(name(), proxy, 0..4),
            prop::collection::btree_set(name(), 0..4),
        );
        all.prop_map(|(bundle, resources, proxies, departed)| Facts { bundle, resources, proxies, departed })
    }

    proptest! {
        #[test]
        fn whoever_hears_what_is_new_knows_what_is_so(before in facts(), now in facts()) {
            let mut heard = before.clone();
            let said = now.since(&before);
            prop_assert!(now.since(&now).is_empty());
            said.into_iter().for_each(|fact| heard.take(fact));
            heard.bundle = now.bundle;
            prop_assert_eq!(heard, now);
        }
    }

    #[test]
    fn a_bundle_is_named_by_its_anchors() {
        let (one, two) = (BundleId::of(&[vec![1]]), BundleId::of(&[vec![1], vec![2]]));
        assert_ne!(one, two);
        assert_eq!(BundleId::from_wire(BundleId::to_wire(Some(one))), Some(one));
        assert_eq!((BundleId::from_wire(0), BundleId::to_wire(None)), (None, 0));
    }
}
