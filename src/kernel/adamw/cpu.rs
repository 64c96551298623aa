//! AdamW on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{AdamWOps, AdamWStep};
use crate::kernel::cpu::{CHUNK, dense, sum_by, tensor, values, vectorized};

/// The tensor in an unshared buffer that it spans: copied if necessary.
fn owned(x: FlexTensor) -> FlexTensor {
    let mut x = dense(x);
    let spans_buffer = x.layout().contiguous_offsets() == Some((0, x.storage::<f32>().len()));
    if spans_buffer && x.try_storage_mut::<f32>().is_some() {
        return x;
    }
    tensor(values(&x).to_vec(), x.shape())
}

impl AdamWOps for Flex {
    fn adamw_update(
        param: FlexTensor,
        moment1: FlexTensor,
        moment2: FlexTensor,
        grad: FlexTensor,
        step: AdamWStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [mut param, mut moment1, mut moment2] = [param, moment1, moment2].map(owned);
        let grad = dense(grad);
        let (correction1, correction2) = step.corrections();
        let (beta1, beta2, epsilon) = (step.beta1 as f32, step.beta2 as f32, step.epsilon as f32);
        let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
        let keep = (1.0 - step.learning_rate * step.weight_decay) as f32;
        let rate = (step.learning_rate * correction1) as f32;
        let (root2, scale) = (correction2.sqrt() as f32, step.gradient_scale as f32);
        let moments =
            moment1.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(moment2.storage_mut::<f32>().par_chunks_mut(CHUNK));
        let updates = param.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(values(&grad).par_chunks(CHUNK));
        updates.zip(moments).for_each(|((param, grad), (m, v))| {
            vectorized!({
                for i in 0..grad.len() {
                    let g = grad[i] * scale;
                    m[i] = beta1 * m[i] + rest1 * g;
                    v[i] = beta2 * v[i] + rest2 * g * g;
                    param[i] = keep * param[i] - rate * m[i] / (v[i].sqrt() * root2 + epsilon);
                }
            });
        });
        (param, moment1, moment2)
    }

    fn squares_by_chunk(x: FlexTensor) -> FlexTensor {
        let x = dense(x);
        let squares = |x: &[f32]| vectorized!(sum_by(x.len(), |i| x[i] * x[i]));
        let sums: Vec<f32> = values(&x).par_chunks(CHUNK).map(squares).collect();
        let len = sums.len();
        tensor(sums, [len])
    }
}
