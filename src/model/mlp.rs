//! What may follow attention in a layer, and the dense form of it.

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use super::{Linear, Loader, RmsNorm, Routing};
use crate::config::DecoderConfig;
use crate::kernel::projections::gated_projection;
use crate::trace::span;
use crate::weights::{LayerTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

/// What follows attention in a layer: the one place where dense and sparse decoders differ.
pub trait FeedForward: Module + ModuleDisplay {
    /// What a trace calls it.
    const NAME: &'static str;

    /// Takes this layer's weights from the loader's source.
    ///
    /// # Errors
    /// What the source says.
    fn load<S: WeightSource>(config: &DecoderConfig, loader: &Loader<'_, S>, layer: usize)
    -> Result<Self, WeightError>;

    /// `x + f(norm(x))`, `f` being this feed-forward; `x` and the output: `[batch_size, seq_length, hidden_size]`; and the
    /// routing, if this layer routes.
    fn forward(&self, x: Tensor<3>, norm: &RmsNorm) -> (Tensor<3>, Option<Routing>);

    /// The value of one of this layer's weights.
    ///
    /// # Panics
    /// If it has none of that name.
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

    fn forward(&self, x: Tensor<3>, norm: &RmsNorm) -> (Tensor<3>, Option<Routing>) {
        let hidden = {
            let _span = span("gate_up_proj");
            gated_projection(x.clone(), Some(norm.val()), self.gate_proj.weight.val(), self.up_proj.weight.val())
        };
        let _span = span("down_proj");
        (self.down_proj.forward_onto(x, hidden), None)
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::Mlp(Projection::Gate) => self.gate_proj.weight.raw(),
            LayerTensor::Mlp(Projection::Up) => self.up_proj.weight.raw(),
            LayerTensor::Mlp(Projection::Down) => self.down_proj.weight.raw(),
            other => panic!("a dense MLP has no {other:?}"),
        }
    }
}
