//! A decoder that is dense or sparse by its config, decided at run time.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{CausalLm, DenseDecoder, HiddenStates, KvCache, MoeDecoder, Positions, TokenBatch};
use crate::config::{ConfigError, DecoderConfig};
use crate::kernel::linear_cross_entropy::Upstream;
use crate::load::{Footprint, Precision};
use crate::lora::{LoraAdapter, LoraConfig, LoraError};
use crate::weights::{MemoryWeights, RawTensor, TensorId, WeightError, WeightSource};

/// A [`DenseDecoder`] or a [`MoeDecoder`], whichever the config of its source describes.
#[derive(Module, Debug)]
pub enum AnyDecoder {
    /// Without experts.
    Dense(DenseDecoder),
    /// With experts.
    Sparse(MoeDecoder),
}

/// Evaluates an expression for the decoder of either kind.
macro_rules! either {
    ($any:expr, $decoder:ident => $result:expr) => {
        match $any {
            AnyDecoder::Dense($decoder) => $result,
            AnyDecoder::Sparse($decoder) => $result,
        }
    };
}

/// A decoder of the kind of the given one, from an expression for either kind.
macro_rules! same_kind {
    ($any:expr, $decoder:ident => $result:expr) => {
        match $any {
            AnyDecoder::Dense($decoder) => AnyDecoder::Dense($result),
            AnyDecoder::Sparse($decoder) => AnyDecoder::Sparse($result),
        }
    };
}

impl AnyDecoder {
    /// As [`Decoder::load`](super::Decoder::load).
    ///
    /// # Errors
    /// As there.
    pub fn load<S: WeightSource>(source: &S, device: &Device) -> Result<Self, WeightError> {
        Self::load_as(source, Precision::FLOAT32, device)
    }

    /// As [`Decoder::load_as`](super::Decoder::load_as).
    ///
    /// # Errors
    /// As there.
    pub fn load_as<S: WeightSource>(
        source: &S,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Self, WeightError> {
        Ok(match source.config().moe {
            None => Self::Dense(DenseDecoder::load_as(source, precision, device)?),
            Some(_) => Self::Sparse(MoeDecoder::load_as(source, precision, device)?),
        })
    }

    /// As [`Decoder::foresee`](super::Decoder::foresee).
    ///
    /// # Errors
    /// As there.
    pub fn foresee<S: WeightSource>(
        source: &S,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Footprint, WeightError> {
        match source.config().moe {
            None => DenseDecoder::foresee(source, precision, device),
            Some(_) => MoeDecoder::foresee(source, precision, device),
        }
    }

    /// A mixture with another number of experts per token; `None` if there are no experts.
    ///
    /// # Errors
    /// Those of [`Decoder::with_experts_per_token`](super::Decoder::with_experts_per_token).
    pub fn with_experts_per_token(self, num_experts_per_tok: usize) -> Result<Option<Self>, ConfigError> {
        match self {
            Self::Dense(_) => Ok(None),
            Self::Sparse(decoder) => Ok(Some(Self::Sparse(decoder.with_experts_per_token(num_experts_per_tok)?))),
        }
    }

    /// The memory that the weights took right after loading.
    pub fn footprint(&self) -> &Footprint {
        either!(self, decoder => decoder.footprint())
    }

    /// As [`Decoder::with_gradient_checkpointing`](super::Decoder::with_gradient_checkpointing).
    #[must_use]
    pub fn with_gradient_checkpointing(self, gradient_checkpointing: bool) -> Self {
        same_kind!(self, decoder => decoder.with_gradient_checkpointing(gradient_checkpointing))
    }

    /// As [`MoeDecoder::with_selection_bias`]; a dense decoder stays as it is.
    #[must_use]
    pub fn with_selection_bias(self, layers: &[Vec<f32>]) -> Self {
        match self {
            Self::Dense(decoder) => Self::Dense(decoder),
            Self::Sparse(decoder) => Self::Sparse(decoder.with_selection_bias(layers)),
        }
    }

    /// With a new adapter, which changes nothing until it is trained. Its parameters are the only ones that are trained.
    ///
    /// # Errors
    /// Those of [`LoraConfig::targets`].
    pub fn with_lora(self, config: LoraConfig, seed: u64) -> Result<Self, LoraError> {
        let adapter = LoraAdapter::initial(config, self.config(), seed)?;
        self.with_adapter(&adapter)
    }

    /// With an adapter; see [`Decoder::with_adapter`](super::Decoder::with_adapter).
    ///
    /// # Errors
    /// Those of [`LoraAdapter::check`].
    pub fn with_adapter(self, adapter: &LoraAdapter) -> Result<Self, LoraError> {
        Ok(same_kind!(self, decoder => decoder.with_adapter(adapter)?))
    }

    /// The base without its adapter. Its parameters stay frozen.
    #[must_use]
    pub fn without_adapter(self) -> Self {
        same_kind!(self, decoder => decoder.without_adapter())
    }

    /// The current values of the adapter, if there is one.
    pub fn adapter(&self) -> Option<LoraAdapter> {
        either!(self, decoder => decoder.adapter())
    }

    /// Whether the adapter, if there is one, has updates of experts.
    pub fn adapts_experts(&self) -> bool {
        either!(self, decoder => decoder.adapts_experts())
    }

    /// A copy of the weights, as a source for growth and for writing, with the updates of an adapter.
    pub fn to_weights(&self) -> MemoryWeights {
        either!(self, decoder => decoder.to_weights())
    }

    pub(super) fn weight(&self, id: TensorId) -> RawTensor {
        either!(self, decoder => decoder.weight(id))
    }

    /// The normalized input of each feed-forward; see [`Decoder::mlp_inputs`](super::Decoder::mlp_inputs).
    pub fn mlp_inputs(&self, tokens: Tensor<2, Int>) -> Vec<Tensor<3>> {
        either!(self, decoder => decoder.mlp_inputs(tokens))
    }
}

impl CausalLm for AnyDecoder {
    fn config(&self) -> &DecoderConfig {
        either!(self, decoder => decoder.config())
    }

    fn hidden_states(&self, tokens: impl Into<TokenBatch>, cache: Option<&mut KvCache>) -> HiddenStates {
        either!(self, decoder => decoder.hidden_states(tokens, cache))
    }

    fn hidden_states_at(&self, ids: Tensor<2, Int>, positions: &Positions, cache: &mut KvCache) -> HiddenStates {
        either!(self, decoder => decoder.hidden_states_at(ids, positions, cache))
    }

    fn waits_for_host(&self, num_tokens: usize) -> bool {
        either!(self, decoder => decoder.waits_for_host(num_tokens))
    }

    fn lm_head(&self, hidden: Tensor<3>) -> Tensor<3> {
        either!(self, decoder => decoder.lm_head(hidden))
    }

    fn token_losses_for(&self, hidden: Tensor<3>, targets: Tensor<2, Int>, upstream: Upstream) -> Tensor<2> {
        either!(self, decoder => decoder.token_losses_for(hidden, targets, upstream))
    }
}
