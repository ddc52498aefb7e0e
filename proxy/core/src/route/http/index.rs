//! Finds the candidates whose path matches: exact paths in a hash map, prefixes in a tree of segments.
//!
//! Both hold ranges of the sorted candidates, so that the order of precedence is nowhere repeated.

use std::collections::HashMap;
use std::ops::Range;

/// The path of a match, ordered as precedence orders it: exact before prefix, longer prefixes before shorter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathKey {
    is_prefix: bool,
    shortness: std::cmp::Reverse<usize>,
    text: Box<str>,
}

impl PathKey {
    pub(super) fn exact(path: &str) -> Self {
        Self { is_prefix: false, shortness: std::cmp::Reverse(0), text: path.into() }
    }

    /// `/a/` means the same as `/a`: a prefix is matched segment by segment, its trailing slash ignored.
    pub(super) fn prefix(path: &str) -> Self {
        let text: Box<str> = path.strip_suffix('/').unwrap_or(path).into();
        Self { is_prefix: true, shortness: std::cmp::Reverse(text.len()), text }
    }
}

/// A range of candidates.
type Bucket = Range<usize>;

#[derive(Debug)]
pub(super) struct PathIndex {
    exact: HashMap<Box<str>, Bucket>,
    /// The longest key of `exact`: a longer path need not be hashed, however long its sender made it.
    exact_bytes_max: usize,
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by segment.
    children: Vec<(Box<str>, usize)>,
    /// Candidates whose prefix ends here.
    bucket: Option<Bucket>,
    /// The nearest node above that has a bucket.
    above: Option<usize>,
}

impl PathIndex {
    /// Indexes candidates, given the paths of all in their order.
    pub(super) fn build<'a>(paths: impl Iterator<Item = &'a PathKey>) -> Self {
        let mut index = Self { exact: HashMap::new(), exact_bytes_max: 0, nodes: vec![Node::default()] };
        let mut grouped: Vec<(&PathKey, Bucket)> = Vec::new();
        for (at, path) in paths.enumerate() {
            match grouped.last_mut() {
                Some((last, bucket)) if *last == path => bucket.end = at + 1,
                _ => grouped.push((path, at..at + 1)),
            }
        }
        // From the shortest prefix to the longest, so that what is above exists before what is below.
        for (path, bucket) in grouped.into_iter().rev() {
            if path.is_prefix {
                index.insert_prefix(&path.text, bucket);
            } else {
                index.exact_bytes_max = index.exact_bytes_max.max(path.text.len());
                index.exact.insert(path.text.clone(), bucket);
            }
        }
        index
    }

    fn insert_prefix(&mut self, prefix: &str, bucket: Bucket) {
        let (mut at, mut above) = (0, None);
        for segment in prefix.split('/').skip(1) {
            let Some(node) = self.nodes.get(at) else { return };
            if node.bucket.is_some() {
                above = Some(at);
            }
            at = match node.children.binary_search_by(|(name, _)| name.as_ref().cmp(segment)) {
                Ok(found) => node.children.get(found).map_or(0, |(_, child)| *child),
                Err(place) => {
                    let child = self.nodes.len();
                    self.nodes.push(Node { above, ..Node::default() });
                    if let Some(node) = self.nodes.get_mut(at) {
                        node.children.insert(place, (segment.into(), child));
                    }
                    child
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.bucket = Some(bucket);
            node.above = above;
        }
    }

    /// The buckets whose path matches, the most specific first.
    ///
    /// A target that is not a path (`*`, an authority) matches itself exactly, and the prefix `/`.
    pub(super) fn buckets<'a>(&'a self, path: &str) -> impl Iterator<Item = Bucket> + use<'a> {
        let exact = if path.len() <= self.exact_bytes_max { self.exact.get(path).cloned() } else { None };
        let mut deepest = None;
        let mut at = self.nodes.first();
        let mut number = 0;
        let mut segments = path.strip_prefix('/').map(|rest| rest.split('/'));
        while let Some(node) = at {
            if node.bucket.is_some() {
                deepest = Some(number);
            }
            let next = segments.as_mut().and_then(Iterator::next).and_then(|segment| node.child(segment));
            number = next.unwrap_or(number);
            at = next.and_then(|child| self.nodes.get(child));
        }
        let prefixes = std::iter::successors(deepest.and_then(|n| self.nodes.get(n)), |node| {
            node.above.and_then(|n| self.nodes.get(n))
        });
        exact.into_iter().chain(prefixes.filter_map(|node| node.bucket.clone()))
    }
}

impl Node {
    fn child(&self, segment: &str) -> Option<usize> {
        let found = self.children.binary_search_by(|(name, _)| name.as_ref().cmp(segment)).ok()?;
        self.children.get(found).map(|(_, child)| *child)
    }
}
