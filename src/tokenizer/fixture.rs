//! Small tokenizers for tests.

use std::path::Path;

use super::Tokenizer;

/// A byte-level vocabulary: ids 3 to 258 are the bytes.
pub(crate) fn byte_level() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat/tokenizer.json");
    Tokenizer::from_json(&std::fs::read(&path).unwrap(), &path).unwrap()
}

/// A SentencePiece vocabulary whose bytes are tokens beside others: `<0xF0>`.
pub(crate) fn byte_fallback() -> Tokenizer {
    Tokenizer::from_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece/llama")).unwrap()
}
