//! `weft`: what people type, and the worlds of network namespaces that the demo and the whole-system tests live in.
//!
//! The worlds and the meshes in them are modules here and not a crate: no dependency must be kept from anybody, and the demo is
//! their first user. `weft-tests` is the only other crate that may use this library.

mod check;
mod cluster;
mod command;
mod demo;
pub mod fuzzing;
mod inject;
pub mod load;
pub mod mesh;
mod rollout;
mod terminal;
pub mod world;

pub use command::run;
