//! Windows of a fixed length in a stream of tokens on disk.

use super::fault::{ShardError, ShardFault};
use super::record::DATASET;
use super::token_shards::TokenShards;
use crate::error::InFile;

/// The stream of tokens of shards, cut into windows.
///
/// Window `i` has the tokens `i · seq_length ..= (i + 1) · seq_length`: its inputs and the target of the last, which is the first
/// input of the next. So every token of the stream but the first is a target once, up to a rest that fills no window.
///
/// [`Permutation`](crate::data::Permutation) orders windows of any number.
#[derive(Debug)]
pub struct TokenWindows {
    shards: TokenShards,
    seq_length: usize,
}

/// Tokens in a row, of one or several documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWindow {
    /// `[seq_length + 1]`.
    pub ids: Vec<u32>,
    /// How many of the ids belong to each document, in their order. They add up to `seq_length + 1`. The first document may have
    /// begun before the window, and the last may end behind it.
    pub document_lengths: Vec<usize>,
}

impl TokenWindows {
    /// Windows of `seq_length` inputs.
    ///
    /// # Errors
    /// [`ShardFault::TooFewTokens`] if the tokens do not fill one window.
    ///
    /// # Panics
    /// If `seq_length` is 0.
    pub fn new(shards: TokenShards, seq_length: usize) -> Result<Self, ShardError> {
        assert!(seq_length > 0, "windows of 0 tokens");
        let (found, expected) = (shards.num_tokens(), seq_length as u64 + 1);
        if found < expected {
            let fault = ShardFault::TooFewTokens { found, expected };
            return Err(InFile::new(shards.directory().join(DATASET), fault).into());
        }
        Ok(Self { shards, seq_length })
    }

    /// Number of windows, never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is always a window")]
    pub fn len(&self) -> u64 {
        (self.shards.num_tokens() - 1) / self.seq_length as u64
    }

    /// Inputs per window.
    pub fn seq_length(&self) -> usize {
        self.seq_length
    }

    /// The shards.
    pub fn shards(&self) -> &TokenShards {
        &self.shards
    }

    /// Reads a window.
    ///
    /// # Errors
    /// [`ShardError::File`]; [`ShardFault::IdOutsideVocabulary`], [`ShardFault::BadOffset`].
    ///
    /// # Panics
    /// If `window` is out of range.
    pub fn read(&self, window: u64) -> Result<TokenWindow, ShardError> {
        assert!(window < self.len(), "window {window} of {}", self.len());
        let start = window * self.seq_length as u64;
        let mut ids = vec![0; self.seq_length + 1];
        self.shards.read(start, &mut ids)?;
        let document_lengths = self.shards.document_lengths(start..start + ids.len() as u64)?;
        Ok(TokenWindow { ids, document_lengths })
    }
}

impl TokenWindow {
    /// The ids of each document.
    pub fn documents(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.ids.as_slice();
        self.document_lengths.iter().map(move |length| rest.split_off(..*length).expect("lengths that add up"))
    }
}
