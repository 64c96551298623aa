//! The two layers that are one matrix: a linear map and a table of embeddings.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use super::Weight;
use crate::kernel::embedding::{embedding, quantized_embedding};
use crate::kernel::projections;

/// `y = x·Wᵀ`, without bias.
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
        let [y] = projections::projections(x, None, [self.weight.val()]);
        y
    }

    /// The same, added to `residual`: `[.., out]`.
    ///
    /// # Panics
    /// If the last axis of `x` is not `in`, or the residual has not the shape of the result.
    pub fn forward_onto<const D: usize>(&self, residual: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        projections::linear_add(residual, x, self.weight.val())
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
        match self.weight.val() {
            projections::Weight::Float(table) => embedding(table, tokens),
            projections::Weight::Quantized(table) => quantized_embedding(&table, tokens),
        }
    }
}
