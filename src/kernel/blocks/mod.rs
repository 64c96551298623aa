//! The block formats of GGUF: groups of integer codes that share a scale.

mod block;
#[cfg(test)]
pub(crate) mod fixture;
mod format;
#[cfg(any(feature = "cube", test))]
mod words;

pub(in crate::kernel) use block::Block;
pub use format::BlockFormat;
pub(in crate::kernel) use format::{Layout, Scales};
#[cfg(feature = "cube")]
pub(in crate::kernel) use words::{BlockWords, WordPlaces};
