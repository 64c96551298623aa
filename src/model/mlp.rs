//! The feed-forward of a layer, and its dense form.

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use super::{Linear, Routing};
use crate::config::DecoderConfig;
use crate::load::{Loader, raw_of};
use crate::trace::span;
use crate::weights::{LayerTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

/// The feed-forward of a layer: the only part in which dense and sparse decoders differ.
pub trait FeedForward: Module + ModuleDisplay {
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

    /// The value of one of the weights.
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
            loader.weight(id).map(|weight| Linear { weight })
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

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::Mlp(Projection::Gate) => raw_of(&self.gate_proj.weight),
            LayerTensor::Mlp(Projection::Up) => raw_of(&self.up_proj.weight),
            LayerTensor::Mlp(Projection::Down) => raw_of(&self.down_proj.weight),
            other => panic!("a dense MLP has no {other:?}"),
        }
    }
}
