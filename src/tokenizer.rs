//! Text to token ids and back, as `tokenizer.json` says.
//!
//! A thin wrapper around Hugging Face's `tokenizers`, which does the work. It adds what that library leaves open: an error
//! for every file that is not what it should be, no panic, no silent truncation, and the ids that begin and
//! end a text. What a document is, and how documents become windows, is left to `data`.

mod error;
mod message;
mod special;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{ModelWrapper, PaddingParams, TruncationParams};

pub use error::TokenizerError;
pub use message::{Message, NotAMessage};

const TOKENIZER_LIMIT_BYTES: u64 = 256 << 20;
const MODEL_TYPES: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];
const UNKNOWN_WORD: &str = "<unk>";

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
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
}

/// What is checked of a `tokenizer.json` before the library reads it.
#[derive(Deserialize)]
struct Outline {
    model: Option<ModelOutline>,
    #[serde(default)]
    added_tokens: Vec<AddedTokenOutline>,
}

#[derive(Deserialize)]
struct ModelOutline {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct AddedTokenOutline {
    id: u32,
    content: String,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and the ids that begin and end a text from `tokenizer_config.json`,
    /// `generation_config.json` and `config.json` beside it, as far as they are there.
    ///
    /// Truncation, padding and random merges that the file asks for are left out: a text gives all its ids, no others,
    /// and always the same.
    ///
    /// # Errors
    /// [`TokenizerError::NotFound`] or [`TokenizerError::OnlySentencePiece`] if there is nothing to read; otherwise the
    /// variant of the first broken rule.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let mut tokenizer = Self::from_json(read_text(path)?.as_bytes(), path)?;
        (tokenizer.bos, tokenizer.eos) = special::read_beside(path, &tokenizer)?;
        Ok(tokenizer)
    }

    /// Reads the text of a `tokenizer.json`, which messages call `path`. Which ids begin and end a text is not in it.
    ///
    /// # Errors
    /// The variant of the first broken rule.
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self, TokenizerError> {
        let outline: Outline = serde_json::from_slice(text)
            .map_err(|source| TokenizerError::Malformed { path: path.to_owned(), source })?;
        let Some(model) = outline.model else {
            return Err(TokenizerError::NoModel { path: path.to_owned() });
        };
        if let Some(found) = model.r#type.filter(|found| !MODEL_TYPES.contains(&found.as_str())) {
            return Err(TokenizerError::UnknownModel { path: path.to_owned(), found });
        }
        let tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(text).and_then(Self::wrap))
            .map_err(|reason| TokenizerError::Unsupported { path: path.to_owned(), reason })?;
        for AddedTokenOutline { id: expected, content: token } in outline.added_tokens {
            let found = tokenizer.token_to_id(&token);
            if found != Some(expected) {
                return Err(TokenizerError::MovedToken { path: path.to_owned(), token, expected, found });
            }
        }
        Ok(tokenizer)
    }

    /// A tokenizer whose tokens are words between white space; the id of a word is its place in `vocab`.
    ///
    /// Words outside the vocabulary become `<unk>` if it is in `vocab`, and are an error otherwise. The words `<bos>` and
    /// `<eos>`, if they are there, begin and end a text.
    ///
    /// # Panics
    /// If `vocab` is empty, holds a word twice, or holds one that is empty or has white space in it.
    pub fn word_level(vocab: &[String]) -> Self {
        assert!(!vocab.is_empty(), "a vocabulary needs at least one word");
        if let Some(word) = vocab.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
            panic!("{word:?} is not one word");
        }
        let ids = vocab.iter().cloned().zip(0..).collect();
        let model = WordLevel::builder().vocab(ids).unk_token(UNKNOWN_WORD.to_owned()).build();
        let mut inner = tokenizers::Tokenizer::new(model.expect("a vocabulary in memory needs no file"));
        inner.with_pre_tokenizer(Some(WhitespaceSplit));
        assert_eq!(inner.get_vocab_size(false), vocab.len(), "a word stands twice in the vocabulary");
        let bos = inner.token_to_id("<bos>");
        let eos = inner.token_to_id("<eos>").into_iter().collect();
        Self { inner, vocab_size: vocab.len(), bos, eos }
    }

    fn wrap(mut inner: tokenizers::Tokenizer) -> tokenizers::Result<Self> {
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

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guarded(|| self.inner.encode_fast(text, special_tokens));
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|reason| self.explain(text, reason))
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

    /// What to write to `tokenizer.json`.
    pub fn to_json(&self) -> String {
        self.inner.to_string(true).expect("a tokenizer holds nothing that JSON cannot")
    }

    /// What to write to `tokenizer_config.json`, so that other programs find the ids that begin and end a text.
    pub fn config_json(&self) -> String {
        let token = |id: Option<&u32>| id.and_then(|id| self.inner.id_to_token(*id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": token(self.bos.as_ref()),
            "eos_token": token(self.eos.first()),
        });
        format!("{config:#}\n")
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a directory.
    ///
    /// For a tokenizer made by [`word_level`](Self::word_level). One that was read from files is better copied with the
    /// files beside it: they hold more than this type does, such as a chat template.
    ///
    /// # Errors
    /// [`TokenizerError::NotFound`] if there is no such directory, or [`TokenizerError::Io`].
    pub fn save(&self, directory: &Path) -> Result<(), TokenizerError> {
        for (name, text) in [("tokenizer.json", self.to_json()), ("tokenizer_config.json", self.config_json())] {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(TokenizerError::io(&path))?;
        }
        Ok(())
    }
}

