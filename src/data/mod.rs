//! From documents to windows of token ids.

pub mod language;
pub mod packing;
pub mod text;

pub use packing::{WindowOrder, Windows};

/// A document as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Token ids; the first is the beginning-of-document token where the source has one.
    pub ids: Vec<u32>,
    /// Natural-log probability of each id given those before it, under the distribution that the document was
    /// drawn from; `None` for natural text, whose distribution nobody knows. One number per id.
    pub logprobs: Option<Vec<f64>>,
    /// What the document is about, if the source says; an index into the source's list of topics.
    pub topic: Option<usize>,
}
