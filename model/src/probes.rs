//! Probes and hooks of a pod that its proxy performs for the kubelet (semantics 41): what was written before the injector put the
//! proxy's address in its place. The injector writes it as JSON into one variable of the proxy, who reads it as hostile.
//!
//! Invariant: [`Probes`] holds what can be performed: its ports are ports, its paths and headers can stand in a request, and
//! nothing is there twice.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::bounds::{
    FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX, KNOB_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PROBE_HEADERS_MAX,
    PROBES_BYTES_MAX, PROBES_MAX,
};
use crate::identity::is_dns_label;

mod json;

/// The variable of the proxy that holds them.
pub const VARIABLE: &str = "WEFT_PROBES";

/// What the path of every one begins with, on the proxy's admin port.
pub const PATH_PREFIX: &str = "/probe/";

/// What the key of a hook has at least: 16 bytes in hexadecimal digits.
const KEY_BYTES_MIN: usize = 32;

/// The probes and hooks of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(Vec<Probe>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The container that it belongs to.
    pub container: String,
    /// When it is asked for.
    pub occasion: Occasion,
    /// What is done.
    pub action: Action,
    /// How long it may take.
    pub timeout: Duration,
    /// What a caller must know: a hook changes the application, so nobody but who reads the pod may ask for it. None for a probe.
    pub key: Option<String>,
}

/// When the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Occasion {
    /// Whether the container is to be restarted.
    Liveness,
    /// Once, after the container's start.
    PostStart,
    /// Once, before the container's end.
    PreStop,
    /// Whether the container takes traffic.
    Readiness,
    /// Whether the container has started.
    Startup,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The gRPC health check.
    Grpc {
        /// Where.
        port: u16,
        /// Which service is asked about; empty for the whole server.
        service: String,
    },
    /// A GET.
    Http(HttpGet),
    /// A connection.
    Tcp {
        /// Where to.
        port: u16,
    },
}

/// A GET, as the kubelet makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Where.
    pub port: u16,
    /// Whether over TLS, whose certificate nobody looks at.
    pub tls: bool,
    /// The path with its query; begins with a slash.
    pub path: String,
    /// Headers in the order in which they were written; names may be there more than once.
    pub headers: Vec<(String, String)>,
}

/// Why probes make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbesError {
    /// Two are asked for in the same way.
    #[error("the {} of container {container:?} is there twice", .occasion.as_str())]
    Duplicate {
        /// Whose.
        container: String,
        /// Which.
        occasion: Occasion,
    },
    /// One cannot be performed.
    #[error("the {} of container {container:?}: {message}", .occasion.as_str())]
    Invalid {
        /// Whose.
        container: String,
        /// Which.
        occasion: Occasion,
        /// What is wrong.
        message: String,
    },
    /// It is not the JSON that was expected.
    #[error("not a list of probes in JSON: {0}")]
    Json(String),
    /// More than [`PROBES_MAX`] of them.
    #[error("{0} probes, of which there may be {PROBES_MAX}")]
    TooMany(usize),
    /// Their text is longer than [`PROBES_BYTES_MAX`].
    #[error("{0} bytes of probes, of which there may be {PROBES_BYTES_MAX}")]
    TooLong(usize),
}

impl Probes {
    /// Takes them, if every one can be performed.
    ///
    /// # Errors
    /// The first that cannot, is there twice, or is one too many.
    pub fn new(probes: Vec<Probe>) -> Result<Self, ProbesError> {
        if probes.len() > PROBES_MAX {
            return Err(ProbesError::TooMany(probes.len()));
        }
        for (i, probe) in probes.iter().enumerate() {
            let Probe { container, occasion, .. } = probe;
            let (container, occasion) = (container.clone(), *occasion);
            if let Err(message) = probe.check() {
                return Err(ProbesError::Invalid { container, occasion, message });
            }
            if probes.iter().take(i).any(|other| other.container == container && other.occasion == occasion) {
                return Err(ProbesError::Duplicate { container, occasion });
            }
        }
        Ok(Self(probes))
    }

