//! `dataset.json`: the description of a directory of shards.

use serde::{Deserialize, Serialize};

use crate::data::heldout::HeldOut;

/// The file name of a [`DatasetRecord`].
pub const DATASET: &str = "dataset.json";

/// The version of the files.
pub(super) const FORMAT: u32 = 2;

/// Bytes of an offset of a document.
pub(super) const OFFSET_BYTES: u64 = 8;

/// Contents of `dataset.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// The version of the files, 2.
    pub format: u32,
    /// Type of a token id.
    pub dtype: TokenDtype,
    /// Ids are below it.
    pub vocab_size: usize,
    /// SHA-256 of the tokenizer, see [`Tokenizer::sha256`](crate::tokenizer::Tokenizer::sha256).
    pub tokenizer_sha256: String,
    /// The id at the end of each document, if one is appended.
    pub eos_token_id: Option<u32>,
    /// The field of a row that was tokenized.
    pub text_field: String,
    /// Largest size of a file of tokens, unless a document is larger.
    pub shard_size_bytes: u64,
    /// Documents to train on.
    pub train: SplitRecord,
    /// Documents kept from training.
    pub heldout: Option<HeldOutRecord>,
    /// The files that were tokenized, in order.
    pub sources: Vec<SourceRecord>,
}

/// Type of a token id, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenDtype {
    /// Two bytes, for up to 65,536 ids.
    Uint16,
    /// Four bytes.
    Uint32,
}

/// Documents in shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Tokens in all shards.
    pub num_tokens: u64,
    /// Documents in all shards.
    pub num_documents: u64,
    /// The shards, in order.
    pub shards: Vec<ShardRecord>,
}

/// A held-out share and its documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutRecord {
    /// The share.
    #[serde(flatten)]
    pub share: HeldOut,
    /// Its documents.
    #[serde(flatten)]
    pub split: SplitRecord,
}

/// A file of tokens, and a file of where its documents start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Name of the file of tokens.
    pub tokens: String,
    /// Name of the file of offsets.
    pub documents: String,
    /// Its tokens.
    pub num_tokens: u64,
    /// Its documents.
    pub num_documents: u64,
}

/// A file that was tokenized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its path; of an absolute path the last component.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes, in hexadecimal, as `b3sum` prints it.
    pub blake3: String,
}

impl TokenDtype {
    /// The smallest type that holds ids below `vocab_size`.
    pub(super) fn holding(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Uint16 } else { Self::Uint32 }
    }

    /// Bytes of an id.
    pub fn width_bytes(self) -> u64 {
        match self {
            Self::Uint16 => 2,
            Self::Uint32 => 4,
        }
    }

    pub(super) fn encode(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::Uint16 => ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
            Self::Uint32 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        }
    }

    /// Decodes as many ids as `ids` has.
    pub(super) fn decode(self, bytes: &[u8], ids: &mut [u32]) {
        match self {
            Self::Uint16 => {
                ids.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| *id = u16::from_le_bytes(*bytes).into())
            }
            Self::Uint32 => {
                ids.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| *id = u32::from_le_bytes(*bytes))
            }
        }
    }
}