fn read_text(path: &Path) -> Result<String, TokenizerError> {
    let metadata = std::fs::metadata(path).map_err(TokenizerError::io(path))?;
    if !metadata.is_file() {
        return Err(TokenizerError::NotAFile { path: path.to_owned() });
    }
    if metadata.len() > TOKENIZER_LIMIT_BYTES {
        let (found_bytes, limit_bytes) = (metadata.len(), TOKENIZER_LIMIT_BYTES);
        return Err(TokenizerError::TooLarge { path: path.to_owned(), found_bytes, limit_bytes });
    }
    let bytes = std::fs::read(path).map_err(TokenizerError::io(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset_bytes = error.utf8_error().valid_up_to();
        TokenizerError::NotText { path: path.to_owned(), offset_bytes, found: error.as_bytes()[offset_bytes] }
    })?;
    if text.starts_with("version https://git-lfs") {
        return Err(TokenizerError::LfsPointer { path: path.to_owned() });
    }
    if text.trim_start().starts_with('<') {
        return Err(TokenizerError::HtmlPage { path: path.to_owned() });
    }
    Ok(text)
}

/// Runs the library, and turns what it says on failure, panics included, into a sentence.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // The library only reads what the closures share with us, so a panic leaves nothing half-changed behind.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
            Err(format!("the tokenizers library panicked: {}", said.unwrap_or("without a message")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use serde_json::Value;
    use tempfile::TempDir;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;
    use crate::error::ErrorKind;

    /// Bytes in the order of their symbols (`!` is 0, `a` 64, a space 220), then `ab`, ` ab`, and `<end>`.
    fn byte_level_bpe() -> Value {
        let alphabet: BTreeMap<u32, String> =
            ByteLevel::alphabet().into_iter().map(|symbol| (symbol as u32, symbol.to_string())).collect();
        let symbols = alphabet.into_values().chain(["ab".to_owned(), "Ġab".to_owned()]);
        let vocab: BTreeMap<String, u32> = symbols.zip(0..).collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{"id": 258, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<end>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<end>": {"id": "<end>", "ids": [258], "tokens": ["<end>"]}}},
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": ["a b", "Ġ ab"]}
        })
    }

    fn written(bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        std::fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    fn read(json: &Value) -> Result<Tokenizer, TokenizerError> {
        let (_directory, path) = written(json.to_string());
        Tokenizer::from_file(&path)
    }

    fn refusal(bytes: impl AsRef<[u8]>) -> TokenizerError {
        let (_directory, path) = written(bytes);
        let error = Tokenizer::from_file(&path).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error
    }

    fn colours() -> Tokenizer {
        Tokenizer::word_level(&["<bos>", "red", "green", "<eos>"].map(String::from))
    }

    #[test]
    fn byte_level_bpe_gives_the_ids_that_its_merges_say() {
        let tokenizer = read(&byte_level_bpe()).unwrap();
        assert_eq!(tokenizer.encode("ab ab").unwrap(), [256, 257]);
        assert_eq!(tokenizer.encode("ba\n").unwrap(), [65, 64, 198]);
        assert_eq!(tokenizer.encode("é").unwrap(), [127, 102]);
        assert_eq!(tokenizer.encode("ab<end>!").unwrap(), [256, 258, 0]);
        assert_eq!(tokenizer.encode("").unwrap(), [0_u32; 0]);
        assert_eq!(tokenizer.vocab_size(), 259);
        assert_eq!(tokenizer.token_to_id("Ġab"), Some(257));
        assert_eq!(tokenizer.token_to_id("nothing"), None);
    }

    #[test]
    fn special_tokens_are_added_only_when_asked_for() {
        let tokenizer = read(&byte_level_bpe()).unwrap();
        assert_eq!(tokenizer.encode("ab").unwrap(), [256]);
        assert_eq!(tokenizer.encode_with_special_tokens("ab").unwrap(), [256, 258]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn byte_level_decoding_gives_back_any_text(text in any::<String>()) {
            let tokenizer = read(&byte_level_bpe()).unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }

        #[test]
        fn word_level_encoding_gives_back_any_ids(ids in prop::collection::vec(0_u32..4, 0..50)) {
            let text = colours().decode(&ids).unwrap();
            prop_assert_eq!(colours().encode(&text).unwrap(), ids);
        }
    }

    #[test]
    fn truncation_padding_and_random_merges_of_the_file_are_left_out() {
        let mut json = byte_level_bpe();
        json["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        json["model"]["dropout"] = json!(1.0);
        let as_the_file_says: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        assert_eq!(as_the_file_says.encode("ab ab", false).unwrap().len(), 8);
        assert_eq!(read(&json).unwrap().encode("ab ab").unwrap(), [256, 257]);
    }

    #[test]
    fn a_saved_word_level_tokenizer_is_read_back_with_the_ids_that_begin_and_end_a_text() {
        let directory = tempfile::tempdir().unwrap();
        colours().save(directory.path()).unwrap();
        let read = Tokenizer::from_file(&directory.path().join("tokenizer.json")).unwrap();
        assert_eq!(read.encode("<bos> green  red\n<eos>").unwrap(), [0, 2, 1, 3]);
        assert_eq!((read.bos(), read.eos(), read.vocab_size()), (Some(0), [3].as_slice(), 4));
    }

    #[test]
    fn an_unknown_word_is_an_error_unless_the_vocabulary_has_one_for_it() {
        let error = colours().encode("red  blue green").unwrap_err();
        assert!(
            matches!(&error, TokenizerError::UnknownWord { word, offset_bytes: 5, vocab_size: 4 } if word == "blue")
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let forgiving = Tokenizer::word_level(&["red", "<unk>"].map(String::from));
        assert_eq!(forgiving.encode("red blue").unwrap(), [0, 1]);
    }

    #[test]
    #[should_panic(expected = "stands twice")]
    fn a_vocabulary_holds_a_word_once() {
        Tokenizer::word_level(&["red", "red"].map(String::from));
    }

    #[test]
    #[should_panic(expected = "is not one word")]
    fn a_word_has_no_white_space() {
        Tokenizer::word_level(&["dark red".to_owned()]);
    }

    #[test]
    fn an_id_without_a_token_is_an_error() {
        let error = colours().decode(&[1, 4]).unwrap_err();
        assert!(matches!(error, TokenizerError::UnknownId { id: 4, position: 1, vocab_size: 4 }));
    }

    #[test]
    fn a_missing_file_is_told_from_a_sentencepiece_model() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        let error = Tokenizer::from_file(&path).unwrap_err();
        assert!(matches!(error, TokenizerError::NotFound { .. }));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        std::fs::write(directory.path().join("tokenizer.model"), "").unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err();
        assert!(matches!(error, TokenizerError::OnlySentencePiece { .. }));
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_directory_is_not_a_tokenizer() {
        let directory = tempfile::tempdir().unwrap();
        let error = Tokenizer::from_file(directory.path()).unwrap_err();
        assert!(matches!(error, TokenizerError::NotAFile { .. }));
        let error = Tokenizer::from_file(&directory.path().join("a\0b")).unwrap_err();
        assert!(matches!(error, TokenizerError::Io { .. }));
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    #[test]
    fn a_file_larger_than_any_tokenizer_is_not_read() {
        let (_directory, path) = written("");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(TOKENIZER_LIMIT_BYTES + 1).unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err();
        assert!(
            matches!(error, TokenizerError::TooLarge { found_bytes, .. } if found_bytes == TOKENIZER_LIMIT_BYTES + 1)
        );
    }

    #[test]
    fn what_stands_in_place_of_a_tokenizer_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(matches!(refusal(pointer), TokenizerError::LfsPointer { .. }));
        assert!(matches!(refusal("\n<!DOCTYPE html>"), TokenizerError::HtmlPage { .. }));
        assert!(matches!(refusal(b"GGUF\xff"), TokenizerError::NotText { offset_bytes: 4, found: 0xff, .. }));
        assert!(matches!(refusal("{\n\"model\""), TokenizerError::Malformed { source, .. } if source.line() == 2));
        assert!(matches!(refusal(""), TokenizerError::Malformed { .. }));
        assert!(matches!(refusal(r#"{"hidden_size": 8}"#), TokenizerError::NoModel { .. }));
    }

    #[test]
    fn a_kind_of_model_that_nobody_can_apply_is_named() {
        let mut json = byte_level_bpe();
        json["model"]["type"] = json!("Morphemes");
        let error = refusal(json.to_string());
        assert!(matches!(&error, TokenizerError::UnknownModel { found, .. } if found == "Morphemes"));
    }

    #[test]
    fn a_part_of_no_known_kind_is_refused() {
        let mut json = byte_level_bpe();
        json["pre_tokenizer"] = json!({"type": "Oracle"});
        assert!(matches!(refusal(json.to_string()), TokenizerError::Unsupported { .. }));
        let mut json = byte_level_bpe();
        json["model"]["merges"] = json!(["a nobody"]);
        assert!(matches!(refusal(json.to_string()), TokenizerError::Unsupported { .. }));
    }

    #[test]
    fn an_added_token_that_comes_out_with_another_id_is_refused() {
        let mut json = byte_level_bpe();
        json["added_tokens"][0]["id"] = json!(300);
        let error = refusal(json.to_string());
        assert!(matches!(error, TokenizerError::MovedToken { expected: 300, found: Some(258), .. }));
    }

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        let mut json = byte_level_bpe();
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="});
        let error = read(&json).unwrap().encode("ab").unwrap_err();
        assert!(matches!(&error, TokenizerError::Encode { text_bytes: 2, reason } if reason.contains("panicked")));
    }

    #[test]
    fn ids_that_cannot_be_decoded_are_an_error() {
        let mut json = byte_level_bpe();
        json["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 2});
        let result = read(&json).unwrap().decode(&[64]);
        assert!(matches!(result, Err(TokenizerError::Decode { num_tokens: 1, .. })), "{result:?}");
    }
}
