//! One shard: a file of tokens, and a file of where its documents start.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::fault::{ShardError, ShardFault};
use super::record::{DATASET, OFFSET_BYTES, ShardRecord, TokenDtype};
use crate::error::{FileError, InFile};
use crate::output::disk::{Disk, ReadAt};
use crate::output::is_plain_file_name;
use crate::output::read::open_regular;

/// A shard, and where it begins in the stream.
pub(super) struct Shard {
    tokens: OpenFile,
    offsets: OpenFile,
    pub first_token: u64,
    pub first_document: u64,
    pub num_tokens: u64,
    pub num_documents: u64,
}

struct OpenFile {
    path: PathBuf,
    file: Box<dyn ReadAt>,
}

impl Shard {
    /// Opens its files and checks their sizes, and the first and last offset.
    pub(super) fn open(
        disk: &dyn Disk,
        directory: &Path,
        record: &ShardRecord,
        dtype: TokenDtype,
        first_token: u64,
        first_document: u64,
    ) -> Result<Self, ShardError> {
        let ShardRecord { tokens, documents, num_tokens, num_documents } = record;
        let size_bytes = |count: u128, width_bytes: u64| count * u128::from(width_bytes);
        let tokens_bytes = size_bytes((*num_tokens).into(), dtype.width_bytes());
        let offsets_bytes = size_bytes(u128::from(*num_documents) + 1, OFFSET_BYTES);
        let shard = Self {
            tokens: OpenFile::open(disk, directory, tokens, tokens_bytes)?,
            offsets: OpenFile::open(disk, directory, documents, offsets_bytes)?,
            first_token,
            first_document,
            num_tokens: *num_tokens,
            num_documents: *num_documents,
        };
        for (index, expected) in [(0, 0), (*num_documents, *num_tokens)] {
            let found = shard.offset(index)?;
            if found != expected {
                return Err(shard.bad_offset(index, found));
            }
        }
        Ok(shard)
    }

    /// The file of tokens.
    pub(super) fn path(&self) -> &Path {
        &self.tokens.path
    }

    /// Reads tokens from `start` of the shard on.
    pub(super) fn read(
        &self,
        start: u64,
        ids: &mut [u32],
        dtype: TokenDtype,
        vocab_size: usize,
    ) -> Result<(), ShardError> {
        let width_bytes = dtype.width_bytes();
        let mut bytes = vec![0; ids.len() * width_bytes as usize];
        self.tokens.read(&mut bytes, start * width_bytes)?;
        dtype.decode(&bytes, ids);
        match ids.iter().position(|id| *id as usize >= vocab_size) {
            Some(found) => {
                let (id, position) = (ids[found], start + found as u64);
                Err(self.tokens.fault(ShardFault::IdOutsideVocabulary { id, position, vocab_size }))
            }
            None => Ok(()),
        }
    }

    /// The place of a document in the shard.
    pub(super) fn document(&self, index: u64) -> Result<Range<u64>, ShardError> {
        let mut bytes = [0; 2 * OFFSET_BYTES as usize];
        self.offsets.read(&mut bytes, index * OFFSET_BYTES)?;
        let (offsets, _) = bytes.as_chunks();
        let [start, end] = [u64::from_le_bytes(offsets[0]), u64::from_le_bytes(offsets[1])];
        if start < end && end <= self.num_tokens { Ok(start..end) } else { Err(self.bad_offset(index + 1, end)) }
    }

    fn offset(&self, index: u64) -> Result<u64, ShardError> {
        let mut bytes = [0; OFFSET_BYTES as usize];
        self.offsets.read(&mut bytes, index * OFFSET_BYTES)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The document of a token, by binary search.
    pub(super) fn document_at(&self, token: u64) -> Result<u64, ShardError> {
        let (mut first, mut end) = (0, self.num_documents);
        while end - first > 1 {
            let middle = first + (end - first) / 2;
            if self.offset(middle)? <= token { first = middle } else { end = middle }
        }
        let document = self.document(first)?;
        if document.contains(&token) { Ok(first) } else { Err(self.bad_offset(first, document.start)) }
    }

    fn bad_offset(&self, index: u64, found: u64) -> ShardError {
        self.offsets.fault(ShardFault::BadOffset { found, index, num_tokens: self.num_tokens })
    }
}

impl OpenFile {
    fn open(disk: &dyn Disk, directory: &Path, name: &str, expected_bytes: u128) -> Result<Self, ShardError> {
        if !is_plain_file_name(name) {
            let fault = ShardFault::UnsafeFileName { name: name.to_owned() };
            return Err(InFile::new(directory.join(DATASET), fault).into());
        }
        let path = directory.join(name);
        let file = open_regular(disk, &path)?;
        let found_bytes = file.stat().map_err(FileError::io(&path))?.size_bytes;
        let open = Self { path, file };
        if u128::from(found_bytes) != expected_bytes {
            return Err(open.fault(ShardFault::Size { found_bytes, expected_bytes }));
        }
        Ok(open)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), FileError> {
        self.file.read_exact_at(bytes, offset).map_err(FileError::io(&self.path))
    }

    fn fault(&self, fault: ShardFault) -> ShardError {
        InFile::new(&self.path, fault).into()
    }
}
