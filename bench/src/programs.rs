//! Where the programs lie that are measured.

use std::path::PathBuf;

use weft_cli::mesh;

/// All of them.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Envoy.
    pub(crate) envoy: PathBuf,
    /// The bare forwarder.
    pub(crate) forwarder: PathBuf,
    /// The proxy that is measured.
    pub(crate) proxy: PathBuf,
    /// It and the control plane, side by side.
    pub(crate) mesh: mesh::programs::Programs,
}
