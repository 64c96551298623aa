//! GGUF, the one-file format of llama.cpp: vocabularies to and from Hugging Face's files, and checkpoints written.
//!
//! Keys and layout are those of llama.cpp's own converter, so that what is written here loads there.

mod vocabulary;
mod write;

pub use vocabulary::{GgufVocabulary, HfTokenizer, TokenType, TokenizerFile, VocabularyError};
pub use write::{GgufFileType, GgufOptions, gguf_size_bytes, write_gguf};
