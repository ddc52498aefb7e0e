//! How field names were spelled on the wire, beside a `HeaderMap` that only knows lower case.

use bytes::Bytes;
use smallvec::SmallVec;

/// Most requests and responses have fewer fields; more of them cost one allocation.
const INLINE: usize = 24;

/// The names of a head's fields as they were written, in their order.
///
/// **Cost**: no allocation up to 24 fields; the bytes are those of the head itself. Field names are case-insensitive
/// (RFC 9110 §5.1), but programs exist that compare them, and a transparent proxy must not be what breaks them.
#[derive(Clone, Debug, Default)]
pub struct Spelling {
    head: Bytes,
    /// Start and length of each name in `head`.
    names: SmallVec<[(u16, u16); INLINE]>,
}

impl Spelling {
    /// Begins an empty table over the bytes of one head.
    pub(crate) fn of(head: &Bytes) -> Self {
        Self { head: head.clone(), names: SmallVec::new() }
    }

    /// Notes a name. One that begins beyond 64 KiB keeps no spelling; the limit on heads excludes it.
    pub(crate) fn push(&mut self, start: usize, len: usize) {
        if let (Ok(start), Ok(len)) = (u16::try_from(start), u16::try_from(len)) {
            self.names.push((start, len));
        }
    }

    /// Whether nothing is known, as for a head that did not come from HTTP/1.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Begins a walk in the order of the map.
    pub(crate) const fn speller(&self) -> Speller<'_> {
        Speller { spelling: self, next: 0 }
    }

    fn name(&self, index: usize) -> Option<&[u8]> {
        let (start, len) = *self.names.get(index)?;
        self.head.get(usize::from(start)..usize::from(start) + usize::from(len))
    }
}

/// Finds spellings. The map is walked in nearly the order of the wire, so the next name is nearly always the right one.
pub(crate) struct Speller<'a> {
    spelling: &'a Spelling,
    next: usize,
}

impl<'a> Speller<'a> {
    /// The spelling of `name`, or `name` itself where it was not in the head.
    pub(crate) fn spell<'n>(&mut self, name: &'n str) -> &'n [u8]
    where
        'a: 'n,
    {
        let count = self.spelling.names.len();
        for index in (self.next..count).chain(0..self.next.min(count)) {
            if let Some(spelled) = self.spelling.name(index)
                && spelled.eq_ignore_ascii_case(name.as_bytes())
            {
                self.next = index + 1;
                return spelled;
            }
        }
        name.as_bytes()
    }
}
