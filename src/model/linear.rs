//! Layers that are one matrix: a linear map and a table of embeddings.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::kernel::embedding::embedding;
use crate::kernel::linear::{Weight, gated_linear, linear_add, linear_all};
use crate::kernel::linear_cross_entropy::linear_cross_entropy;

/// `y = x·Wᵀ`, without bias. Every product of a decoder goes through the methods of this type, except those of stacked
/// experts.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
}

impl Linear {
    /// `[.., in]` to `[.., out]`.
    ///
    /// # Panics
    /// If the last axis of `x` is not `in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [y] = Self::forward_all([self], x);
        y
    }

    /// [`forward`](Self::forward) of several maps of one `x`, fused.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_all<const D: usize, const N: usize>(maps: [&Self; N], x: Tensor<D>) -> [Tensor<D>; N] {
        linear_all(x, maps.map(|map| &map.weight))
    }

    /// `residual + y`, fused.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if the shape of the residual is not that of `y`.
    pub fn forward_add<const D: usize>(&self, residual: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        linear_add(residual, x, &self.weight)
    }

    /// `silu(gate(x)) ∘ up(x)`, fused.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if the shapes of the maps differ.
    pub fn forward_gated<const D: usize>(gate: &Self, up: &Self, x: Tensor<D>) -> Tensor<D> {
        gated_linear(x, &gate.weight, &up.weight)
    }

    /// `−ln softmax(y)[target]` of each row of `x`, in nats, without materializing `y`.
    ///
    /// # Shapes
    /// - `x`: `[num_tokens, in]`
    /// - `targets`, result: `[num_tokens]`
    ///
    /// # Panics
    /// As [`forward`](Self::forward), if there are no rows, or a target is not below `out`.
    pub fn cross_entropy(&self, x: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        linear_cross_entropy(x, &self.weight, targets)
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
