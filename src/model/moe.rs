//! The feed-forward of a sparse layer: a mixture of experts, dropless.

use burn::module::Module;
use burn::tensor::Tensor;

use super::lora::{ExpertLora, Lora, merged, update_of};
use super::{FeedForward, GatedMlp, Linear, Router, Routing};
use crate::config::DecoderConfig;
use crate::kernel::expert_mlp::{Experts, expert_mlp, expert_mlp_grouped};
use crate::kernel::linear::Weight;
use crate::load::{Loader, raw};
use crate::lora::LoraAdapter;
use crate::trace::span;
use crate::weights::{LayerTensor, RawTensor, TensorId, WeightError, WeightSource};

/// `y = Σ_j weights_j · expert_j(x)` over the experts that the router chose.
#[derive(Module, Debug)]
pub struct SparseMoe {
    /// Chooses the experts of a token.
    pub router: Router,
    /// The gated MLPs.
    pub experts: Experts,
    /// The adapters of each expert; none if no expert is adapted.
    pub lora: Vec<ExpertLora>,
}

impl SparseMoe {
    /// The weighted sum of the chosen experts, fused unless they have adapters.
    fn experts(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let (weights, chosen) = (routing.weights.clone(), routing.experts.clone());
        if self.lora.is_empty() {
            return expert_mlp(x, weights, chosen, &self.experts);
        }
        expert_mlp_grouped(x, weights, chosen, self.lora.len(), |index, tokens, x| self.expert(index, tokens).output(x))
    }

    /// With a bias for the choice of experts, `[num_local_experts]`; none if it is empty.
    ///
    /// # Panics
    /// If there is another number of experts.
    #[must_use]
    pub(super) fn with_selection_bias(self, selection_bias: Vec<f32>) -> Self {
        let [num_experts, _, _] = self.experts.dims();
        assert!(selection_bias.is_empty() || selection_bias.len() == num_experts, "a bias for each of {num_experts}");
        Self { router: Router { selection_bias, ..self.router }, ..self }
    }

    /// One expert as an MLP of some tokens.
    fn expert(&self, index: usize, tokens: &[usize]) -> GatedMlp {
        let [gate_proj, up_proj, down_proj] = self.experts.weights(index).map(Linear::from);
        let ExpertLora { w1, w2, w3 } = self.lora[index].clone().select(tokens);
        GatedMlp {
            gate_proj: Linear { lora: w1, ..gate_proj },
            up_proj: Linear { lora: w3, ..up_proj },
            down_proj: Linear { lora: w2, ..down_proj },
        }
    }
}

impl FeedForward for SparseMoe {
    const NAME: &'static str = "moe";

    fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let moe = config.moe.expect("a sparse decoder is loaded from a source with experts");
        let gate = Weight::Float(loader.param(TensorId::Layer(layer, LayerTensor::Router))?).into();
        let router = Router { gate, num_experts_per_tok: moe.num_experts_per_tok, selection_bias: Vec::new() };
        Ok(Self { router, experts: loader.experts(layer, moe.num_local_experts)?, lora: Vec::new() })
    }

    fn forward(&self, residual: Tensor<3>, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        let shape = x.dims();
        let tokens = x.reshape([shape[0] * shape[1], shape[2]]);
        let routing = {
            let _span = span("router");
            self.router.forward(tokens.clone())
        };
        let y = {
            let _span = span("experts");
            self.experts(tokens, &routing)
        };
        let _span = span("residual");
        (residual + y.reshape(shape), Some(routing))
    }

    fn waits_for_host(&self, num_tokens: usize) -> bool {
        let num_visits = num_tokens * self.router.num_experts_per_tok;
        let is_grouped = self.experts.is_grouped(&self.router.gate.weight.device(), num_visits);
        is_grouped || !self.lora.is_empty() || !self.router.selection_bias.is_empty()
    }

    fn adapted(self, adapter: Option<&LoraAdapter>, layer: usize) -> Self {
        let update = |tensor| update_of(adapter, TensorId::Layer(layer, tensor));
        let device = self.router.gate.weight.device();
        let expert = |index| ExpertLora::new(|of| update(LayerTensor::Expert(index, of)), &device);
        let [num_experts, _, _] = self.experts.dims();
        let mut lora: Vec<ExpertLora> = (0..num_experts).map(expert).collect();
        if lora.iter().all(ExpertLora::is_empty) {
            lora.clear();
        }
        let router = Router { gate: self.router.gate.adapted(update(LayerTensor::Router)), ..self.router };
        Self { router, experts: self.experts, lora }
    }

    fn map_lora(self, map: &dyn Fn(LayerTensor, Lora) -> Lora) -> Self {
        let gate = self.router.gate.map_lora(|lora| map(LayerTensor::Router, lora));
        let expert =
            |(index, lora): (usize, ExpertLora)| lora.map(|of, lora| map(LayerTensor::Expert(index, of), lora));
        let lora = self.lora.into_iter().enumerate().map(expert).collect();
        Self { router: Router { gate, ..self.router }, experts: self.experts, lora }
    }

    fn lora(&self, tensor: LayerTensor) -> Option<&Lora> {
        match tensor {
            LayerTensor::Router => self.router.gate.lora.as_ref(),
            LayerTensor::Expert(index, projection) => self.lora.get(index)?.of(projection),
            _ => None,
        }
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::Router => self.router.gate.raw(),
            LayerTensor::Expert(index, projection) => {
                merged(raw(self.experts.floats(index)[projection as usize].clone()), self.lora(tensor))
            }
            other => panic!("a mixture of experts has no {other:?}"),
        }
    }
}
