//! What was typed, and what it means. Every flag is also a variable.

use std::net::SocketAddr;

use clap::Parser;
use weft_runtime::telemetry::LogFormat;

use crate::patch::{Installation, Redirect, Sidecar};

/// Adds Weft's proxy to pods of labelled namespaces.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-injector", version, about, max_term_width = 100)]
pub struct Config {
    /// Image of the proxy and of the container that sets the redirect.
    #[arg(long, env = "WEFT_PROXY_IMAGE", value_name = "NAME:TAG")]
    pub image: String,

    /// Where proxies find the control plane.
    #[arg(
        long,
        env = "WEFT_CONTROL_PLANE",
        value_name = "HOST:PORT",
        default_value = "weft-control-plane.weft-system.svc:14010"
    )]
    pub control_plane: String,

    /// The trust domain of every identity.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: weft_model::TrustDomain,

    /// Who sets the redirect of a pod: an init container, or the CNI plugin.
    #[arg(long, env = "WEFT_REDIRECT", value_name = "init|cni", default_value = "init")]
    pub redirect: Redirect,

    /// What kind of container the proxy is: native sidecars need Kubernetes 1.29 or later.
    #[arg(long, env = "WEFT_SIDECAR", value_name = "native|ordinary", default_value = "native")]
    pub sidecar: Sidecar,

    /// The injector's own namespace.
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAME", default_value = "weft-system")]
    pub namespace: String,

    /// Addresses for the API server, HTTPS.
    #[arg(long, env = "WEFT_LISTEN", value_name = "IP:PORT", value_delimiter = ',', default_values = ["0.0.0.0:14443", "[::]:14443"])]
    pub listen: Vec<SocketAddr>,

    /// Addresses for people and Prometheus.
    #[arg(long, env = "WEFT_ADMIN", value_name = "IP:PORT", value_delimiter = ',', default_values = ["0.0.0.0:14003", "[::]:14003"])]
    pub admin: Vec<SocketAddr>,

    /// What is logged: a level, or `target=level` pairs.
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info,kube_client=error")]
    pub log: String,

    /// How log lines look.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    pub log_format: LogFormat,
}

impl Config {
    /// What is the same for all pods.
    pub(crate) fn installation(&self) -> Installation {
        Installation {
            image: self.image.clone(),
            control_plane: self.control_plane.clone(),
            trust_domain: self.trust_domain.as_str().to_owned(),
            redirect: self.redirect,
            sidecar: self.sidecar,
        }
    }
}
