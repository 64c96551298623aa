//! Token shards that were written, as one stream of tokens.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::fault::{ShardError, ShardFault};
use super::record::{DATASET, DatasetRecord, FORMAT, ShardRecord, SplitRecord, TokenDtype};
use super::shard::Shard;
use crate::error::InFile;
use crate::output::disk::{Disk, disk};
use crate::output::read::read_bounded;
use crate::tokenizer::Tokenizer;

/// Largest `dataset.json`.
const LIMIT_BYTES: u64 = 64 << 20;
/// Keys of a `dataset.json` by which it is told from a file of records of that name.
const KEYS: [&str; 3] = ["format", "tokenizer_sha256", "train"];

/// Documents of a directory of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those to train on.
    Train,
    /// Those kept from training.
    HeldOut,
}

/// The shards of a split, as one stream of tokens.
///
/// Tokens are read from the files when they are asked for; what the operating system caches is the only memory that grows with
/// them.
pub struct TokenShards {
    directory: PathBuf,
    dtype: TokenDtype,
    vocab_size: usize,
    tokenizer_sha256: String,
    num_tokens: u64,
    num_documents: u64,
    shards: Vec<Shard>,
}

impl TokenShards {
    /// Whether a directory holds shards, whole or not.
    pub fn are_in(directory: &Path) -> bool {
        let Ok(text) = read_bounded(&*disk(), &directory.join(DATASET), LIMIT_BYTES) else { return false };
        let keys: Result<HashMap<String, IgnoredAny>, _> = serde_json::from_slice(&text);
        keys.is_ok_and(|keys| KEYS.iter().all(|key| keys.contains_key(*key)))
    }

    /// Opens the shards of a directory to train on.
    ///
    /// # Errors
    /// As [`open_on`](Self::open_on).
    pub fn open(directory: &Path) -> Result<Self, ShardError> {
        Self::open_on(&*disk(), directory, Split::Train)
    }

    /// Opens the shards kept from training; `None` if the directory has none.
    ///
    /// # Errors
    /// As [`open_on`](Self::open_on).
    pub fn open_heldout(directory: &Path) -> Result<Option<Self>, ShardError> {
        match Self::open_on(&*disk(), directory, Split::HeldOut) {
            Err(ShardError::Shard(error)) if matches!(error.fault, ShardFault::NoHeldOut) => Ok(None),
            shards => shards.map(Some),
        }
    }

