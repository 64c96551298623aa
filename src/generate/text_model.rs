//! A model with its tokenizer.

use burn::tensor::Device;

use super::{BatchSettings, Engine};
use crate::model::{AnyDecoder, CausalLm};
use crate::tokenizer::Tokenizer;

/// A model that is ready to continue texts.
#[derive(Debug)]
pub struct TextModel {
    /// The decoder.
    pub model: AnyDecoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    context: usize,
    device: Device,
}

impl TextModel {
    /// A model on its device, for prompts and outputs of up to `context` tokens together.
    ///
    /// # Panics
    /// If the context is 0, or larger than `max_position_embeddings`.
    pub fn new(model: AnyDecoder, tokenizer: Tokenizer, context: usize, device: Device) -> Self {
        let most = model.config().max_position_embeddings;
        assert!((1..=most).contains(&context), "a context of {context} tokens, expected 1 to {most}");
        Self { model, tokenizer, context, device }
    }

    /// Tokens of a prompt and its output together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// An engine for so many sequences at once.
    ///
    /// # Panics
    /// If there are none, or more than [`MAX_SEQUENCES`](super::MAX_SEQUENCES).
    pub fn engine(&self, max_sequences: usize) -> Engine<'_, AnyDecoder> {
        let settings = BatchSettings { max_sequences, context: self.context };
        Engine::new(&self.model, &self.tokenizer, settings, &self.device)
    }
}
