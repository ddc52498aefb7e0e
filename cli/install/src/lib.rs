//! What is installed on a cluster: the [`Values`] that can be set, and the objects that they give. Pure: no API server, no files.
//!
//! Each object is written down once, as a template, and read two ways: filled in, it is what `weft install` prints and what
//! `deploy/base` holds; printed with Helm's own expressions in place of the values, it is the chart in `deploy/helm/weft`. So none of
//! the three can drift from another.
//!
//! It is a crate of its own, and not a room of `weft-cli`, so that `cargo xtask gen` builds next to nothing.

// What can be set.
pub mod values;
// The objects, with expressions where a value goes.
pub mod objects;
// What the expressions mean.
mod template;
// Text.
mod yaml;
// The chart's own files.
pub mod chart;

pub use objects::{Manifest, base, cni_component, installed, manifests};
pub use values::{Layer, Values, ValuesError};
pub use yaml::{document, documents};
