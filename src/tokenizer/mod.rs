//! Text to token ids and back, as `tokenizer.json` or a SentencePiece `tokenizer.model` says; chats to text, as the chat template of
//! a model says.
//!
//! A thin wrapper around Hugging Face's `tokenizers`, which does the work. It adds what that library leaves open: an error
//! for every file that is not what it should be, no panic, no silent truncation, and the ids that begin and
//! end a text. What a document is, and how documents become windows, is left to `data`.

mod chat_template;
mod codec;
mod error;
mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod json;
mod library;
mod message;
mod sentencepiece;
mod settings_file;
mod special;
mod text;
mod vocabulary_file;
mod word_level;

pub use chat_template::{
    ChatTemplate, ChatTemplateError, RenderOptions, TEMPLATE_NAMES, TemplateFault, named_template,
};
pub use codec::Tokenizer;
pub use error::TokenizerError;
pub use message::{Message, NotAMessage};
pub use sentencepiece::SentencePieceFault;
pub(crate) use sentencepiece::{Algorithm, PieceKind, SentencePieceTokenizer};
pub(crate) use special::special_ids;
pub(crate) use vocabulary_file::VocabularyFile;
