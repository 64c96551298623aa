//! GGUF, the one-file format of llama.cpp: checkpoints read and written, vocabularies to and from Hugging Face's files.
//!
//! Keys and layout are those of llama.cpp's own converter, so that what is written here loads there.

mod config;
mod cursor;
mod dequantize;
mod failure;
mod fault;
mod file;
mod file_type;
mod general_keys;
mod header;
mod metadata;
mod names;
pub(crate) mod part_name;
mod type_names;
mod vocabulary;
mod vocabulary_keys;
mod write;

pub use dequantize::dequantize;
pub use fault::GgufFault;
pub use file::GgufFile;
pub use vocabulary::{GgufVocabulary, HfTokenizer, TokenType, TokenizerFile, VocabularyError};
pub use write::{GgufFileType, GgufOptions, gguf_size_bytes, write_gguf};
