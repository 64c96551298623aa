//! Tokenized documents on disk, of any number: `docs/token-shards.md` describes the files.

mod documents;
mod error;
mod fault;
mod record;
mod shard;
mod split_writer;
mod token_shards;
mod tokenize;
mod windows;

#[cfg(test)]
mod tests;

pub use error::TokenizeError;
pub use fault::{ShardError, ShardFault};
pub use record::{DATASET, DatasetRecord, HeldOutRecord, ShardRecord, SourceRecord, SplitRecord, TokenDtype};
pub use token_shards::{Split, TokenShards};
pub use tokenize::{TokenizeOptions, Tokenized, tokenize};
pub use windows::{TokenWindow, TokenWindows};
