//! Root-mean-square normalization of the last axis.

use burn::tensor::{DType, Tensor};

/// A gain and an `ε`: what makes a norm of [`rms_norm`].
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[hidden_size]`.
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl Norm {
    /// [`rms_norm`] of the last axis.
    ///
    /// # Panics
    /// If the last axis of `x` is not that of the gain.
    pub fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.weight, self.epsilon)
    }
}

/// `y = x / √(mean(x²) + ε) ∘ weight` (Zhang & Sennrich, 2019, arXiv:1910.07467, §4).
///
/// # Shapes
/// - `x`, result: `[.., hidden_size]`, float32
/// - `weight`: `[hidden_size]`
///
/// # Panics
/// If the last axis of `x` is not that of `weight`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "rms_norm: last axis of x and weight");
    let weight = weight.cast(DType::F32);
    #[cfg(feature = "flex")]
    if super::has_kernel(&x.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::RmsNorm>::rms_norm_forward(
            x.into_dispatch(),
            weight.into_dispatch(),
            epsilon as f32,
        ));
    }
    rms_norm_reference(x, weight, epsilon)
}

/// The same by Burn's own operations.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let scale = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt().recip();
    x * scale * weight.unsqueeze()
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
    use rayon::prelude::*;

    use crate::kernel::cpu::{CHUNK, dense, for_each_chunk, sum_by, tensor, values, vectorized};

    #[backend_extension(Flex, Autodiff)]
    pub trait RmsNorm: Backend {
        fn rms_norm_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    }

    pub trait RmsNormBackward: RmsNorm {
        /// With `r = 1/√(mean(x²)+ε)` and `g = dy ∘ weight`: `dx = r·(g − x·r²·mean(g∘x))`, `dweight = Σ dy∘x·r`.
        fn rms_norm_backward(
            grad: FloatTensor<Self>,
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            epsilon: f32,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);
    }

    /// Rows that one task normalizes.
    fn rows_per_task(width: usize) -> usize {
        (CHUNK / width).max(1)
    }

    #[inline(always)]
    fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
        (sum_by(x.len(), |i| x[i] * x[i]) / x.len() as f32 + epsilon).sqrt().recip()
    }

    impl RmsNorm for Flex {
        fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, epsilon: f32) -> FlexTensor {
            let (x, weight) = (dense(x), dense(weight));
            let (w, width) = (values(&weight), values(&weight).len());
            let mut out = vec![0.0; values(&x).len()];
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
        ) -> (FlexTensor, FlexTensor) {
            let (grad, x, weight) = (dense(grad), dense(x), dense(weight));
            let (w, width) = (values(&weight), values(&weight).len());
            let mut dx = vec![0.0; values(&x).len()];
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
                            for i in 0..width {
                                dx[i] = scale * (grad[i] * w[i] - x[i] * along);
                                dw[i] += grad[i] * x[i] * scale;
                            }
                        }
                    });
                    dw
                })
                .collect();
            let mut dw = vec![0.0; width];
            for partial in partial {
                dw.iter_mut().zip(partial).for_each(|(sum, term)| *sum += term);
            }
            (tensor(dx, x.shape()), tensor(dw, weight.shape()))
        }
    }

    impl<B: RmsNormBackward, C: CheckpointStrategy> RmsNorm for Autodiff<B, C> {
        fn rms_norm_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: RmsNormBackward> Backward<B, 2> for Step {
                type State = (FloatTensor<B>, FloatTensor<B>, f32);

                fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    let (x, weight, epsilon) = ops.state;
                    let (dx, dweight) = B::rms_norm_backward(grad, x, weight, epsilon);
                    for (node, gradient) in ops.parents.into_iter().zip([dx, dweight]) {
                        if let Some(node) = node {
                            grads.register::<B>(node.id, gradient);
                        }
                    }
                }
            }

            match Step.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let (x, weight) = (x.into_primitive(), weight.into_primitive());
                    prep.finish((x.clone(), weight.clone(), epsilon), B::rms_norm_forward(x, weight, epsilon))
                }
                OpsKind::UnTracked(prep) => {
                    prep.finish(B::rms_norm_forward(x.into_primitive(), weight.into_primitive(), epsilon))
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (rows, width) in [(1, 1), (3, 17), (500, 96)] {
            let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.5, 2.0), &device);
            let x = random([rows, width]).require_grad();
            let weight = random([1, width]).reshape([width]).detach().require_grad();
            let scale = random([rows, width]);
            let run = |f: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>| {
                let y = f(x.clone(), weight.clone(), 1e-5);
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data(), weight.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(rms_norm).iter().zip(&run(rms_norm_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    #[test]
    fn a_row_of_unit_weight_has_mean_square_one() {
        let device = Device::flex();
        let x = Tensor::<2>::random([5, 64], Distribution::Normal(3.0, 9.0), &device);
        let y = rms_norm(x, Tensor::ones([64], &device), 1e-12);
        y.square()
            .mean_dim(1)
            .into_data()
            .assert_approx_eq::<f32>(&Tensor::<2>::ones([5, 1], &device).into_data(), Tolerance::absolute(1e-5));
    }
}
