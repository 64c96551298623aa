//! GGUF files as checkpoints: their weights to the bit, the rules of a whole file, and what reading costs.

mod bad_files;
pub mod builder;
mod checkpoints;
mod memory;
mod mutations;
