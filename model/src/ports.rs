//! Ports as people write them: `22,8000-8100`, on a pod for the injector and the control plane, in a variable for `weft-init`. One
//! reading of it, so that what one of them leaves uncaptured is what the others think is.
//!
//! Each entry of a list is read by itself: whether one that is none refuses the whole or is left out is for the reader to say.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// One port or several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// What is expected where one is to be written, for messages.
    pub const EXPECTED: &str = "a port or a range such as 8000-8100";

    /// The ports from `first` to `last`, both included; none where that is empty or begins with port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// One port.
    pub const fn single(port: NonZeroU16) -> Self {
        Self { first: port.get(), last: port.get() }
    }

    /// The lowest of them.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest of them.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// What was written is no port and no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is expected", PortRange::EXPECTED)]
pub struct NotPorts;

impl FromStr for PortRange {
    type Err = NotPorts;

    /// `8080` or `8000-8100`, with space where people leave some.
    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse().ok();
        port(first).zip(port(last)).and_then(|(first, last)| Self::new(first, last)).ok_or(NotPorts)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// The entries of a list that is written with commas, without the space around them and without empty ones.
pub fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NotPorts, PortRange, entries};

    #[test]
    fn a_port_or_a_range_is_read_and_nothing_else() {
        for (text, want) in [
            ("8080", Some((8080, 8080))),
            ("1-65535", Some((1, 65535))),
            ("80-80", Some((80, 80))),
            (" 8000 - 8100 ", Some((8000, 8100))),
            ("", None),
            ("0", None),
            ("0-10", None),
            ("9-8", None),
            ("65536", None),
            ("1-65536", None),
            ("-80", None),
            ("80-", None),
            ("-", None),
            ("80-81-82", None),
            ("8 0", None),
            ("http", None),
            ("80,81", None),
        ] {
            let read = text.parse::<PortRange>();
            assert_eq!(read.ok().map(|range| (range.first(), range.last())), want, "{text:?}");
            assert_eq!(read.err(), want.is_none().then_some(NotPorts), "{text:?}");
        }
        assert_eq!(NotPorts.to_string(), "a port or a range such as 8000-8100 is expected");
    }

    #[test]
    fn entries_are_without_space_and_none_is_empty() {
        for (list, want) in [
            ("", [].as_slice()),
            (" , ", &[]),
            ("22", &["22"]),
            (" 22, 8000-8100 ,", &["22", "8000-8100"]),
            ("10.0.0.0/8,fd00::/8", &["10.0.0.0/8", "fd00::/8"]),
        ] {
            assert_eq!(entries(list).collect::<Vec<_>>(), want, "{list:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(first in 1u16.., more in 0u16..) {
            let range = PortRange::new(first, first.saturating_add(more)).unwrap();
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            prop_assert!(range.contains(range.first()) && range.contains(range.last()));
        }

        #[test]
        fn nothing_makes_it_panic(text in ".*") {
            let read = text.parse::<PortRange>();
            prop_assert!(read.is_err() || read.is_ok_and(|range| 0 < range.first() && range.first() <= range.last()));
            prop_assert!(entries(&text).all(|entry| !entry.is_empty()));
        }
    }
}
