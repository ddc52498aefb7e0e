//! What was typed, and what it means. Every flag is also a variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use weft_runtime::telemetry::LogFormat;

/// Sets the redirect of pods from outside of them.
///
/// Called by a container runtime (with CNI_COMMAND) it is a CNI plugin. Otherwise it is the node's part, which keeps the plugin in
/// place.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-cni", version, about, max_term_width = 100)]
pub struct Config {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,

    /// Where the node's CNI programs are.
    #[arg(
        long,
        global = true,
        env = "WEFT_CNI_BIN_DIR",
        value_name = "DIRECTORY",
        default_value = "/host/opt/cni/bin"
    )]
    pub bin_dir: PathBuf,

    /// Where the node's CNI configuration is.
    #[arg(
        long,
        global = true,
        env = "WEFT_CNI_CONF_DIR",
        value_name = "DIRECTORY",
        default_value = "/host/etc/cni/net.d"
    )]
    pub conf_dir: PathBuf,

    /// What is logged: a level, or `target=level` pairs.
    #[arg(long, global = true, env = "WEFT_LOG", value_name = "FILTER", default_value = "info,kube_client=error")]
    pub log: String,

    /// How log lines look.
    #[arg(long, global = true, env = "WEFT_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    pub log_format: LogFormat,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Keeps the plugin in the chain, and repairs pods that were made without it.
    Node(Node),
    /// Takes the plugin out of the chain, where nobody did when Weft was removed.
    Remove,
}

/// The node's part.
#[derive(Clone, Debug, clap::Args)]
pub struct Node {
    /// The node that this is.
    #[arg(long, env = "WEFT_NODE", value_name = "NAME")]
    pub node: String,

    /// The namespace of the DaemonSet.
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAME", default_value = weft_model::kubernetes::CNI_NAMESPACE)]
    pub namespace: String,

    /// The DaemonSet: with it the plugin goes from the chain.
    #[arg(long, env = "WEFT_DAEMONSET", value_name = "NAME", default_value = "weft-cni")]
    pub daemonset: String,

    /// Addresses for people and Prometheus.
    #[arg(long, env = "WEFT_ADMIN", value_name = "IP:PORT", value_delimiter = ',', default_values = ["0.0.0.0:14003", "[::]:14003"])]
    pub admin: Vec<SocketAddr>,
}
