//! Writes the shards of a split.

use super::record::{ShardRecord, SplitRecord, TokenDtype};
use crate::error::FileError;
use crate::output::commit::{PartialDirectory, PartialFile};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// The shards of a split under construction.
pub(super) struct SplitWriter {
    prefix: &'static str,
    dtype: TokenDtype,
    shard_size_bytes: u64,
    split: SplitRecord,
    shard: Option<Shard>,
}

struct Shard {
    record: ShardRecord,
    tokens: Buffered,
    offsets: Buffered,
}

struct Buffered {
    file: PartialFile,
    bytes: Vec<u8>,
}

impl SplitWriter {
    /// The names of its files begin with `prefix`.
    pub(super) fn new(prefix: &'static str, dtype: TokenDtype, shard_size_bytes: u64) -> Self {
        Self { prefix, dtype, shard_size_bytes, split: SplitRecord::default(), shard: None }
    }

    /// Appends a document of encoded ids. It begins a new shard if the present one would become too large.
    pub(super) fn push(&mut self, partial: &mut PartialDirectory, document: &[u8]) -> Result<(), FileError> {
        let (size_bytes, width_bytes) = (document.len() as u64, self.dtype.width_bytes());
        let is_full = |shard: &Shard| shard.record.num_tokens * width_bytes + size_bytes > self.shard_size_bytes;
        if self.shard.as_ref().is_some_and(is_full) {
            self.close(partial)?;
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => none.insert(Shard::begin(partial, self.prefix, self.split.shards.len())?),
        };
        shard.offsets.push(&shard.record.num_tokens.to_le_bytes())?;
        shard.tokens.push(document)?;
        shard.record.num_tokens += size_bytes / width_bytes;
        shard.record.num_documents += 1;
        Ok(())
    }

    /// Ends the last shard.
    pub(super) fn finish(mut self, partial: &mut PartialDirectory) -> Result<SplitRecord, FileError> {
        self.close(partial)?;
        Ok(self.split)
    }

    fn close(&mut self, partial: &mut PartialDirectory) -> Result<(), FileError> {
        let Some(Shard { record, tokens, mut offsets }) = self.shard.take() else { return Ok(()) };
        offsets.push(&record.num_tokens.to_le_bytes())?;
        partial.finish(tokens.flushed()?)?;
        partial.finish(offsets.flushed()?)?;
        self.split.num_tokens += record.num_tokens;
        self.split.num_documents += record.num_documents;
        self.split.shards.push(record);
        Ok(())
    }
}

impl Shard {
    fn begin(partial: &PartialDirectory, prefix: &str, index: usize) -> Result<Self, FileError> {
        let [tokens, documents] = ["tokens", "documents"].map(|what| format!("{prefix}{what}-{index:05}.bin"));
        let buffered = |name: &str| Ok(Buffered { file: partial.begin(name)?, bytes: Vec::new() });
        let (token_file, offset_file) = (buffered(&tokens)?, buffered(&documents)?);
        let record = ShardRecord { tokens, documents, num_tokens: 0, num_documents: 0 };
        Ok(Self { record, tokens: token_file, offsets: offset_file })
    }
}

impl Buffered {
    fn push(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= BUFFER_BYTES {
            self.file.push(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn flushed(mut self) -> Result<PartialFile, FileError> {
        self.file.push(&self.bytes)?;
        Ok(self.file)
    }
}
