//! The decoder: embedding, layers, final norm, head.

use std::borrow::Cow;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor};

use super::lora::{Lora, module_number, update_of};
use super::{
    CausalLm, DecoderLayer, Embedding, FeedForward, GatedMlp, HiddenStates, KvCache, LayerCache, Linear, Positions,
    RmsNorm, SparseMoe, TokenBatch,
};
use crate::config::{ConfigError, DecoderConfig, MoeConfig};
use crate::kernel::dropout::DropoutMask;
use crate::kernel::linear_cross_entropy::Upstream;
use crate::kernel::recompute;
use crate::load::{Footprint, Loader, Precision, raw, raw_of};
use crate::lora::{LoraAdapter, LoraConfig, LoraError};
use crate::trace::{indexed_span, span};
use crate::weights::{LayerTensor, MemoryWeights, RawTensor, TensorId, WeightError, WeightSource};

/// Every token passes one gated MLP per layer (Llama, Mistral, SOLAR).
pub type DenseDecoder = Decoder<GatedMlp>;
/// Every token passes `num_experts_per_tok` of `num_local_experts` experts per layer (Mixtral).
pub type MoeDecoder = Decoder<SparseMoe>;

/// A pre-norm decoder with rotary attention.
#[derive(Module, Debug)]
pub struct Decoder<F: FeedForward> {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer<F>>,
    norm: RmsNorm,
    /// `None` if the head is the embedding table.
    lm_head: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
    /// Hyperparameters of the adapter, if there is one.
    #[module(skip)]
    lora: Option<LoraConfig>,
    /// Whether layers are computed again for their gradients.
    #[module(skip)]
    gradient_checkpointing: bool,
    /// After loading.
    #[module(skip)]
    footprint: Footprint,
}

impl<F: FeedForward> Decoder<F> {
    /// Loads a source in float32.
    ///
    /// # Errors
    /// If a weight cannot be read, or does not hold floating-point numbers.
    ///
    /// # Panics
    /// If the source has experts and `F` has none, or the other way round.
    pub fn load<S: WeightSource>(source: &S, device: &Device) -> Result<Self, WeightError> {
        Self::load_as(source, Precision::FLOAT32, device)
    }

