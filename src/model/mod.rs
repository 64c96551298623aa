//! Decoder-only language models, dense and sparse.
//!
//! [`Decoder`] is one architecture with one type parameter, the [`FeedForward`] of its layers.
//! A [`GatedMlp`] there makes the dense decoder, a [`SparseMoe`] the mixture of experts.

mod any_decoder;
mod attention;
mod decoder;
mod decoder_layer;
mod decoding;
mod kv_cache;
mod linear;
mod lora;
pub mod loss;
mod mlp;
mod moe;
mod norm;
mod positions;
mod recompute;
mod rope;
mod routing;
mod token_batch;
mod weights;

pub use any_decoder::AnyDecoder;
pub use attention::Attention;
pub use decoder::{Decoder, DenseDecoder, MoeDecoder};
pub use decoder_layer::DecoderLayer;
pub use decoding::{Decoding, DecodingMode};
pub use kv_cache::{KvCache, LayerCache};
pub use linear::{Embedding, Linear};
pub use lora::{ExpertLora, Lora};
pub use mlp::{FeedForward, GatedMlp};
pub use moe::SparseMoe;
pub use norm::RmsNorm;
pub use positions::Positions;
pub use rope::Rotation;
pub use routing::{Router, Routing};
pub use token_batch::{Fork, TokenBatch};
pub use weights::DecoderWeights;

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::config::DecoderConfig;
pub use crate::kernel::linear_cross_entropy::Upstream;

/// A decoder-only language model: token ids in, logits of the next token out.
///
/// Training, evaluation, generation and profiling use models only through this trait. The `routing` of a dense model is
/// empty, so callers need not distinguish dense from sparse models.
pub trait CausalLm: Module {
    /// The shape of the model.
    fn config(&self) -> &DecoderConfig;

    /// The states after the final norm, those of padding included. With a cache, each row of tokens continues its sequence.
    ///
    /// # Shapes
    /// - `tokens`: a [`TokenBatch`], or ids `[batch_size, seq_length]`
    ///
    /// # Panics
    /// If there are no tokens, a sequence outgrows `max_position_embeddings` or the cache, or an id is not below
    /// `vocab_size`.
    fn hidden_states(&self, tokens: impl Into<TokenBatch>, cache: Option<&mut KvCache>) -> HiddenStates;

    /// The states of tokens at these positions, whose keys and values are written to the cache; its lengths stay as they are.
    ///
    /// # Panics
    /// If the sizes disagree, or an id is not below `vocab_size`.
    fn hidden_states_at(&self, ids: Tensor<2, Int>, positions: &Positions, cache: &mut KvCache) -> HiddenStates;

    /// Whether a pass of so many tokens needs the host on its way through the layers, so that no
    /// [graph](crate::kernel::graph) can replay it.
    fn waits_for_host(&self, num_tokens: usize) -> bool;

    /// Logits of the next token: `[batch_size, seq_length, hidden_size]` to `[batch_size, seq_length, vocab_size]`.
    fn lm_head(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// `−ln p(target)` of each token in nats, without materializing the logits; [`loss`] has means and sums of it.
    ///
    /// # Shapes
    /// - `hidden`: `[batch_size, seq_length, hidden_size]`, after the final norm
    /// - `targets`, result: `[batch_size, seq_length]`
    ///
    /// # Panics
    /// If there are no tokens, or a target is not below `vocab_size`.
    fn token_losses(&self, hidden: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
        self.token_losses_for(hidden, targets, Upstream::Equal)
    }

    /// [`token_losses`](Self::token_losses) whose gradient will be `upstream`, which decides what the forward pass prepares.
    ///
    /// # Panics
    /// As [`token_losses`](Self::token_losses).
    fn token_losses_for(&self, hidden: Tensor<3>, targets: Tensor<2, Int>, upstream: Upstream) -> Tensor<2>;

    /// Logits at every position.
    fn forward(&self, tokens: Tensor<2, Int>) -> CausalLmOutput {
        let HiddenStates { last, routing } = self.hidden_states(tokens, None);
        CausalLmOutput { logits: self.lm_head(last), routing }
    }
}

/// The result of the layers of a model.
#[derive(Debug, Clone)]
pub struct HiddenStates {
    /// After the final norm, `[batch_size, seq_length, hidden_size]`.
    pub last: Tensor<3>,
    /// The routing of each sparse layer, first layer first; empty for a dense model.
    pub routing: Vec<Routing>,
}

/// Logits with the routing that led to them.
#[derive(Debug, Clone)]
pub struct CausalLmOutput {
    /// `[batch_size, seq_length, vocab_size]`.
    pub logits: Tensor<3>,
    /// The routing of each sparse layer, first layer first; empty for a dense model.
    pub routing: Vec<Routing>,
}
