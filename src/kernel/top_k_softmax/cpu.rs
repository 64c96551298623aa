//! The choice of experts on the CPU: one pass over a token's scores per choice.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::IntTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{IntDType, TensorData};
use rayon::prelude::*;

use super::{TopKSoftmax, TopKSoftmaxBackward};
use crate::kernel::cpu::{dense, indices, tensor, values};

/// Tokens per task; fewer run on the calling thread.
const TOKENS: usize = 512;

impl TopKSoftmax for Flex {
    fn top_k_softmax(scores: FlexTensor, k: usize, dtype: IntDType) -> (FlexTensor, FlexTensor) {
        let scores = dense(scores);
        let [num_tokens, num_experts] = scores.shape().dims();
        let (mut weights, mut experts) = (vec![0.0; num_tokens * k], vec![0i64; num_tokens * k]);
        let of_tokens = |((scores, weights), experts): ((&[f32], &mut [f32]), &mut [i64])| {
            let tokens = scores.chunks_exact(num_experts).zip(weights.chunks_exact_mut(k));
            for ((scores, weights), experts) in tokens.zip(experts.chunks_exact_mut(k)) {
                choose(scores, experts);
                softmax(scores, experts, weights);
            }
        };
        if num_tokens <= TOKENS {
            of_tokens(((values(&scores), &mut weights), &mut experts));
        } else {
            let tasks = values(&scores).par_chunks(TOKENS * num_experts).zip(weights.par_chunks_mut(TOKENS * k));
            tasks.zip(experts.par_chunks_mut(TOKENS * k)).for_each(of_tokens);
        }
        let experts = FlexTensor::from_data(TensorData::new(experts, [num_tokens, k]));
        (tensor(weights, [num_tokens, k]), Flex::int_cast(experts, dtype))
    }
}

impl TopKSoftmaxBackward for Flex {
    fn top_k_softmax_backward(
        grad: FlexTensor,
        weights: FlexTensor,
        experts: FlexTensor,
        num_experts: usize,
    ) -> FlexTensor {
        let (grad, weights, experts) = (dense(grad), dense(weights), indices(&experts));
        let [num_tokens, k] = weights.shape().dims();
        let mut dscores = vec![0.0; num_tokens * num_experts];
        let tokens = values(&grad).chunks_exact(k).zip(values(&weights).chunks_exact(k)).zip(experts.chunks_exact(k));
        for (((grad, weights), experts), dscores) in tokens.zip(dscores.chunks_exact_mut(num_experts)) {
            let along: f32 = grad.iter().zip(weights).map(|(grad, weight)| grad * weight).sum();
            for ((grad, weight), expert) in grad.iter().zip(weights).zip(experts) {
                dscores[*expert] = weight * (grad - along);
            }
        }
        tensor(dscores, [num_tokens, num_experts])
    }
}

/// The experts with the largest scores, in descending order.
fn choose(scores: &[f32], experts: &mut [i64]) {
    for j in 0..experts.len() {
        let (chosen, rest) = experts.split_at_mut(j);
        let mut best: Option<usize> = None;
        for (expert, score) in scores.iter().enumerate() {
            let is_better = best.is_none_or(|best| is_above(*score, scores[best]));
            if is_better && !chosen.contains(&(expert as i64)) {
                best = Some(expert);
            }
        }
        rest[0] = best.expect("k is at most the number of experts") as i64;
    }
}

fn is_above(a: f32, b: f32) -> bool {
    a > b || a.is_nan() && !b.is_nan()
}

fn softmax(scores: &[f32], experts: &[i64], weights: &mut [f32]) {
    let highest = scores[experts[0] as usize];
    for (weight, expert) in weights.iter_mut().zip(experts) {
        *weight = (scores[*expert as usize] - highest).exp();
    }
    // Multiplied by the inverse, as Burn's softmax does, so that a bias of zero changes no bit of the weights.
    let inverse = 1.0 / weights.iter().sum::<f32>();
    weights.iter_mut().for_each(|weight| *weight *= inverse);
}
