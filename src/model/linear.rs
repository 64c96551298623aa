//! Layers that are one matrix: a linear map and a table of embeddings.

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, activation::log_softmax};

use super::lora::{Lora, merged};
use crate::kernel::embedding::embedding;
use crate::kernel::linear::{Weight, gated_linear, linear_add, linear_all};
use crate::kernel::linear_cross_entropy::{Upstream, linear_cross_entropy_for};
use crate::kernel::silu_mul::silu_mul;
use crate::load::raw_of;
use crate::weights::{LowRank, RawTensor};

/// `y = x·Wᵀ`, without bias, or `y = x·Wᵀ + s·(xA)B` with an adapter. Every product of a decoder goes through the methods
/// of this type, except those of stacked experts.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// The adapter, whose products are added to those of the weight.
    pub lora: Option<Lora>,
}

impl From<Weight> for Linear {
    fn from(weight: Weight) -> Self {
        Self { weight, lora: None }
    }
}

impl Linear {
    /// The map with an adapter of these values, or without one.
    #[must_use]
    pub fn adapted(self, update: Option<&LowRank>) -> Self {
        let lora = update.map(|update| Lora::new(update, &self.weight.device()));
        Self { lora, ..self }
    }

    /// The map with its adapter changed, if it has one.
    #[must_use]
    pub(super) fn map_lora(self, map: impl FnOnce(Lora) -> Lora) -> Self {
        Self { lora: self.lora.map(map), ..self }
    }

    /// The values of one matrix that computes the same, in the type of the weight.
    pub(super) fn raw(&self) -> RawTensor {
        merged(raw_of(&self.weight), self.lora.as_ref())
    }

    /// `[.., in]` to `[.., out]`, float32.
    ///
    /// # Panics
    /// If the last axis of `x` is not `in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [y] = Self::forward_all([self], x);
        y.cast(DType::F32)
    }

    /// [`forward`](Self::forward) of several maps of one `x`, fused; in the type of [products](crate::kernel::linear).
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_all<const D: usize, const N: usize>(maps: [&Self; N], x: Tensor<D>) -> [Tensor<D>; N] {
        let weights = maps.map(|map| &map.weight);
        if maps.iter().all(|map| map.lora.is_none()) {
            return linear_all(x, weights);
        }
        let mut products = linear_all(x.clone(), weights).into_iter();
        maps.map(|map| {
            let y = products.next().expect("one product per map");
            match &map.lora {
                Some(lora) => lora.add(y, x.clone()),
                None => y,
            }
        })
    }

    /// `residual + y`, fused.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if the shape of the residual is not that of `y`.
    pub fn forward_add<const D: usize>(&self, residual: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        let Some(lora) = &self.lora else { return linear_add(residual, x, &self.weight) };
        lora.add(linear_add(residual, x.clone(), &self.weight), x)
    }

    /// `silu(gate(x)) ∘ up(x)`, fused; in the type of [products](crate::kernel::linear).
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if the shapes of the maps differ.
    pub fn forward_gated<const D: usize>(gate: &Self, up: &Self, x: Tensor<D>) -> Tensor<D> {
        if gate.lora.is_none() && up.lora.is_none() {
            return gated_linear(x, &gate.weight, &up.weight);
        }
        let [gate, up] = Self::forward_all([gate, up], x);
        silu_mul(gate, up)
    }

    /// `−ln softmax(y)[target]` of each row of `x`, in nats; `upstream` is the gradient that these will get. Materializes `y` only
    /// under an adapter.
    ///
    /// # Shapes
    /// - `x`: `[num_tokens, in]`
    /// - `targets`, result: `[num_tokens]`
    ///
    /// # Panics
    /// As [`forward`](Self::forward), if there are no rows, or a target is not below `out`.
    pub fn cross_entropy(&self, x: Tensor<2>, targets: Tensor<1, Int>, upstream: Upstream) -> Tensor<1> {
        if self.lora.is_none() {
            return linear_cross_entropy_for(x, &self.weight, targets, upstream);
        }
        let num_tokens = x.dims()[0];
        let log_probabilities = log_softmax(self.forward(x), 1);
        -log_probabilities.gather(1, targets.reshape([num_tokens, 1])).reshape([num_tokens])
    }
}

/// A row for every token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, hidden_size]`.
    pub weight: Weight,
}

impl Embedding {
    /// `[batch_size, seq_length]` to `[batch_size, seq_length, hidden_size]`.
    ///
    /// # Panics
    /// If an id is not below `vocab_size`.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Weight::Float(table) | Weight::Mixed(table) => embedding(table.val(), tokens),
            Weight::Quantized(table) => table.rows(tokens),
        }
    }
}