    /// Opens the shards of a split, and checks their sizes.
    ///
    /// # Errors
    /// [`ShardError::File`]; [`ShardFault`] for the first broken rule.
    pub fn open_on(disk: &dyn Disk, directory: &Path, split: Split) -> Result<Self, ShardError> {
        let path = directory.join(DATASET);
        let text = read_bounded(disk, &path, LIMIT_BYTES)?;
        let record = parsed(&text).and_then(|record| {
            let split = split_of(&record, split)?.clone();
            Ok((record, split))
        });
        let (record, split) = record.map_err(InFile::at(&path))?;
        let (mut first_token, mut first_document) = (0, 0);
        let mut shards = Vec::new();
        for shard in &split.shards {
            shards.push(Shard::open(disk, directory, shard, record.dtype, first_token, first_document)?);
            first_token += shard.num_tokens;
            first_document += shard.num_documents;
        }
        Ok(Self {
            directory: directory.to_owned(),
            dtype: record.dtype,
            vocab_size: record.vocab_size,
            tokenizer_sha256: record.tokenizer_sha256,
            num_tokens: split.num_tokens,
            num_documents: split.num_documents,
            shards,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Tokens of all shards.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Documents of all shards.
    pub fn num_documents(&self) -> u64 {
        self.num_documents
    }

    /// Ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that the shards were made with this tokenizer.
    ///
    /// # Errors
    /// [`ShardFault::OtherTokenizer`].
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<(), ShardError> {
        let (found, expected) = (tokenizer.sha256(), self.tokenizer_sha256.clone());
        if found == expected {
            return Ok(());
        }
        Err(InFile::new(self.directory.join(DATASET), ShardFault::OtherTokenizer { found, expected }).into())
    }

    /// The file of a token, and the place of the token in it.
    ///
    /// # Panics
    /// If there are fewer tokens.
    pub fn place(&self, token: u64) -> (&Path, u64) {
        assert!(token < self.num_tokens, "token {token} of {}", self.num_tokens);
        let shard = self.shard_of(token);
        (shard.path(), token - shard.first_token)
    }

    /// Reads as many tokens as `ids` has, from `start` on.
    ///
    /// # Errors
    /// [`ShardError::File`]; [`ShardFault::IdOutsideVocabulary`].
    ///
    /// # Panics
    /// If there are fewer tokens.
    pub fn read(&self, start: u64, mut ids: &mut [u32]) -> Result<(), ShardError> {
        assert!(
            start + ids.len() as u64 <= self.num_tokens,
            "{} tokens from {start} of {}",
            ids.len(),
            self.num_tokens
        );
        let mut start = start;
        while !ids.is_empty() {
            let shard = self.shard_of(start);
            let first = start - shard.first_token;
            let count = (ids.len() as u64).min(shard.num_tokens - first) as usize;
            let (now, later) = ids.split_at_mut(count);
            shard.read(first, now, self.dtype, self.vocab_size)?;
            (ids, start) = (later, start + count as u64);
        }
        Ok(())
    }

    /// The place of a document in the stream.
    ///
    /// # Errors
    /// [`ShardError::File`]; [`ShardFault::BadOffset`].
    ///
    /// # Panics
    /// If `index` is not below the number of documents.
    pub fn document(&self, index: u64) -> Result<Range<u64>, ShardError> {
        assert!(index < self.num_documents, "document {index} of {}", self.num_documents);
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first_document <= index) - 1];
        let document = shard.document(index - shard.first_document)?;
        Ok(document.start + shard.first_token..document.end + shard.first_token)
    }

    /// The tokens that each document has in a part of the stream. They add up to its length.
    ///
    /// # Errors
    /// [`ShardError::File`]; [`ShardFault::BadOffset`].
    ///
    /// # Panics
    /// If there are fewer tokens.
    pub fn document_lengths(&self, tokens: Range<u64>) -> Result<Vec<usize>, ShardError> {
        assert!(tokens.end <= self.num_tokens, "tokens {tokens:?} of {}", self.num_tokens);
        let mut lengths = Vec::new();
        let mut start = tokens.start;
        while start < tokens.end {
            let shard = self.shard_of(start);
            let mut index = shard.document_at(start - shard.first_token)?;
            while start < tokens.end && index < shard.num_documents {
                let end = tokens.end.min(shard.first_token + shard.document(index)?.end);
                lengths.push((end - start) as usize);
                (start, index) = (end, index + 1);
            }
        }
        Ok(lengths)
    }

    /// The shard of a token.
    fn shard_of(&self, token: u64) -> &Shard {
        &self.shards[self.shards.partition_point(|shard| shard.first_token <= token) - 1]
    }
}

fn parsed(text: &[u8]) -> Result<DatasetRecord, ShardFault> {
    /// Read first, as another version may have other keys.
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let Version { format } = serde_json::from_slice(text).map_err(ShardFault::Malformed)?;
    if format != FORMAT {
        return Err(ShardFault::OtherFormat { found: format, expected: FORMAT });
    }
    serde_json::from_slice(text).map_err(ShardFault::Malformed)
}

fn split_of(record: &DatasetRecord, split: Split) -> Result<&SplitRecord, ShardFault> {
    let split = match split {
        Split::Train => &record.train,
        Split::HeldOut => &record.heldout.as_ref().ok_or(ShardFault::NoHeldOut)?.split,
    };
    let sum = |count: fn(&ShardRecord) -> u64| split.shards.iter().map(|shard| u128::from(count(shard))).sum();
    let sums: [(_, u128, _); 2] = [
        ("tokens", sum(|shard| shard.num_tokens), split.num_tokens),
        ("documents", sum(|shard| shard.num_documents), split.num_documents),
    ];
    match sums.into_iter().find(|(_, found, expected)| *found != u128::from(*expected)) {
        Some((what, found, expected)) => Err(ShardFault::OtherSum { what, found, expected }),
        None => Ok(split),
    }
}

impl std::fmt::Debug for TokenShards {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let fields = (&self.directory, self.num_tokens, self.num_documents);
        f.debug_struct("TokenShards")
            .field("directory", fields.0)
            .field("num_tokens", &fields.1)
            .finish_non_exhaustive()
    }
}
