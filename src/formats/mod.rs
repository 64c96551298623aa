//! Checkpoint formats: safetensors, Hugging Face directories and GGUF files, and [`Checkpoint`], which opens any of them.

mod checkpoint;
mod error;
pub mod gguf;
pub mod hf;
mod json;
mod origin;
mod remark;
pub mod safetensors;
mod sidecar;

pub use checkpoint::{Checkpoint, StoredTensor};
pub use error::CheckpointError;
pub use hf::{HfDirectory, write_hf_directory};
pub use origin::{License, Origin};
pub use remark::{Notice, Remark};
pub(crate) use sidecar::TOKENIZERS;
pub use sidecar::{Content, Sidecar};
