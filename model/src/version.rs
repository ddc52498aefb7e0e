//! Versions of Weft, and which of them work together: at most one minor version lies between a control plane and its proxies.

/// What of a version decides what it understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

/// How far two versions are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skew {
    /// Nobody promises that they work together.
    Far,
    /// One minor version lies between them: they work together.
    Next,
    /// Of the same minor version.
    Same,
}

impl Version {
    /// Reads a version such as `0.1.0`, `v1.34.2+k3s1` or `1.29`; `None` for what is none.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
        let mut number = || parts.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }

    /// Major and minor.
    pub fn numbers(self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// How far another is.
    pub fn skew(self, other: Self) -> Skew {
        match self.minor.abs_diff(other.minor) {
            _ if self.major != other.major => Skew::Far,
            0 => Skew::Same,
            1 => Skew::Next,
            _ => Skew::Far,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_may_lie_between_two() {
        for (one, other, want) in [
            ("0.1.0", "0.1.9", Skew::Same),
            ("0.1.0", "0.2.0-rc.1", Skew::Next),
            ("v0.3", "0.2.7", Skew::Next),
            ("0.1.0", "0.3.0", Skew::Far),
            ("0.9.0", "1.0.0", Skew::Far),
            ("1.0.0", "2.0.0", Skew::Far),
        ] {
            let (one, other) = (Version::read(one).unwrap(), Version::read(other).unwrap());
            assert_eq!((one.skew(other), other.skew(one)), (want, want), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "latest", "1", "1.x", "-1.2", "99999999999.1"] {
            assert_eq!(Version::read(text), None, "{text:?}");
        }
        assert_eq!(Version::read("v1.34.2+k3s1").unwrap().numbers(), (1, 34));
    }
}
