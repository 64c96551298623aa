//! The choice of experts in CubeCL: one unit per token.

use burn::backend::{Cube, DType, TensorMetadata};
use burn::tensor::IntDType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{TopKSoftmax, TopKSoftmaxBackward};
use crate::kernel::cube::{empty, float_input, input, output, unit_for_each};

#[cube(launch)]
fn forward(scores: &[f32], weights: &mut [f32], experts: &mut [i32], num_tokens: usize, num_experts: usize, k: usize) {
    let token = ABSOLUTE_POS;
    if token >= num_tokens {
        terminate!();
    }
    let (scores_at, choices_at) = (token * num_experts, token * k);
    for j in 0..k {
        // No expert yet.
        let mut best = num_experts;
        let mut highest = 0.0f32;
        for expert in 0..num_experts {
            let mut is_chosen = false;
            for before in choices_at..choices_at + j {
                is_chosen = is_chosen || usize::cast_from(experts[before]) == expert;
            }
            if !is_chosen {
                let score = scores[scores_at + expert];
                if best == num_experts || score > highest || (score.is_nan() && !highest.is_nan()) {
                    best = expert;
                    highest = score;
                }
            }
        }
        experts[choices_at + j] = i32::cast_from(best);
        weights[choices_at + j] = highest;
    }
    let highest = weights[choices_at];
    let mut sum = 0.0f32;
    for j in choices_at..choices_at + k {
        let weight = (weights[j] - highest).exp();
        weights[j] = weight;
        sum += weight;
    }
    for j in choices_at..choices_at + k {
        weights[j] /= sum;
    }
}

#[cube(launch)]
fn backward(
    grad: &[f32],
    weights: &[f32],
    experts: &[i32],
    dscores: &mut [f32],
    num_tokens: usize,
    num_experts: usize,
    k: usize,
) {
    let token = ABSOLUTE_POS;
    if token >= num_tokens {
        terminate!();
    }
    let choices_at = token * k;
    let mut along = 0.0f32;
    for j in choices_at..choices_at + k {
        along += grad[j] * weights[j];
    }
    for expert in 0..num_experts {
        dscores[token * num_experts + expert] = 0.0f32;
    }
    for j in choices_at..choices_at + k {
        dscores[token * num_experts + usize::cast_from(experts[j])] = weights[j] * (grad[j] - along);
    }
}

impl TopKSoftmax for Cube {
    fn top_k_softmax(scores: CubeTensor, k: usize, dtype: IntDType) -> (CubeTensor, CubeTensor) {
        let [num_tokens, num_experts] = scores.shape().dims();
        let weights = empty([num_tokens, k], DType::F32, &scores);
        let experts = empty([num_tokens, k], DType::I32, &scores);
        let (cubes, units) = unit_for_each(num_tokens, &scores);
        forward::launch(
            &scores.client,
            cubes,
            units,
            float_input(&scores),
            output(&weights),
            output(&experts),
            num_tokens,
            num_experts,
            k,
        );
        (weights, burn_cubecl::kernel::cast(experts, dtype.into()))
    }
}

impl TopKSoftmaxBackward for Cube {
    fn top_k_softmax_backward(
        grad: CubeTensor,
        weights: CubeTensor,
        experts: CubeTensor,
        num_experts: usize,
    ) -> CubeTensor {
        let num_tokens = weights.shape()[0];
        let k = weights.shape()[1];
        let dscores = empty([num_tokens, num_experts], DType::F32, &weights);
        let experts = burn_cubecl::kernel::cast(experts, DType::I32);
        let (cubes, units) = unit_for_each(num_tokens, &weights);
        backward::launch(
            &weights.client,
            cubes,
            units,
            float_input(&grad),
            float_input(&weights),
            input(&experts),
            output(&dscores),
            num_tokens,
            num_experts,
            k,
        );
        dscores
    }
}
