//! The shape of the text, which is that of a pod where it can be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, HttpGet, Occasion, Probe, ProbesError};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    container: String,
    occasion: Occasion,
    timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    action: WrittenAction,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum WrittenAction {
    Grpc(Grpc),
    HttpGet(Get),
    TcpSocket(Tcp),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    port: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    scheme: Scheme,
    port: u16,
    path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcp {
    port: u16,
}

pub(super) fn read(text: &str) -> Result<Vec<Probe>, ProbesError> {
    let written: Vec<Written> = serde_json::from_str(text).map_err(|error| ProbesError::Json(error.to_string()))?;
    Ok(written.into_iter().map(Probe::from).collect())
}

pub(super) fn write(probes: &[Probe]) -> Result<String, ProbesError> {
    let written: Vec<Written> = probes.iter().map(Written::from).collect();
    serde_json::to_string(&written).map_err(|error| ProbesError::Json(error.to_string()))
}

impl From<Written> for Probe {
    fn from(written: Written) -> Self {
        let Written { container, occasion, timeout_seconds, key, action } = written;
        let action = match action {
            WrittenAction::Grpc(Grpc { port, service }) => Action::Grpc { port, service },
            WrittenAction::HttpGet(Get { scheme, port, path, headers }) => {
                Action::Http(HttpGet { port, tls: matches!(scheme, Scheme::Https), path, headers })
            }
            WrittenAction::TcpSocket(Tcp { port }) => Action::Tcp { port },
        };
        Self { container, occasion, action, timeout: Duration::from_secs(timeout_seconds), key }
    }
}

impl From<&Probe> for Written {
    fn from(probe: &Probe) -> Self {
        let Probe { container, occasion, action, timeout, key } = probe.clone();
        let action = match action {
            Action::Grpc { port, service } => WrittenAction::Grpc(Grpc { port, service }),
            Action::Http(HttpGet { port, tls, path, headers }) => {
                let scheme = if tls { Scheme::Https } else { Scheme::Http };
                WrittenAction::HttpGet(Get { scheme, port, path, headers })
            }
            Action::Tcp { port } => WrittenAction::TcpSocket(Tcp { port }),
        };
        Self { container, occasion, timeout_seconds: timeout.as_secs(), key, action }
    }
}
