//! The options of a pod whose rules are set from outside of it: one line of text, which the injector writes onto the pod
//! as an annotation and whoever sets the rules reads.
//!
//! The line is the word `cni`, then what is skipped: `cni skip-inbound-ports=22,9000-9100 skip-outbound-cidrs=10.0.0.0/8`.
//! All else is the mesh's own, so that no pod can name another port or user. What is not understood is an error: rules
//! that are not quite those that were meant would let connections pass by the proxy.

use crate::config::{ENTRIES_MAX, cidr, port_range};
use crate::options::Options;

/// What the line begins with: by whom the rules are set.
const CNI: &str = "cni";
/// The longest line that three full lists make, and then some.
const LENGTH_MAX: usize = 16 * 1024;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// One entry of a list is none.
    #[error("{name}: {entry:?} is not {expected}")]
    Entry {
        /// The list.
        name: String,
        /// What was written.
        entry: String,
        /// What should have been.
        expected: &'static str,
    },
    /// The line says nothing of the plugin.
    #[error("it does not begin with the word {CNI:?}")]
    NotCni,
    /// A setting that does not exist, or comes twice.
    #[error(
        "{0:?} is no setting, or there twice; there are skip-inbound-ports, skip-outbound-ports and skip-outbound-cidrs"
    )]
    Setting(String),
    /// More than fits.
    #[error("it is too long: {LENGTH_MAX} bytes and {ENTRIES_MAX} entries a list are the most")]
    TooLong,
}

impl Options {
    /// Reads the line.
    ///
    /// # Errors
    /// The first thing that is not understood.
    pub fn from_annotation(text: &str) -> Result<Self, AnnotationError> {
        if text.len() > LENGTH_MAX {
            return Err(AnnotationError::TooLong);
        }
        let mut words = text.split_ascii_whitespace();
        if words.next() != Some(CNI) {
            return Err(AnnotationError::NotCni);
        }
        let mut options = Self::default();
        for word in words {
            let unknown = || AnnotationError::Setting(word.to_owned());
            let (name, list) = word.split_once('=').ok_or_else(unknown)?;
            match name {
                "skip-inbound-ports" if options.skip_inbound_ports.is_empty() => {
                    options.skip_inbound_ports = entries(name, list, port_range)?;
                }
                "skip-outbound-ports" if options.skip_outbound_ports.is_empty() => {
                    options.skip_outbound_ports = entries(name, list, port_range)?;
                }
                "skip-outbound-cidrs" if options.skip_outbound_cidrs.is_empty() => {
                    options.skip_outbound_cidrs = entries(name, list, cidr)?;
                }
                _ => return Err(unknown()),
            }
        }
        Ok(options)
    }

    /// It as the line that [`Self::from_annotation`] reads. Ports, user and mark are not part of it.
    pub fn to_annotation(&self) -> String {
        let mut text = CNI.to_owned();
        let mut add = |name: &str, list: Vec<String>| {
            if !list.is_empty() {
                text.extend([" ", name, "=", &list.join(",")]);
            }
        };
        add("skip-inbound-ports", self.skip_inbound_ports.iter().map(ToString::to_string).collect());
        add("skip-outbound-ports", self.skip_outbound_ports.iter().map(ToString::to_string).collect());
        add("skip-outbound-cidrs", self.skip_outbound_cidrs.iter().map(ToString::to_string).collect());
        text
    }
}

fn entries<T>(
    name: &str,
    list: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, AnnotationError> {
    if list.split(',').count() > ENTRIES_MAX {
        return Err(AnnotationError::TooLong);
    }
    let read = |entry: &str| {
        parse(entry).map_err(|expected| AnnotationError::Entry {
            name: name.to_owned(),
            entry: entry.to_owned(),
            expected,
        })
    };
    list.split(',').map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::{AnnotationError, ENTRIES_MAX, Options};

    #[test]
    fn what_is_written_is_read() {
        for line in [
            "cni",
            "cni skip-inbound-ports=22,9000-9100",
            "cni skip-inbound-ports=1 skip-outbound-ports=25 skip-outbound-cidrs=10.0.0.0/8,2001:db8::1/128",
        ] {
            assert_eq!(Options::from_annotation(line).unwrap().to_annotation(), line);
        }
        assert_eq!(Options::from_annotation("cni"), Ok(Options::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let long = format!("cni skip-inbound-ports={}", ["1"; ENTRIES_MAX + 1].join(","));
        for line in [
            "",
            "init",
            "cnis",
            "cni skip-inbound-port=1",
            "cni skip-inbound-ports",
            "cni skip-inbound-ports=",
            "cni skip-inbound-ports=0",
            "cni skip-inbound-ports=1 skip-inbound-ports=2",
            "cni skip-outbound-cidrs=10.0.0.0/33",
            "cni proxy-uid=0",
            long.as_str(),
        ] {
            assert!(Options::from_annotation(line).is_err(), "{line}");
        }
        let error = Options::from_annotation("cni skip-outbound-ports=25,http").unwrap_err();
        let AnnotationError::Entry { name, entry, .. } = &error else { panic!("{error}") };
        assert_eq!((name.as_str(), entry.as_str()), ("skip-outbound-ports", "http"));
    }
}
