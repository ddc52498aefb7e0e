//! Services: the names that traffic is addressed to, and what their ports speak.

use std::fmt;
use std::sync::Arc;

/// One port of one Service: the unit that is subscribed to, routed and balanced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
    /// The Service's port (not the endpoint's).
    pub port: u16,
}

impl ServiceKey {
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str, port: u16) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name), port }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What a port is declared to speak (`appProtocol`, the port's name prefix, or a `MeshPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppProtocol {
    /// gRPC: HTTP/2, and answers that Weft makes itself carry a gRPC status.
    Grpc,
    /// HTTP/1 or HTTP/2 by prior knowledge; the preface tells which. Nothing else is let through.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Bytes; not looked into. Also for TLS that the application itself speaks, and for protocols in which the server
    /// speaks first.
    Opaque,
    /// Nothing was declared: the first bytes decide.
    #[default]
    Undeclared,
}

impl AppProtocol {
    /// Reads Kubernetes' `appProtocol`, or failing that the prefix of the port's name (`http`, `http-web`, …).
    ///
    /// An `appProtocol` that is not known means bytes of a kind we cannot read: [`AppProtocol::Opaque`].
    pub fn declared(app_protocol: Option<&str>, port_name: Option<&str>) -> Self {
        if let Some(declared) = app_protocol {
            return match declared.to_ascii_lowercase().as_str() {
                "http" | "kubernetes.io/ws" => Self::Http,
                "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
                "grpc" => Self::Grpc,
                _ => Self::Opaque,
            };
        }
        let prefix = port_name.and_then(|name| name.split('-').next()).unwrap_or_default();
        match prefix {
            "http" => Self::Http,
            "http2" | "h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "tcp" | "tls" | "https" | "mysql" | "mongo" | "redis" | "postgres" | "postgresql" => Self::Opaque,
            _ => Self::Undeclared,
        }
    }

    /// Whether connections carry HTTP of some version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http | Self::Http2)
    }
}

#[cfg(test)]
mod tests {
    use super::AppProtocol;

    #[test]
    fn a_declaration_wins_over_the_name() {
        for (app, name, want) in [
            (None, None, AppProtocol::Undeclared),
            (None, Some("web"), AppProtocol::Undeclared),
            (None, Some("http"), AppProtocol::Http),
            (None, Some("http-web"), AppProtocol::Http),
            (None, Some("httpweb"), AppProtocol::Undeclared),
            (None, Some("grpc-api"), AppProtocol::Grpc),
            (Some("HTTP"), Some("tcp-x"), AppProtocol::Http),
            (Some("kubernetes.io/h2c"), None, AppProtocol::Http2),
            (Some("example.com/custom"), Some("http"), AppProtocol::Opaque),
            (Some("https"), None, AppProtocol::Opaque),
        ] {
            assert_eq!(AppProtocol::declared(app, name), want, "{app:?} {name:?}");
        }
    }
}
