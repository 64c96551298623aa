//! Cross entropy of next-token logits, without a matrix of log-probabilities.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// `−ln softmax(logits)[target]` of each row, in nats.
///
/// # Shapes
/// - `logits`: `[num_tokens, vocab_size]`
/// - `targets`, result: `[num_tokens]`
///
/// # Panics
/// If the number of targets is not that of rows, or a target is not below `vocab_size`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    assert_eq!(logits.dims()[0], targets.dims()[0], "cross_entropy: rows and targets");
    #[cfg(feature = "flex")]
    if super::hand_written(&logits.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::CrossEntropy>::cross_entropy_forward(
            logits.into_dispatch(),
            targets.into_dispatch(),
        ));
    }
    cross_entropy_reference(logits, targets)
}

/// The same by Burn's own operations.
pub fn cross_entropy_reference(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [num_tokens, _] = logits.dims();
    -log_softmax(logits, 1).gather(1, targets.reshape([num_tokens, 1])).reshape([num_tokens])
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
    use rayon::prelude::*;

    use crate::kernel::host::{dense, indices, log_sum_exp, softmax_in_place, tensor, values, vectorized};

    #[backend_extension(Flex, Autodiff)]
    pub trait CrossEntropy: Backend {
        fn cross_entropy_forward(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
    }

    pub trait CrossEntropyBackward: CrossEntropy {
        /// `dlogits = grad · (softmax(logits) − one_hot(target))`.
        fn cross_entropy_backward(
            grad: FloatTensor<Self>,
            logits: FloatTensor<Self>,
            targets: IntTensor<Self>,
        ) -> FloatTensor<Self>;
    }

    impl CrossEntropy for Flex {
        fn cross_entropy_forward(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
            let logits = dense(logits);
            let vocab_size = logits.shape()[1];
            let targets = indices(&targets);
            let mut out = vec![0.0; targets.len()];
            let rows = values(&logits).par_chunks_exact(vocab_size).zip(targets.into_par_iter());
            out.par_iter_mut().zip(rows).for_each(|(out, (row, target))| {
                assert!(target < vocab_size, "cross_entropy: target {target} of a vocabulary of {vocab_size}");
                *out = vectorized!(log_sum_exp(row)) - row[target];
            });
            let len = out.len();
            tensor(out, [len])
        }
    }

    impl CrossEntropyBackward for Flex {
        fn cross_entropy_backward(grad: FlexTensor, logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
            let (grad, logits) = (dense(grad), dense(logits));
            let vocab_size = logits.shape()[1];
            let mut out = vec![0.0; values(&logits).len()];
            let rows = values(&logits).par_chunks_exact(vocab_size);
            let scales = values(&grad).par_iter().zip(indices(&targets).into_par_iter());
            out.par_chunks_exact_mut(vocab_size).zip(rows.zip(scales)).for_each(|(out, (row, (scale, target)))| {
                vectorized!({
                    out.copy_from_slice(row);
                    softmax_in_place(out);
                    out.iter_mut().for_each(|p| *p *= scale);
                    out[target] -= scale;
                });
            });
            tensor(out, logits.shape())
        }
    }

    impl<B: CrossEntropyBackward, C: CheckpointStrategy> CrossEntropy for Autodiff<B, C> {
        fn cross_entropy_forward(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: CrossEntropyBackward> Backward<B, 1> for Step {
                type State = (FloatTensor<B>, IntTensor<B>);

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    if let [Some(node)] = ops.parents {
                        grads.register::<B>(node.id, B::cross_entropy_backward(grad, ops.state.0, ops.state.1));
                    }
                }
            }

            match Step.prepare::<C>([logits.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let logits = logits.into_primitive();
                    prep.finish((logits.clone(), targets.clone()), B::cross_entropy_forward(logits, targets))
                }
                OpsKind::UnTracked(prep) => prep.finish(B::cross_entropy_forward(logits.into_primitive(), targets)),
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn targets(num_tokens: usize, vocab_size: usize, device: &Device) -> Tensor<1, Int> {
        Tensor::<1, Int>::arange(0..num_tokens as i64, device).mul_scalar(7).remainder_scalar(vocab_size as i64)
    }

    #[test]
    fn the_kernel_gives_the_losses_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (rows, vocab_size) in [(1, 1), (5, 37), (40, 1000)] {
            let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 5.0), &device);
            let logits = random([rows, vocab_size]).require_grad();
            let scale = random([rows, 1]).reshape([rows]);
            let targets = targets(rows, vocab_size, &device);
            let run = |f: fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
                let loss = f(logits.clone(), targets.clone());
                let grads = (loss.clone() * scale.clone()).sum().backward();
                [loss.inner().into_data(), logits.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(cross_entropy).iter().zip(&run(cross_entropy_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-5));
            }
        }
    }

    #[test]
    fn uniform_logits_cost_the_logarithm_of_the_vocabulary() {
        let device = Device::flex();
        let loss = cross_entropy(Tensor::full([3, 49_152], 2.5, &device), targets(3, 49_152, &device));
        loss.into_data().assert_approx_eq::<f32>(
            &Tensor::<1>::full([3], 49_152f64.ln(), &device).into_data(),
            Tolerance::absolute(2e-5),
        );
    }

    #[test]
    #[should_panic(expected = "cross_entropy: target 4 of a vocabulary of 4")]
    fn a_target_beyond_the_vocabulary_is_refused() {
        let device = Device::flex();
        cross_entropy(Tensor::zeros([1, 4], &device), Tensor::<1, Int>::from_data([4], &device));
    }
}
