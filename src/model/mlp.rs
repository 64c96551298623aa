//! The feed-forward of a layer, and its dense form.

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use super::lora::{Lora, update_of};
use super::{Linear, Routing};
use crate::config::DecoderConfig;
use crate::load::Loader;
use crate::lora::LoraAdapter;
use crate::trace::span;
use crate::weights::{LayerTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

/// The feed-forward of a layer: the only part in which dense and sparse decoders differ.
pub trait FeedForward: Module + ModuleDisplay + Sync + 'static {
    /// Name in traces.
    const NAME: &'static str;

    /// Loads the weights of a layer.
    ///
    /// # Errors
    /// Those of the source.
    fn load<S: WeightSource>(config: &DecoderConfig, loader: &Loader<'_, S>, layer: usize)
    -> Result<Self, WeightError>;

    /// `residual + f(x)`, and the routing if this layer routes; `residual`, `x` and the sum:
    /// `[batch_size, seq_length, hidden_size]`.
    fn forward(&self, residual: Tensor<3>, x: Tensor<3>) -> (Tensor<3>, Option<Routing>);

    /// Whether [`forward`](Self::forward) needs the host for so many tokens; see
    /// [`CausalLm::waits_for_host`](super::CausalLm::waits_for_host).
    fn waits_for_host(&self, num_tokens: usize) -> bool;

    /// With the updates of an adapter in this layer, in place of any earlier ones.
    fn adapted(self, adapter: Option<&LoraAdapter>, layer: usize) -> Self;

    /// With each adapter changed.
    fn map_lora(self, map: &dyn Fn(LayerTensor, Lora) -> Lora) -> Self;

    /// The adapter of one of the weights, if it has one.
    fn lora(&self, tensor: LayerTensor) -> Option<&Lora>;

    /// The value of one of the weights, with the update of its adapter.
    ///
    /// # Panics
    /// If there is no such weight.
    fn weight(&self, tensor: LayerTensor) -> RawTensor;
}

/// `down_proj(silu(gate_proj(x)) ∘ up_proj(x))` (Shazeer, 2020, arXiv:2002.05202, §2).
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// To `intermediate_size`, before the SiLU.
    pub gate_proj: Linear,
    /// To `intermediate_size`.
    pub up_proj: Linear,
    /// Back to `hidden_size`.
    pub down_proj: Linear,
}

impl FeedForward for GatedMlp {
    const NAME: &'static str = "mlp";

    fn load<S: WeightSource>(
        _config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let linear = |projection| {
            let id = TensorId::Layer(layer, LayerTensor::Mlp(projection));
            loader.weight(id).map(Linear::from)
        };
        Ok(Self {
            gate_proj: linear(Projection::Gate)?,
            up_proj: linear(Projection::Up)?,
            down_proj: linear(Projection::Down)?,
        })
    }

    fn forward(&self, residual: Tensor<3>, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        let hidden = {
            let _span = span("gate_up_proj");
            Linear::forward_gated(&self.gate_proj, &self.up_proj, x)
        };
        let _span = span("down_proj");
        (self.down_proj.forward_add(residual, hidden), None)
    }

    fn waits_for_host(&self, _num_tokens: usize) -> bool {
        false
    }

    fn adapted(self, adapter: Option<&LoraAdapter>, layer: usize) -> Self {
        let update = |projection| update_of(adapter, TensorId::Layer(layer, LayerTensor::Mlp(projection)));
        Self {
            gate_proj: self.gate_proj.adapted(update(Projection::Gate)),
            up_proj: self.up_proj.adapted(update(Projection::Up)),
            down_proj: self.down_proj.adapted(update(Projection::Down)),
        }
    }

    fn map_lora(self, map: &dyn Fn(LayerTensor, Lora) -> Lora) -> Self {
        let of = |projection| move |lora| map(LayerTensor::Mlp(projection), lora);
        Self {
            gate_proj: self.gate_proj.map_lora(of(Projection::Gate)),
            up_proj: self.up_proj.map_lora(of(Projection::Up)),
            down_proj: self.down_proj.map_lora(of(Projection::Down)),
        }
    }

    fn lora(&self, tensor: LayerTensor) -> Option<&Lora> {
        self.linear(tensor)?.lora.as_ref()
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        self.linear(tensor).unwrap_or_else(|| panic!("a dense MLP has no {tensor:?}")).raw()
    }
}

impl GatedMlp {
    /// The map without a residual.
    pub(super) fn output<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.down_proj.forward(Linear::forward_gated(&self.gate_proj, &self.up_proj, x))
    }

    fn linear(&self, tensor: LayerTensor) -> Option<&Linear> {
        match tensor {
            LayerTensor::Mlp(Projection::Gate) => Some(&self.gate_proj),
            LayerTensor::Mlp(Projection::Up) => Some(&self.up_proj),
            LayerTensor::Mlp(Projection::Down) => Some(&self.down_proj),
            _ => None,
        }
    }
}
