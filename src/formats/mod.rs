//! Checkpoint formats: safetensors, Hugging Face directories and GGUF files, and [`Checkpoint`], which opens any of them.

mod checkpoint;
pub mod gguf;
pub mod hf;
mod json;
mod notice;
mod origin;
pub mod safetensors;
mod sidecar;

pub use checkpoint::{Checkpoint, StoredTensor};
pub use hf::{HfDirectory, write_hf_directory};
pub use notice::Notice;
pub use origin::{License, Origin};
pub(crate) use sidecar::TOKENIZERS;
pub use sidecar::{Content, Sidecar};
