//! Who refers to a thing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::object::Name;

/// For each thing, the resources that refer to it: of one kind, by their names `N`, or of several.
#[derive(Debug)]
pub(super) struct Links<K, N = Name>(BTreeMap<K, Referrers<N>>);

/// Who refers to one thing. Of the addresses of a large cluster, of which there are most, hardly ever more than one does, and a set
/// would take ten times the room.
#[derive(Debug)]
enum Referrers<N> {
    One(N),
    Many(BTreeSet<N>),
}

impl<K, N> Default for Links<K, N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, N: Ord + Clone> Links<K, N> {
    pub(super) fn link(&mut self, to: impl IntoIterator<Item = K>, from: &N) {
        for to in to {
            match self.0.entry(to) {
                Entry::Vacant(nobody) => {
                    nobody.insert(Referrers::One(from.clone()));
                }
                Entry::Occupied(mut occupied) => match occupied.get_mut() {
                    Referrers::One(one) if one == from => {}
                    Referrers::One(one) => {
                        let both = BTreeSet::from([one.clone(), from.clone()]);
                        occupied.insert(Referrers::Many(both));
                    }
                    Referrers::Many(names) => {
                        names.insert(from.clone());
                    }
                },
            }
        }
    }

    pub(super) fn unlink(&mut self, to: impl IntoIterator<Item = K>, from: &N) {
        for to in to {
            let nobody = match self.0.get_mut(&to) {
                None => false,
                Some(Referrers::One(one)) => one == from,
                Some(Referrers::Many(names)) => {
                    names.remove(from);
                    names.is_empty()
                }
            };
            if nobody {
                self.0.remove(&to);
            }
        }
    }

    /// Whether anything refers to it.
    pub(super) fn has(&self, to: &K) -> bool {
        self.0.contains_key(to)
    }

    /// How many refer to it.
    pub(super) fn count(&self, to: &K) -> usize {
        match self.0.get(to) {
            None => 0,
            Some(Referrers::One(_)) => 1,
            Some(Referrers::Many(names)) => names.len(),
        }
    }

    /// Everything that something refers to.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Everything that refers to it, by name.
    pub(super) fn of<'s>(&'s self, to: &K) -> impl Iterator<Item = &'s N> + use<'s, K, N> {
        let (one, many) = match self.0.get(to) {
            None => (None, None),
            Some(Referrers::One(one)) => (Some(one), None),
            Some(Referrers::Many(names)) => (None, Some(names)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_refers_is_found_until_it_no_longer_does() {
        let mut links = Links::<u8, u8>::default();
        let of = |links: &Links<u8, u8>| links.of(&1).copied().collect::<Vec<_>>();
        for (from, want) in [(7, &[7][..]), (7, &[7]), (3, &[3, 7]), (5, &[3, 5, 7])] {
            links.link([1], &from);
            assert_eq!((of(&links), links.count(&1)), (want.to_vec(), want.len()));
        }
        for (from, want) in [(9, &[3, 5, 7][..]), (5, &[3, 7]), (3, &[7]), (3, &[7]), (7, &[])] {
            links.unlink([1], &from);
            assert_eq!((of(&links), links.count(&1), links.has(&1)), (want.to_vec(), want.len(), !want.is_empty()));
        }
        links.link([1], &7);
        links.unlink([1], &3);
        assert_eq!(of(&links), [7], "somebody else's end is not its own");
        links.unlink([1], &7);
        assert_eq!(links.keys().count(), 0);
    }
}