    /// Loads a source in the given precision.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Panics
    /// As [`load`](Self::load), or if a precision is no type of floats, or nothing is rounded to its format.
    pub fn load_as<S: WeightSource>(
        source: &S,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Self, WeightError> {
        Self::load_by(&Loader::new(source, precision, device))
    }

    /// The memory that loading would take, from headers alone.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Panics
    /// As [`load_as`](Self::load_as).
    pub fn foresee<S: WeightSource>(
        source: &S,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Footprint, WeightError> {
        Ok(Self::load_by(&Loader::dry(source, precision, device))?.footprint)
    }

    fn load_by<S: WeightSource>(loader: &Loader<'_, S>) -> Result<Self, WeightError> {
        loader.source().config().computable()?;
        let config = loader.source().config().clone();
        let linear = |id| loader.weight(id).map(Linear::from);
        let embed_tokens = Embedding { weight: loader.weight(TensorId::EmbedTokens)? };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::load(&config, loader, layer))
            .collect::<Result<_, _>>()?;
        let norm = RmsNorm::new(loader.param(TensorId::Norm)?, config.rms_norm_eps);
        let lm_head = (!config.tie_word_embeddings).then(|| linear(TensorId::LmHead)).transpose()?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            config,
            lora: None,
            gradient_checkpointing: false,
            footprint: loader.footprint(),
        })
    }

    /// The input of each feed-forward, the normalized residual stream, first layer first. In a mixture, it is the input of
    /// the router.
    ///
    /// # Shapes
    /// - `tokens`: `[batch_size, seq_length]`
    /// - each of the result: `[batch_size, seq_length, hidden_size]`
    ///
    /// # Panics
    /// As [`CausalLm::hidden_states`].
    pub fn mlp_inputs(&self, tokens: Tensor<2, Int>) -> Vec<Tensor<3>> {
        let tokens = TokenBatch::from(tokens);
        let mut x = self.embed_tokens.forward(tokens.ids.clone());
        let positions = Positions::new(&self.config, &tokens, None, &x.device());
        let mut inputs = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            x = layer.attend(x, &positions, None);
            inputs.push(layer.post_attention_layernorm.forward(x.clone()));
            x = layer.feed_forward(x).0;
        }
        inputs
    }

    /// The memory that the weights took right after loading.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    /// Whether a pass that records gradients keeps the inputs of layers only, and computes each layer again when its gradient is
    /// due: about a third more work for far less memory. Gradients stay the same. Without effect on devices without
    /// [`recompute::has_kernel`].
    #[must_use]
    pub fn with_gradient_checkpointing(self, gradient_checkpointing: bool) -> Self {
        Self { gradient_checkpointing, ..self }
    }

    /// With an adapter, whose parameters are the only ones that are trained. Replaces an earlier adapter.
    ///
    /// # Errors
    /// Those of [`LoraAdapter::check`].
    pub fn with_adapter(self, adapter: &LoraAdapter) -> Result<Self, LoraError> {
        adapter.check(&self.config)?;
        let frozen = self.without_adapter().no_grad();
        Ok(Self { lora: Some(adapter.config().clone()), ..frozen.adapted(Some(adapter)) })
    }

    /// The base without its adapter. Its parameters stay frozen.
    #[must_use]
    pub fn without_adapter(self) -> Self {
        Self { lora: None, ..self.adapted(None) }
    }

    /// The current values of the adapter, if there is one.
    pub fn adapter(&self) -> Option<LoraAdapter> {
        let config = self.lora.clone()?;
        let updates =
            TensorId::all(&self.config).into_iter().filter_map(|id| Some((id, self.lora_of(id)?.low_rank().into())));
        Some(LoraAdapter::new(config, &self.config, updates.collect()).expect("it was checked when it was attached"))
    }

    /// Whether the adapter, if there is one, has updates of experts.
    pub fn adapts_experts(&self) -> bool {
        let is_expert = |id: &TensorId| matches!(id, TensorId::Layer(_, LayerTensor::Expert(..)));
        TensorId::all(&self.config).into_iter().filter(is_expert).any(|id| self.lora_of(id).is_some())
    }

    fn adapted(self, adapter: Option<&LoraAdapter>) -> Self {
        let layers = self.layers.into_iter().enumerate();
        let lm_head = self.lm_head.map(|head| head.adapted(update_of(adapter, TensorId::LmHead)));
        Self { layers: layers.map(|(index, layer)| layer.adapted(adapter, index)).collect(), lm_head, ..self }
    }

    /// A layer whose adapters have masks of their inputs, if this is a pass with dropout.
    fn masked<'a>(&self, layer: &'a DecoderLayer<F>, index: usize, tokens: &TokenBatch) -> Cow<'a, DecoderLayer<F>> {
        let probability = self.lora.as_ref().map_or(0.0, |lora| lora.lora_dropout);
        let Some(rows) = tokens.dropout().filter(|_| probability > 0.0) else { return Cow::Borrowed(layer) };
        let mask = |tensor, lora: Lora| {
            let module = module_number(TensorId::Layer(index, tensor));
            lora.masked(DropoutMask::new(rows.clone(), module, probability))
        };
        Cow::Owned(layer.clone().map_lora(&mask))
    }

    fn embed(&self, tokens: &TokenBatch) -> Tensor<3> {
        let _span = span("embedding");
        self.embed_tokens.forward(tokens.ids.clone())
    }

    /// All layers and the final norm.
    fn pass(
        &self,
        mut x: Tensor<3>,
        tokens: &TokenBatch,
        positions: &Positions,
        caches: Option<&mut [LayerCache]>,
        is_recomputed: bool,
    ) -> HiddenStates {
        let mut caches = caches.map(|caches| caches.iter_mut());
        let mut routing = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let _layer = indexed_span("layer", index);
            let layer = self.masked(layer, index, tokens);
            let cache = caches.as_mut().and_then(Iterator::next);
            let (y, routed) =
                if is_recomputed { layer.forward_recomputed(x, positions) } else { layer.forward(x, positions, cache) };
            x = y;
            routing.extend(routed);
        }
        let _span = span("norm");
        HiddenStates { last: self.norm.forward(x), routing }
    }

    fn lora_of(&self, id: TensorId) -> Option<&Lora> {
        match id {
            TensorId::EmbedTokens | TensorId::Norm => None,
            TensorId::Layer(layer, tensor) => self.layers[layer].lora(tensor),
            TensorId::LmHead => self.lm_head.as_ref()?.lora.as_ref(),
        }
    }

    /// A copy of the weights, as a source for growth and for writing, with the updates of an adapter.
    pub fn to_weights(&self) -> MemoryWeights {
        MemoryWeights::new(self.config.clone(), |id| self.weight(id))
    }

    /// The head, which shares its weight with the embeddings if it is tied.
    fn head(&self) -> Linear {
        self.lm_head.clone().unwrap_or_else(|| self.embed_tokens.weight.clone().into())
    }

    pub(super) fn weight(&self, id: TensorId) -> RawTensor {
        match id {
            TensorId::EmbedTokens => raw_of(&self.embed_tokens.weight),
            TensorId::Layer(layer, tensor) => self.layers[layer].weight(tensor),
            TensorId::Norm => raw(self.norm.weight.val()),
            TensorId::LmHead => self.lm_head.as_ref().expect("an untied model has a head").raw(),
        }
    }
}

