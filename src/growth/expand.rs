//! Growing deep without a change of function: block expansion.

use std::fmt;

use serde::Serialize;

use super::{LayerPlan, PlanError, Recipe};
use crate::weights::{LayerTensor, Projection, TensorId};

/// Copies of layers inserted as identity blocks: the two matrices by which a layer adds to the residual stream,
/// `o_proj` and `down_proj`, start as zeros, so the decoder computes the function of its source (Wu et al., 2024,
/// arXiv:2401.02415, §3.2: LLaMA Pro).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockExpansion {
    layers: LayerPlan,
    identity: Vec<bool>,
}

impl BlockExpansion {
    /// `num_blocks` identity blocks in a source of `n = num_layers` layers: the layers in groups of `n / num_blocks`,
    /// each followed by a copy of its last.
    ///
    /// ```
    /// use deepwide::growth::BlockExpansion;
    /// let llama_pro = BlockExpansion::identity_blocks(32, 8)?;
    /// assert_eq!(llama_pro.layers().as_slice().len(), 40);
    /// # Ok::<(), deepwide::growth::PlanError>(())
    /// ```
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::BlocksDoNotDivide`] if `num_blocks` is 0 or no divisor of `num_layers`,
    /// [`PlanError::TooManyLayers`].
    pub fn identity_blocks(num_layers: usize, num_blocks: usize) -> Result<Self, PlanError> {
        let source = LayerPlan::identity(num_layers)?;
        if num_blocks == 0 || !num_layers.is_multiple_of(num_blocks) {
            return Err(PlanError::BlocksDoNotDivide { num_blocks, num_layers });
        }
        let group = num_layers / num_blocks;
        let ranges: Vec<_> = source
            .as_slice()
            .chunks(group)
            .flat_map(|group| [group[0]..group[0] + group.len(), group[group.len() - 1]..group[0] + group.len()])
            .collect();
        let identity = (0..num_layers + num_blocks).map(|layer| layer % (group + 1) == group).collect();
        Ok(Self { layers: LayerPlan::from_ranges(num_layers, &ranges)?, identity })
    }

    /// Which layer of the source each layer copies.
    pub fn layers(&self) -> &LayerPlan {
        &self.layers
    }

    /// The layers of the result that are identity blocks, in order.
    pub fn identity_layers(&self) -> Vec<usize> {
        (0..self.identity.len()).filter(|&layer| self.identity[layer]).collect()
    }

    pub(super) fn recipe(&self, id: TensorId) -> Recipe {
        let source = self.layers.source_of(id);
        match id {
            TensorId::Layer(layer, tensor) if self.identity[layer] && writes_to_the_residual_stream(tensor) => {
                Recipe::Zero { like: source }
            }
            _ => Recipe::Copy { source },
        }
    }
}

fn writes_to_the_residual_stream(tensor: LayerTensor) -> bool {
    matches!(tensor, LayerTensor::OProj | LayerTensor::Mlp(Projection::Down) | LayerTensor::Expert(_, Projection::Down))
}

/// `0..4 ++ 3..8 ++ 7..8 (10 layers), identity blocks 4, 9`.
impl fmt::Display for BlockExpansion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let blocks: Vec<String> = self.identity_layers().iter().map(usize::to_string).collect();
        write!(f, "{}, identity blocks {}", self.layers, blocks.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_of_layers_is_followed_by_a_copy_of_its_last() {
        let plan = BlockExpansion::identity_blocks(6, 3).unwrap();
        assert_eq!(plan.layers().as_slice(), [0, 1, 1, 2, 3, 3, 4, 5, 5]);
        assert_eq!(plan.identity_layers(), [2, 5, 8]);
        let plan = BlockExpansion::identity_blocks(8, 2).unwrap();
        assert_eq!(plan.to_string(), "0..4 ++ 3..8 ++ 7..8 (10 layers), identity blocks 4, 9");
    }

    #[test]
    fn blocks_share_the_layers_out_evenly() {
        for num_blocks in [0, 5, 9] {
            let error = BlockExpansion::identity_blocks(8, num_blocks).unwrap_err();
            let message = "identity blocks, expected a divisor of num_hidden_layers 8";
            assert_eq!(error.to_string(), format!("{num_blocks} {message}"));
        }
        assert_eq!(BlockExpansion::identity_blocks(0, 1).unwrap_err(), PlanError::NoLayers);
        assert_eq!(BlockExpansion::identity_blocks(8, 8).unwrap().identity_layers(), [1, 3, 5, 7, 9, 11, 13, 15]);
    }

    #[test]
    fn only_what_adds_to_the_residual_stream_of_an_identity_block_is_zero() {
        let plan = BlockExpansion::identity_blocks(4, 2).unwrap();
        let down = |layer| TensorId::Layer(layer, LayerTensor::Mlp(Projection::Down));
        assert_eq!(plan.recipe(down(2)), Recipe::Zero { like: down(1) });
        assert_eq!(plan.recipe(down(3)), Recipe::Copy { source: down(2) });
        let gate = |layer| TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate));
        assert_eq!(plan.recipe(gate(2)), Recipe::Copy { source: gate(1) });
        assert_eq!(plan.recipe(TensorId::Norm), Recipe::Copy { source: TensorId::Norm });
    }
}
