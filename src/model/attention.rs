//! Grouped-query causal self-attention with rotary positions.

use burn::module::Module;
use burn::tensor::Tensor;

use super::lora::{Lora, update_of};
use super::{LayerCache, Linear, Positions};
use crate::config::DecoderConfig;
use crate::kernel::attention::attention;
use crate::load::Loader;
use crate::lora::LoraAdapter;
use crate::trace::span;
use crate::weights::{LayerTensor, TensorId, WeightError, WeightSource};

/// `o_proj(attention(rope(q_proj(x)), rope(k_proj(x)), v_proj(x)))`.
#[derive(Module, Debug)]
pub struct Attention {
    /// To `num_attention_heads · head_dim`.
    pub q_proj: Linear,
    /// To `num_key_value_heads · head_dim`.
    pub k_proj: Linear,
    /// To `num_key_value_heads · head_dim`.
    pub v_proj: Linear,
    /// Back to `hidden_size`.
    pub o_proj: Linear,
    head_dim: usize,
}

impl Attention {
    pub(super) fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let linear = |tensor| loader.weight(TensorId::Layer(layer, tensor)).map(Linear::from);
        Ok(Self {
            q_proj: linear(LayerTensor::QProj)?,
            k_proj: linear(LayerTensor::KProj)?,
            v_proj: linear(LayerTensor::VProj)?,
            o_proj: linear(LayerTensor::OProj)?,
            head_dim: config.head_dim,
        })
    }

    /// With the updates of an adapter in this layer, in place of any earlier ones.
    pub(super) fn adapted(self, adapter: Option<&LoraAdapter>, layer: usize) -> Self {
        let update = |tensor| update_of(adapter, TensorId::Layer(layer, tensor));
        Self {
            q_proj: self.q_proj.adapted(update(LayerTensor::QProj)),
            k_proj: self.k_proj.adapted(update(LayerTensor::KProj)),
            v_proj: self.v_proj.adapted(update(LayerTensor::VProj)),
            o_proj: self.o_proj.adapted(update(LayerTensor::OProj)),
            head_dim: self.head_dim,
        }
    }

    /// With each adapter changed.
    pub(super) fn map_lora(self, map: &dyn Fn(LayerTensor, Lora) -> Lora) -> Self {
        Self {
            q_proj: self.q_proj.map_lora(|lora| map(LayerTensor::QProj, lora)),
            k_proj: self.k_proj.map_lora(|lora| map(LayerTensor::KProj, lora)),
            v_proj: self.v_proj.map_lora(|lora| map(LayerTensor::VProj, lora)),
            o_proj: self.o_proj.map_lora(|lora| map(LayerTensor::OProj, lora)),
            head_dim: self.head_dim,
        }
    }

    /// `residual + attention(x)`: the tokens of `x` attend to each other and to those of `cache` as `positions` says. All
    /// `[batch_size, seq_length, hidden_size]`.
    pub fn forward(
        &self,
        residual: Tensor<3>,
        x: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let [batch_size, seq_length, _] = x.dims();
        let heads = |y: Tensor<3>| {
            let num_heads = y.dims()[2] / self.head_dim;
            y.reshape([batch_size, seq_length, num_heads, self.head_dim])
        };
        let [q, k, v] = {
            let _span = span("qkv_proj");
            Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x).map(heads)
        };
        let y = match cache {
            Some(cache) => {
                let _span = span("attention");
                cache.attend([q, k, v], positions)
            }
            None => {
                let [q, k] = {
                    let _span = span("rope");
                    [q, k].map(|x| positions.rotation.rotate(x))
                };
                let _span = span("attention");
                attention(q, k, v, &positions.mask)
            }
        };
        let _span = span("o_proj");
        self.o_proj.forward_add(residual, y.reshape([0, 0, -1]))
    }
}