impl MoeDecoder {
    /// With a bias for the choice of experts in each layer, without those of earlier calls. Written models have none.
    ///
    /// # Panics
    /// If there is another number of layers or experts; no layer at all removes the bias.
    #[must_use]
    pub fn with_selection_bias(self, layers: &[Vec<f32>]) -> Self {
        assert!(
            layers.is_empty() || layers.len() == self.layers.len(),
            "a bias for each of {} layers",
            self.layers.len()
        );
        let of = |index: usize| layers.get(index).cloned().unwrap_or_default();
        let with = |(index, layer): (usize, DecoderLayer<SparseMoe>)| DecoderLayer {
            mlp: layer.mlp.with_selection_bias(of(index)),
            ..layer
        };
        Self { layers: self.layers.into_iter().enumerate().map(with).collect(), ..self }
    }

    /// The mixture with another number of experts per token.
    ///
    /// # Errors
    /// [`ConfigError::Zero`], or [`ConfigError::TooFewExperts`] if there are not as many.
    pub fn with_experts_per_token(mut self, num_experts_per_tok: usize) -> Result<Self, ConfigError> {
        let moe = self.config.moe.expect("a sparse decoder has experts");
        self.config = self.config.with(|fields| fields.moe = Some(MoeConfig { num_experts_per_tok, ..moe }))?;
        self.layers.iter_mut().for_each(|layer| layer.mlp.router.num_experts_per_tok = num_experts_per_tok);
        Ok(self)
    }
}

impl<F: FeedForward> CausalLm for Decoder<F>
where
    Self: ModuleDisplay,
{
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn hidden_states(&self, tokens: impl Into<TokenBatch>, cache: Option<&mut KvCache>) -> HiddenStates {
        let tokens = tokens.into();
        let x = self.embed(&tokens);
        let device = x.device();
        let is_recomputed =
            self.gradient_checkpointing && cache.is_none() && device.is_autodiff() && recompute::has_kernel(&device);
        let positions = {
            let _span = span("rotation");
            let device = if is_recomputed { device.without_autodiff() } else { device };
            Positions::new(&self.config, &tokens, cache.as_deref().map(KvCache::lens), &device)
        };
        let caches = cache.map(|cache| cache.append(tokens.lens()));
        self.pass(x, &tokens, &positions, caches, is_recomputed)
    }

    fn hidden_states_at(&self, ids: Tensor<2, Int>, positions: &Positions, cache: &mut KvCache) -> HiddenStates {
        let tokens = TokenBatch::from(ids);
        self.pass(self.embed(&tokens), &tokens, positions, Some(cache.layers_mut()), false)
    }

    fn waits_for_host(&self, num_tokens: usize) -> bool {
        self.layers.iter().any(|layer| layer.mlp.waits_for_host(num_tokens))
    }

    fn token_losses_for(&self, hidden: Tensor<3>, targets: Tensor<2, Int>, upstream: Upstream) -> Tensor<2> {
        let _span = span("lm_head");
        let [batch_size, seq_length, hidden_size] = hidden.dims();
        let num_tokens = batch_size * seq_length;
        let hidden = hidden.reshape([num_tokens, hidden_size]);
        let losses = self.head().cross_entropy(hidden, targets.reshape([num_tokens]), upstream);
        losses.reshape([batch_size, seq_length])
    }

    fn lm_head(&self, hidden: Tensor<3>) -> Tensor<3> {
        let _span = span("lm_head");
        self.head().forward(hidden)
    }
}
