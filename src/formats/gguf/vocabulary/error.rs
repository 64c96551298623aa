//! What can be wrong with a vocabulary, or keep it from being said in the other format: one variant per rule.

use serde_json::Value;

use crate::error::{cut, quoted};

/// Why a vocabulary cannot be used or translated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// A kind of tokenizer that is not known.
    #[error("tokenizer.ggml.model is {}, expected \"llama\" or \"gpt2\"", quoted(.found))]
    UnknownModel {
        /// What was found.
        found: String,
    },
    /// A way to split text that is not known.
    #[error("tokenizer.ggml.pre is {}, expected one of {expected}", quoted(.found))]
    UnknownPreTokenizer {
        /// What was found.
        found: String,
        /// The names that are known.
        expected: String,
    },
    /// The arrays do not belong together.
    #[error("{key} has {found} entries beside {tokens} tokens, expected as many, and at least one")]
    LengthsDisagree {
        /// The array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// Two ids have one text.
    #[error("tokens {first} and {second} are both {}, expected each once", quoted(.token))]
    TokenTwice {
        /// The text.
        token: String,
        /// The first id.
        first: usize,
        /// The second id.
        second: usize,
    },
    /// Nothing can be sorted by it.
    #[error("the score of token {id} is not a number")]
    ScoreIsNan {
        /// The token.
        id: usize,
    },
    /// An id with a meaning has no token.
    #[error("{name} has id {id}, expected less than the {tokens} tokens")]
    IdBeyondTokens {
        /// The meaning.
        name: &'static str,
        /// The id.
        id: u32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A text is to begin or end with a token that is not named.
    #[error("tokenizer.ggml.{key} is true, but no {name} is given")]
    NothingToAdd {
        /// The key that asks for it.
        key: &'static str,
        /// What it asks for.
        name: &'static str,
    },
    /// `llama` without scores or merges, `gpt2` without merges.
    #[error("the vocabulary has no {missing}, expected some for tokenizer.ggml.model {model}")]
    NoOrder {
        /// What would give the order of the merges.
        missing: &'static str,
        /// The model.
        model: String,
    },
    /// A merge is not two tokens that make a third.
    #[error("merge {index} is {}, expected two tokens with a space between that together are a token", quoted(.merge))]
    BadMerge {
        /// Its place.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// More tokens than rows of the embedding table.
    #[error("the vocabulary has {found} tokens, expected at most the {vocab_size} of the embedding table")]
    TooManyTokens {
        /// How many tokens there are.
        found: usize,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// The `tokenizer.json` that the file carries is of another vocabulary.
    #[error("tokenizer.huggingface.json gives {} id {}, expected {expected:?} as in tokenizer.ggml.tokens", quoted(.token), cut(.found))]
    CarriedDisagrees {
        /// The token.
        token: String,
        /// Its id there.
        found: String,
        /// Its id among the tokens, if it is one.
        expected: Option<u64>,
    },
    /// The text is not JSON, or not of the form that the file calls for.
    #[error("{file}: {}", cut(.source))]
    Malformed {
        /// Which text.
        file: &'static str,
        /// What was found and expected.
        source: serde_json::Error,
    },
    /// GGUF has no way to say what the `tokenizer.json` asks for.
    #[error("{key} of tokenizer.json is {}, which GGUF cannot represent, expected {expected}", cut(.found))]
    NotRepresentable {
        /// Where in the file.
        key: &'static str,
        /// What was found.
        found: String,
        /// What GGUF can say.
        expected: String,
    },
    /// Two ids of one token, or two tokens of one id.
    #[error("id {id} of tokenizer.json stands for {} and {}, expected one token", quoted(.first), quoted(.second))]
    IdTwice {
        /// The id.
        id: u32,
        /// One token.
        first: String,
        /// The other.
        second: String,
    },
    /// llama.cpp joins the pieces of `llama` by score and does not search for the best segmentation.
    #[error("trainer_spec.model_type is 1 (Unigram), which GGUF cannot represent, expected 2 (BPE)")]
    Unigram,
    /// llama.cpp looks each byte up.
    #[error("there is no token {token}, expected all 256 bytes for byte_fallback")]
    MissingByte {
        /// The first that is missing.
        token: String,
    },
    /// The merges are not in the order of any scores.
    #[error("merge {} of tokenizer.json: {reason}; in GGUF the merges of a token have one score", quoted(.merge))]
    NotByScore {
        /// The merge.
        merge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// GGUF keeps only letters and digits of the name of a chat template.
    #[error("the chat templates {} and {} would have one key in GGUF, expected names that differ in letters or digits", quoted(.first), quoted(.second))]
    OneTemplateKey {
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// The name of a chat template cannot name a file.
    #[error("tokenizer.chat_template.NAME has the name {}, expected one that every system takes for a plain file name", quoted(.name))]
    UnsafeTemplateName {
        /// The name.
        name: String,
    },
}

/// [`VocabularyError::NotRepresentable`].
pub(super) fn not_representable(key: &'static str, found: &Value, expected: &str) -> VocabularyError {
    VocabularyError::NotRepresentable { key, found: found.to_string(), expected: expected.to_owned() }
}
