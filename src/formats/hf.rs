//! Checkpoint directories of Hugging Face transformers: `config.json` beside safetensors.
//!
//! Opening a directory checks everything that the headers reveal, so later reads can fail only if the disk does. Both
//! dialects of the config (transformers 4 and 5) and both layouts of Mixtral's experts are read. Written are the keys of
//! both dialects and, by default, the layout that every version reads: one matrix per expert.

mod builtin;
mod config;
mod directory;
mod fault;
mod index;
mod locate;
mod names;
mod shards;
mod write;

pub use config::{ConfigFault, HfConfigError};
pub(crate) use directory::INHERITED_FILES;
pub use directory::{HfDirectory, config_alone};
pub use fault::{HfError, HfFault};
pub(crate) use index::ShardIndex;
pub use names::Layout;
pub(crate) use shards::{INDEX, SINGLE};
pub use write::{HfOptions, HfWriter, write_hf_directory, write_hf_shards};
