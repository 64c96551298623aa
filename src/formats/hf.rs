//! Checkpoint directories as Hugging Face transformers writes them: `config.json` beside safetensors.
//!
//! Reading checks everything that headers can tell before it returns; the only failure left for later is the
//! disk's. Both dialects of the config (transformers 4 and 5) and both layouts of Mixtral's experts are read;
//! written are the keys of both dialects and the layout that every version reads, one matrix per expert.

mod config;
mod directory;
mod index;
mod locate;
mod names;
mod shards;
mod write;

pub use directory::HfDirectory;
pub use names::Layout;
pub use write::{HfOptions, HfWriter, write_hf_directory, write_hf_shards};
