//! Requests as token ids, as lm-eval makes them for models of transformers.

use std::sync::OnceLock;

use super::EncodedRequest;
use crate::eval::error::EvalError;
use crate::python::rstrip;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Encodes requests for a model.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    tokenizer_sha256: OnceLock<String>,
    /// The id that begins a text, or else the one that ends it: the context of a request without one.
    prefix: Option<(u32, String)>,
    max_length: usize,
    vocab_size: usize,
}

/// An [`EncodedRequest`], and how much of it is missing.
#[derive(Debug)]
pub struct Encoded {
    /// The ids.
    pub request: EncodedRequest,
    /// Ids cut off at the start to fit the context length.
    pub num_cut: usize,
}

impl<'a> Encoder<'a> {
    /// For a model of `vocab_size` ids that reads at most `max_length` at once.
    ///
    /// # Errors
    /// [`TokenizerError`], if the id that begins a text has no token.
    pub fn new(tokenizer: &'a Tokenizer, max_length: usize, vocab_size: usize) -> Result<Self, TokenizerError> {
        let prefix = tokenizer.bos().or(tokenizer.eos().first().copied());
        let prefix = prefix.map(|id| tokenizer.decode(&[id]).map(|text| (id, text))).transpose()?;
        Ok(Self { tokenizer, tokenizer_sha256: OnceLock::new(), prefix, max_length, vocab_size })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer
    }

    /// [`Tokenizer::sha256`], computed once.
    pub fn tokenizer_sha256(&self) -> &str {
        self.tokenizer_sha256.get_or_init(|| self.tokenizer.sha256())
    }

    /// Tokens that the model reads at once.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The ids of a text: with those that the tokenizer adds, unless the text begins with the beginning of a text.
    ///
    /// # Errors
    /// [`TokenizerError`]; [`EvalError::IdBeyondVocabulary`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let begins = self.prefix.as_ref().is_some_and(|(_, prefix)| text.starts_with(prefix.as_str()));
        let ids = if begins { self.tokenizer.encode(text) } else { self.tokenizer.encode_with_special_tokens(text) }?;
        self.known(ids)
    }

    /// The requests of a context and each of some continuations: the ids of the context, then those that both encoded as
    /// one text have beyond that number. Where a token spans the boundary, that is not the encoding of the whole text, but
    /// what lm-eval scores. White space at the end of the context counts as the start of the continuation. A request that is
    /// longer than the context length loses ids at its start.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode); [`EvalError::NothingScored`], [`EvalError::LongContinuation`].
    pub fn requests(&self, context: &str, continuations: &[String]) -> Result<Vec<Encoded>, EvalError> {
        if context.is_empty() {
            let alone = |continuation: &String| self.request(self.begun(continuation)?, 1, continuation);
            return continuations.iter().map(alone).collect();
        }
        let head = self.encode(rstrip(context))?;
        let behind = |continuation: &String| {
            let whole = self.encode(&format!("{context}{continuation}"))?;
            let rest = whole.get(head.len()..).unwrap_or_default();
            self.request([head.as_slice(), rest].concat(), head.len(), continuation)
        };
        continuations.iter().map(behind).collect()
    }

    /// The request of these ids, of which `num_context` are of the context.
    fn request(&self, mut ids: Vec<u32>, num_context: usize, continuation: &str) -> Result<Encoded, EvalError> {
        let num_scored = ids.len().saturating_sub(num_context);
        if num_scored == 0 || num_context == 0 {
            return Err(EvalError::NothingScored { continuation: continuation.to_owned() });
        }
        if num_scored > self.max_length {
            return Err(EvalError::LongContinuation { num_tokens: num_scored, max_length: self.max_length });
        }
        let num_cut = ids.len().saturating_sub(self.max_length + 1);
        ids.drain(..num_cut);
        Ok(Encoded { request: EncodedRequest::new(ids, num_scored), num_cut })
    }

    /// The ids of a continuation without a context, behind the id that stands for one.
    fn begun(&self, continuation: &str) -> Result<Vec<u32>, EvalError> {
        let ids = self.known(self.tokenizer.encode(continuation)?)?;
        Ok(match &self.prefix {
            Some((prefix, _)) if ids.first() != Some(prefix) => [&[*prefix], ids.as_slice()].concat(),
            _ => ids,
        })
    }

    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>, EvalError> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(&id) => Err(EvalError::IdBeyondVocabulary { id, vocab_size: self.vocab_size }),
        }
    }
}
