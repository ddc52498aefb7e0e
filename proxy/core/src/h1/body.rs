//! Bodies: [`BodyDecoder`] finds frames in what a peer sent, [`BodyEncoder`] wraps frames for the next one.

mod decoder;
mod encoder;
mod trailers;

pub use decoder::{BodyDecoder, Frame};
pub use encoder::{BodyEncoder, ChunkFrame};
pub(crate) use trailers::is_forbidden;

#[cfg(test)]
mod tests;