    /// Reads what [`Probes::to_json`] wrote. Nothing at all are no probes.
    ///
    /// # Errors
    /// It is too long, no JSON of that shape, or holds what [`Probes::new`] does not take.
    pub fn parse(text: &str) -> Result<Self, ProbesError> {
        if text.len() > PROBES_BYTES_MAX {
            return Err(ProbesError::TooLong(text.len()));
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        Self::new(json::read(text)?)
    }

    /// Them as text, always the same for the same.
    ///
    /// # Errors
    /// It is longer than [`Probes::parse`] takes.
    pub fn to_json(&self) -> Result<String, ProbesError> {
        let text = json::write(&self.0)?;
        if text.len() > PROBES_BYTES_MAX { Err(ProbesError::TooLong(text.len())) } else { Ok(text) }
    }

    /// Every one.
    pub fn iter(&self) -> impl Iterator<Item = &Probe> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Probe {
    /// The path at which the proxy performs it: `/probe/<container>/<occasion>`, and for a hook `/<key>` behind it.
    pub fn path(&self) -> String {
        let Self { container, occasion, key, .. } = self;
        let key = key.as_deref().map(|key| format!("/{key}")).unwrap_or_default();
        format!("{PATH_PREFIX}{container}/{}{key}", occasion.as_str())
    }

    fn check(&self) -> Result<(), String> {
        let Self { container, occasion, action, timeout, key } = self;
        if !is_dns_label(container) {
            return Err("a container's name is a DNS label".to_owned());
        }
        if timeout.is_zero() || *timeout > KNOB_MAX {
            return Err(format!("expected a timeout of 1 to {} seconds", KNOB_MAX.as_secs()));
        }
        match key {
            None if occasion.is_hook() => return Err("a hook has a key".to_owned()),
            Some(_) if !occasion.is_hook() => return Err("only a hook has a key".to_owned()),
            Some(key) if !is_key(key) => return Err("the key of a hook is 32 to 128 hexadecimal digits".to_owned()),
            None | Some(_) => {}
        }
        match action {
            Action::Grpc { port: 0, .. } | Action::Tcp { port: 0 } => Err("0 is not a port".to_owned()),
            Action::Grpc { service, .. } if service.len() > NAME_BYTES_MAX => {
                Err(format!("the name of a service has at most {NAME_BYTES_MAX} bytes"))
            }
            Action::Grpc { .. } | Action::Tcp { .. } => Ok(()),
            Action::Http(get) => get.check(),
        }
    }
}

fn is_key(key: &str) -> bool {
    (KEY_BYTES_MIN..=4 * KEY_BYTES_MIN).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_hexdigit())
}

impl HttpGet {
    fn check(&self) -> Result<(), String> {
        let Self { port, tls: _, path, headers } = self;
        if *port == 0 {
            return Err("0 is not a port".to_owned());
        }
        if !path.starts_with('/') || path.len() > PATH_BYTES_MAX || path.parse::<PathAndQuery>().is_err() {
            return Err(format!("{path:?} is not a path of at most {PATH_BYTES_MAX} bytes"));
        }
        if headers.len() > PROBE_HEADERS_MAX {
            return Err(format!("{} headers, of which there may be {PROBE_HEADERS_MAX}", headers.len()));
        }
        for (name, value) in headers {
            if name.len() > FIELD_NAME_BYTES_MAX || name.parse::<HeaderName>().is_err() {
                return Err(format!("{name:?} is not the name of a header"));
            }
            if value.len() > FIELD_VALUE_BYTES_MAX || value.parse::<HeaderValue>().is_err() {
                return Err(format!("the header {name:?} has a value that no header can have"));
            }
        }
        Ok(())
    }
}

impl Occasion {
    /// It in one word, as it stands in the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }

    /// Whether it changes the application rather than ask how it is.
    pub fn is_hook(self) -> bool {
        matches!(self, Self::PostStart | Self::PreStop)
    }
}

#[cfg(test)]
mod tests;
