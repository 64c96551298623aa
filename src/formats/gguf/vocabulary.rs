//! The vocabulary of a GGUF file: tokens, merges and the ids that have a meaning.
//!
//! Two kinds are known, by the name that llama.cpp gives their model. `llama` is SentencePiece's BPE: pieces of text with
//! `▁` for a space, joined best score first, bytes for what has no piece. `gpt2` is byte-level BPE: a pre-tokenizer, named
//! by `tokenizer.ggml.pre`, splits the text into words, and each word's bytes are joined in the order of the merges.

mod error;
mod from_hf;
mod from_sentencepiece;
mod merges;
mod pre_tokenizer;
mod to_hf;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

pub use error::VocabularyError;
pub use from_hf::HfTokenizer;
pub use to_hf::TokenizerFile;

/// What the keys `tokenizer.*` of a GGUF file say, as they stand: unchecked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `llama` or `gpt2`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split into words; only for `gpt2`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, by id, or none: `llama` joins the pair with the highest first.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, by id, or none.
    pub token_types: Vec<TokenType>,
    /// `tokenizer.ggml.merges`: two tokens with a space between, first merge first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`: begins a text.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`: ends a text.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: ends a turn of a chat.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: ends a message of a turn.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`: stands for what has no token.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`: fills up a batch.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; if absent, what llama.cpp does for this model and `pre`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`; if absent, no.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether `llama` puts a space before a text; if absent, yes.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`, in Jinja.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, by name: templates beside the default, such as `tool_use`.
    pub named_chat_templates: BTreeMap<String, String>,
    /// `tokenizer.huggingface.json`: the whole `tokenizer.json` that the vocabulary was made of.
    pub huggingface_json: Option<String>,
    /// Keys of special tokens whose ids name no token, with the ids: they were ignored.
    pub ignored_ids: Vec<(&'static str, i64)>,
}

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Steers the model and is no text, such as a beginning of text.
    Control = 3,
    /// Text that is never cut, found before all else.
    UserDefined = 4,
    /// A row of the embeddings without a token.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    /// The type with this number, if any has it.
    pub fn from_number(number: i32) -> Option<Self> {
        let all = [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte];
        all.into_iter().find(|kind| *kind as i32 == number)
    }
}

/// The two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    SentencePiece,
    ByteLevel,
}

/// The ids in their order, without repetitions.
fn each_once(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut seen = HashSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}

impl GgufVocabulary {
    /// Which model joins the pieces of a word.
    fn kind(&self) -> Result<Model, VocabularyError> {
        match self.model.as_str() {
            "llama" => Ok(Model::SentencePiece),
            "gpt2" => Ok(Model::ByteLevel),
            found => Err(VocabularyError::UnknownModel { found: found.to_owned() }),
        }
    }

    /// What the token with this id is.
    fn token_type(&self, id: usize) -> TokenType {
        self.token_types.get(id).copied().unwrap_or(TokenType::Normal)
    }

    /// The ids at which llama.cpp ends a text: those of the keys, then control tokens whose text ends a turn, for files without the keys.
    pub fn ends(&self) -> Vec<u32> {
        const TEXTS: [&str; 5] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];
        let ends_turn = |(id, text): &(u32, &String)| {
            self.token_type(*id as usize) == TokenType::Control && TEXTS.contains(&text.as_str())
        };
        let by_text = (0u32..).zip(&self.tokens).filter(ends_turn).map(|(id, _)| id);
        each_once(self.named_ends().into_iter().chain(by_text))
    }

    /// The ids of the keys that end a text.
    fn named_ends(&self) -> Vec<u32> {
        each_once([self.eos, self.eot, self.eom].into_iter().flatten())
    }

    /// The ids that have a meaning, under the names that Hugging Face's files give them.
    fn meanings(&self) -> [(&'static str, Option<u32>); 4] {
        [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unk), ("pad_token", self.pad)]
    }

    /// The text of a token with a meaning.
    fn text(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    /// The same with `count` tokens: those that are missing are `[PAD17]` and unused, as llama.cpp's converter fills up
    /// an embedding table that has more rows than there are tokens.
    ///
    /// # Errors
    /// [`VocabularyError::TooManyTokens`].
    pub(super) fn filled_up_to(&self, count: usize) -> Result<Cow<'_, Self>, VocabularyError> {
        let found = self.tokens.len();
        if found > count {
            return Err(VocabularyError::TooManyTokens { found, vocab_size: count });
        }
        if found == count {
            return Ok(Cow::Borrowed(self));
        }
        let mut filled = self.clone();
        filled.tokens.extend((found..count).map(|id| format!("[PAD{id}]")));
        if filled.token_types.is_empty() {
            filled.token_types = vec![TokenType::Normal; found];
        }
        filled.token_types.resize(count, TokenType::Unused);
        if !filled.scores.is_empty() {
            filled.scores.resize(count, UNUSED_SCORE);
        }
        Ok(Cow::Owned(filled))
    }

    /// The ids by token.
    ///
    /// # Errors
    /// The first broken rule: arrays of different lengths, a token that stands twice, a score that is no number, an id
    /// beyond the tokens.
    pub(super) fn checked(&self) -> Result<HashMap<&str, usize>, VocabularyError> {
        let count = self.tokens.len();
        for (key, found, required) in [
            ("tokenizer.ggml.scores", self.scores.len(), false),
            ("tokenizer.ggml.token_type", self.token_types.len(), false),
            ("tokenizer.ggml.tokens", count, true),
        ] {
            if found != count && found > 0 || found == 0 && required {
                return Err(VocabularyError::LengthsDisagree { key, found, tokens: count });
            }
        }
        if let Some(id) = self.scores.iter().position(|score| score.is_nan()) {
            return Err(VocabularyError::ScoreIsNan { id });
        }
        for (name, id) in self.meanings() {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(VocabularyError::IdBeyondTokens { name, id, tokens: count });
            }
        }
        let mut ids = HashMap::with_capacity(count);
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token.as_str(), id) {
                return Err(VocabularyError::TokenTwice { token: token.clone(), first, second: id });
            }
        }
        Ok(ids)
    }
}

/// What llama.cpp's converter gives a row without a token.
const UNUSED_SCORE: f32 = -10_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedding_table_with_more_rows_than_tokens_is_filled_up() {
        let three = GgufVocabulary {
            tokens: ["a", "b", "ab"].map(str::to_owned).to_vec(),
            scores: vec![-1.0; 3],
            ..GgufVocabulary::default()
        };
        let filled = three.filled_up_to(5).unwrap();
        assert_eq!(filled.tokens[3..], ["[PAD3]", "[PAD4]"]);
        assert_eq!(filled.token_types[2..], [TokenType::Normal, TokenType::Unused, TokenType::Unused]);
        assert_eq!(filled.scores.len(), 5);
        assert!(matches!(three.filled_up_to(3).unwrap(), Cow::Borrowed(same) if *same == three));
        let error = three.filled_up_to(2).unwrap_err();
        assert_eq!(error.to_string(), "the vocabulary has 3 tokens, expected at most the 2 of the embedding table");
    }

    #[test]
    fn a_type_is_found_by_its_number() {
        for number in -1..9 {
            assert_eq!(
                TokenType::from_number(number).map(|kind| kind as i32),
                (1..=6).contains(&number).then_some(number)
            );
        }
    }
}
