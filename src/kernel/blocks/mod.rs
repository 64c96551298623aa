//! The block formats of GGUF: groups of integer codes that share a scale.

mod block;
#[cfg(test)]
pub(in crate::kernel) mod fixture;
mod format;

pub(in crate::kernel) use block::Block;
pub use format::BlockFormat;
pub(in crate::kernel) use format::{Layout, Scales};
