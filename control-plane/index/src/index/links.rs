//! Who refers to a thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::object::Name;

/// For each thing, the resources that refer to it: of one kind, by their names `N`, or of several.
#[derive(Debug)]
pub(super) struct Links<K, N = Name>(BTreeMap<K, BTreeSet<N>>);

impl<K, N> Default for Links<K, N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, N: Ord + Clone> Links<K, N> {
    pub(super) fn link(&mut self, to: impl IntoIterator<Item = K>, from: &N) {
        for to in to {
            self.0.entry(to).or_default().insert(from.clone());
        }
    }

    pub(super) fn unlink(&mut self, to: impl IntoIterator<Item = K>, from: &N) {
        for to in to {
            if let Some(names) = self.0.get_mut(&to) {
                names.remove(from);
                if names.is_empty() {
                    self.0.remove(&to);
                }
            }
        }
    }

    /// Whether anything refers to it.
    pub(super) fn has(&self, to: &K) -> bool {
        self.0.contains_key(to)
    }

    /// How many refer to it.
    pub(super) fn count(&self, to: &K) -> usize {
        self.0.get(to).map_or(0, BTreeSet::len)
    }

    /// Everything that something refers to.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Everything that refers to it, by name.
    pub(super) fn of<'s>(&'s self, to: &K) -> impl Iterator<Item = &'s N> + use<'s, K, N> {
        self.0.get(to).into_iter().flatten()
    }
}
