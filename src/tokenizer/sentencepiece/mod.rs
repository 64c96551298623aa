//! SentencePiece models (`tokenizer.model`) as `tokenizer.json`, as transformers' `LlamaTokenizer` reads them.

mod added;
mod fault;
mod json;
mod merges;
mod model;
mod piece;
mod settings;
mod spec;
mod tokenizer;
mod wire;

pub use fault::SentencePieceFault;
pub(crate) use model::Algorithm;
pub(crate) use piece::PieceKind;
pub(crate) use tokenizer::SentencePieceTokenizer;
