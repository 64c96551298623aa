//! Checkpoint formats: safetensors, Hugging Face directories and GGUF files, and [`Checkpoint`], which opens any of them;
//! adapter directories of PEFT.

pub(crate) mod chat_templates;
mod checkpoint;
mod error;
pub mod gguf;
pub mod hf;
mod json;
mod origin;
pub mod peft;
mod remark;
pub(crate) mod repo_id;
pub mod safetensors;
mod sidecar;
mod stored_tensor;

pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use hf::{HfDirectory, config_alone, write_hf_directory};
pub use origin::{License, Origin};
pub use remark::{Notice, Remark};
pub(crate) use sidecar::TOKENIZERS;
pub use sidecar::{Content, DEFAULT_TEMPLATE, Sidecar};
pub use stored_tensor::StoredTensor;
