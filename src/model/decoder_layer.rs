//! A layer of a decoder.

use burn::module::Module;
use burn::tensor::Tensor;

use super::lora::Lora;
use super::{Attention, FeedForward, LayerCache, Positions, RmsNorm, Routing};
use crate::config::DecoderConfig;
use crate::load::{Loader, raw};
use crate::lora::LoraAdapter;
use crate::trace::span;
use crate::weights::{LayerTensor, RawTensor, TensorId, WeightError, WeightSource};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct DecoderLayer<F: FeedForward> {
    pub(super) input_layernorm: RmsNorm,
    pub(super) self_attn: Attention,
    pub(super) post_attention_layernorm: RmsNorm,
    pub(super) mlp: F,
}

impl<F: FeedForward> DecoderLayer<F> {
    pub(super) fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let norm =
            |tensor| loader.param(TensorId::Layer(layer, tensor)).map(|gain| RmsNorm::new(gain, config.rms_norm_eps));
        Ok(Self {
            input_layernorm: norm(LayerTensor::InputLayernorm)?,
            self_attn: Attention::load(config, loader, layer)?,
            post_attention_layernorm: norm(LayerTensor::PostAttentionLayernorm)?,
            mlp: F::load(config, loader, layer)?,
        })
    }

    pub(super) fn adapted(self, adapter: Option<&LoraAdapter>, layer: usize) -> Self {
        let (self_attn, mlp) = (self.self_attn.adapted(adapter, layer), self.mlp.adapted(adapter, layer));
        Self { self_attn, mlp, ..self }
    }

    pub(super) fn map_lora(self, map: &dyn Fn(LayerTensor, Lora) -> Lora) -> Self {
        Self { self_attn: self.self_attn.map_lora(map), mlp: self.mlp.map_lora(map), ..self }
    }

    pub(super) fn lora(&self, tensor: LayerTensor) -> Option<&Lora> {
        match tensor {
            LayerTensor::InputLayernorm | LayerTensor::PostAttentionLayernorm => None,
            LayerTensor::QProj => self.self_attn.q_proj.lora.as_ref(),
            LayerTensor::KProj => self.self_attn.k_proj.lora.as_ref(),
            LayerTensor::VProj => self.self_attn.v_proj.lora.as_ref(),
            LayerTensor::OProj => self.self_attn.o_proj.lora.as_ref(),
            LayerTensor::Mlp(_) | LayerTensor::Router | LayerTensor::Expert(..) => self.mlp.lora(tensor),
        }
    }

    pub(super) fn attend(&self, x: Tensor<3>, positions: &Positions, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let _self_attn = span("self_attn");
        let normalized = {
            let _span = span("norm");
            self.input_layernorm.forward(x.clone())
        };
        self.self_attn.forward(x, normalized, positions, cache)
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> (Tensor<3>, Option<Routing>) {
        self.feed_forward(self.attend(x, positions, cache))
    }

    pub(super) fn feed_forward(&self, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        let _mlp = span(F::NAME);
        let normalized = {
            let _span = span("norm");
            self.post_attention_layernorm.forward(x.clone())
        };
        self.mlp.forward(x, normalized)
    }

    pub(super) fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::InputLayernorm => raw(self.input_layernorm.weight.val()),
            LayerTensor::QProj => self.self_attn.q_proj.raw(),
            LayerTensor::KProj => self.self_attn.k_proj.raw(),
            LayerTensor::VProj => self.self_attn.v_proj.raw(),
            LayerTensor::OProj => self.self_attn.o_proj.raw(),
            LayerTensor::PostAttentionLayernorm => raw(self.post_attention_layernorm.weight.val()),
            LayerTensor::Mlp(_) | LayerTensor::Router | LayerTensor::Expert(..) => self.mlp.weight(tensor),
        }
    }
}
