//! RMSNorm on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{RmsNorm, RmsNormBackward};
use crate::kernel::cpu::{CHUNK, dense, empty, for_each_chunk, sum_by, tensor, values, vectorized};

/// Rows per task.
fn rows_per_task(width: usize) -> usize {
    (CHUNK / width).max(1)
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    (sum_by(x.len(), |i| x[i] * x[i]) / x.len() as f32 + epsilon).sqrt().recip()
}

impl RmsNorm for Flex {
    fn rms_norm(x: FlexTensor, weight: FlexTensor, epsilon: f32) -> FlexTensor {
        let (x, weight) = (dense(x), dense(weight));
        let (w, width) = (values(&weight), values(&weight).len());
        let mut out = empty(values(&x).len());
        let task = rows_per_task(width) * width;
        for_each_chunk(&mut out, task, |(index, out)| {
            let x = &values(&x)[index * task..][..out.len()];
            vectorized!({
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let scale = inverse_rms(x, epsilon);
                    for i in 0..width {
                        out[i] = x[i] * scale * w[i];
                    }
                }
            });
        });
        tensor(out, x.shape())
    }
}

impl RmsNormBackward for Flex {
    fn rms_norm_backward(
        grad: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        epsilon: f32,
        of_weight: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let (grad, x, weight) = (dense(grad), dense(x), dense(weight));
        let (w, width) = (values(&weight), values(&weight).len());
        let mut dx = empty(values(&x).len());
        let task = rows_per_task(width) * width;
        let inputs = values(&grad).par_chunks(task).zip(values(&x).par_chunks(task));
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(task)
            .zip(inputs)
            .map(|(dx, (grad, x))| {
                let mut dw = vec![0.0; width];
                vectorized!({
                    let rows = grad.chunks_exact(width).zip(x.chunks_exact(width));
                    for (dx, (grad, x)) in dx.chunks_exact_mut(width).zip(rows) {
                        let scale = inverse_rms(x, epsilon);
                        let along = sum_by(width, |i| grad[i] * w[i] * x[i]) / width as f32 * scale * scale;
                        let dx_at = |i: usize| scale * (grad[i] * w[i] - x[i] * along);
                        if of_weight {
                            for i in 0..width {
                                dx[i] = dx_at(i);
                                dw[i] += grad[i] * x[i] * scale;
                            }
                        } else {
                            (0..width).for_each(|i| dx[i] = dx_at(i));
                        }
                    }
                });
                dw
            })
            .collect();
        let dw = of_weight.then(|| {
            let mut dw = vec![0.0; width];
            for partial in partial {
                dw.iter_mut().zip(partial).for_each(|(sum, term)| *sum += term);
            }
            tensor(dw, weight.shape())
        });
        (tensor(dx, x.shape()), dw)
    }
}
