//! The tokenizer: ids of a text, and the text of ids.

use sha2::{Digest, Sha256};
use std::ops::Range;

use tokenizers::{Encoding, ModelWrapper, PaddingParams, TruncationParams};

use super::TokenizerError;
use super::library::guarded;
use crate::output::read::hexadecimal;

/// Text to token ids and back.
///
/// ```
/// use deepwide::tokenizer::Tokenizer;
///
/// let words = ["<bos>", "red", "fox"].map(String::from);
/// let tokenizer = Tokenizer::word_level(&words);
/// let ids = tokenizer.encode("<bos> red red fox")?;
/// assert_eq!(ids, [0, 1, 1, 2]);
/// assert_eq!(tokenizer.decode(&ids)?, "<bos> red red fox");
/// assert_eq!(tokenizer.bos(), Some(0));
/// # Ok::<(), deepwide::tokenizer::TokenizerError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) vocab_size: usize,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
}

impl Tokenizer {
    /// A tokenizer without truncation, padding and random merges.
    pub(super) fn wrap(mut inner: tokenizers::Tokenizer) -> tokenizers::Result<Self> {
        inner.with_truncation(None::<TruncationParams>)?.with_padding(None::<PaddingParams>);
        let random = match inner.get_model() {
            ModelWrapper::BPE(bpe) if bpe.dropout.is_some() => Some(bpe.clone()),
            _ => None,
        };
        if let Some(mut bpe) = random {
            bpe.dropout = None;
            inner.with_model(bpe);
        }
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self { inner, vocab_size, bos: None, eos: Vec::new() })
    }

    /// The ids of a text, and none that are not in the text.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false)
    }

    /// The ids of a text with those that `tokenizer.json` adds around one, such as a beginning of text.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, true)
    }

    /// The ids of a text as [`encode`](Self::encode) gives them, and the bytes of the text that each stands for. Those of
    /// tokens that share a character overlap.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_with_ranges(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let encoding = guarded(|| self.inner.encode(text, false)).map_err(|reason| self.explain(text, reason))?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok((encoding.get_ids().to_vec(), ranges))
    }

    /// The ids of [`encode_with_special_tokens`](Self::encode_with_special_tokens), and the bytes of the text that each stands
    /// for, as [`encode_with_ranges`](Self::encode_with_ranges) gives them. A token that is added has an empty
    /// range, where the token before it ends.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_with_special_tokens_and_ranges(
        &self,
        text: &str,
    ) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let encoding = guarded(|| self.inner.encode(text, true)).map_err(|reason| self.explain(text, reason))?;
        let mut last = 0;
        let offsets = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
        let ranges = offsets.map(|((start, end), is_added)| match is_added {
            0 => {
                last = *end;
                *start..*end
            }
            _ => last..last,
        });
        let ranges = ranges.collect();
        Ok((encoding.get_ids().to_vec(), ranges))
    }

    /// The ids of [`encode_with_special_tokens`](Self::encode_with_special_tokens), then `end` unless they end with it.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
    pub fn encode_ended(&self, text: &str, end: Option<u32>) -> Result<Vec<u32>, TokenizerError> {
        Ok(ended(&self.encoding(text, true)?, end))
    }

    /// The ids of a document for continued pretraining: those of [`encode_ended`](Self::encode_ended), or none if the text
    /// itself has no token.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
    pub fn encode_document(&self, text: &str, end: Option<u32>) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.encoding(text, true)?;
        // The mask is 0 for the tokens of the text itself.
        let has_text = encoding.get_special_tokens_mask().contains(&0);
        Ok(if has_text { ended(&encoding, end) } else { Vec::new() })
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encoding(text, special_tokens)?.get_ids().to_vec())
    }

    fn encoding(&self, text: &str, special_tokens: bool) -> Result<Encoding, TokenizerError> {
        guarded(|| self.inner.encode_fast(text, special_tokens)).map_err(|reason| self.explain(text, reason))
    }

    /// Says which word is unknown, where words are what there is to know.
    fn explain(&self, text: &str, reason: String) -> TokenizerError {
        let unknown = match self.inner.get_model() {
            ModelWrapper::WordLevel(_) => text.split_whitespace().find(|word| self.token_to_id(word).is_none()),
            _ => None,
        };
        match unknown {
            Some(word) => TokenizerError::UnknownWord {
                word: word.chars().take(80).collect(),
                offset_bytes: word.as_ptr().addr() - text.as_ptr().addr(),
                vocab_size: self.vocab_size,
            },
            None => TokenizerError::Encode { text_bytes: text.len(), reason },
        }
    }

    /// The text of some ids, special tokens included.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id without a token, or [`TokenizerError::Decode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        if let Some(position) = ids.iter().position(|id| self.inner.id_to_token(*id).is_none()) {
            return Err(TokenizerError::UnknownId { id: ids[position], position, vocab_size: self.vocab_size });
        }
        guarded(|| self.inner.decode(ids, false))
            .map_err(|reason| TokenizerError::Decode { num_tokens: ids.len(), reason })
    }

    /// The text of some ids for a reader: special tokens, and ids without a token, are left out. A character that is not
    /// complete is `\u{fffd}`.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn decode_text(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        guarded(|| self.inner.decode(ids, true))
            .map_err(|reason| TokenizerError::Decode { num_tokens: ids.len(), reason })
    }

    /// A token, written as in `tokenizer.json`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id: the rows that an embedding table needs. A model may have more.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token, written as in `tokenizer.json`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id that begins a text, if one does.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that end a text: the tokenizer's own first, then others that generation stops at.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The tokenizer with one more token that ends a text, after those it has.
    #[must_use]
    pub(crate) fn with_eos(mut self, id: u32) -> Self {
        if !self.eos.contains(&id) {
            self.eos.push(id);
        }
        self
    }

    /// The tokenizer with a token that begins a text, if it has none.
    #[must_use]
    pub(crate) fn with_bos(mut self, id: Option<u32>) -> Self {
        self.bos = self.bos.or(id);
        self
    }

    /// SHA-256 of [`to_json`](Self::to_json), in hexadecimal: tokenizers with equal ones give equal ids.
    pub fn sha256(&self) -> String {
        hexadecimal(&Sha256::digest(self.to_json()))
    }

    /// Contents for `tokenizer.json`.
    pub fn to_json(&self) -> String {
        self.inner.to_string(true).expect("a tokenizer holds nothing that JSON cannot")
    }
}

/// The ids of a text and `end`, which they may have already.
fn ended(encoding: &Encoding, end: Option<u32>) -> Vec<u32> {
    let mut ids = encoding.get_ids().to_vec();
    if ids.last() != end.as_ref() {
        ids.extend(end);
    }
    ids
}
