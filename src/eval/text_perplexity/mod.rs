//! Perplexity of a text that is longer than the context, as transformers and as llama.cpp measure it.

mod divergence;
mod loss;
mod window;

pub use divergence::{Divergence, divergence};
pub use loss::{Perplexity, perplexity};
pub use window::{Convention, Window, text_windows};
