//! Cross entropy of the next token from hidden states: the matrix of logits never stands whole.
//!
//! Logits are made for some tokens at a time, and overwritten with their gradient while they are in the cache, so that
//! what backward wants is there when forward ends (Hsu et al., 2024, arXiv:2410.10989, §3.2): nothing is computed twice, and
//! of the vocabulary times the tokens, nothing is kept.

use burn::tensor::{Int, Tensor, activation::log_softmax};

use super::projections::{Weight, projections_reference};

/// Mean of `−ln softmax(hidden·weightᵀ)[target]` over the tokens, in nats.
///
/// # Shapes
/// - `hidden`: `[num_tokens, hidden_size]`, float32
/// - `weight`: `[vocab_size, hidden_size]`
/// - `targets`: `[num_tokens]`
/// - result: `[1]`
///
/// # Panics
/// If the sizes disagree, there are no tokens, or a target is not below `vocab_size`.
pub fn linear_cross_entropy(hidden: Tensor<2>, weight: Weight, targets: Tensor<1, Int>) -> Tensor<1> {
    let ([num_tokens, hidden_size], [vocab_size, in_features]) = (hidden.dims(), weight.dims());
    assert_eq!(hidden_size, in_features, "linear_cross_entropy: hidden_size and in_features");
    assert_eq!(num_tokens, targets.dims()[0], "linear_cross_entropy: tokens and targets");
    assert!(num_tokens > 0, "linear_cross_entropy: a mean of no tokens");
    super::flop_counter::add(num_tokens * vocab_size * hidden_size);
    #[cfg(feature = "flex")]
    if super::has_kernel(&hidden.device()) {
        return flex::linear_cross_entropy(hidden, weight, targets);
    }
    linear_cross_entropy_reference(hidden, weight, targets)
}

/// The same by Burn's own operations, with all logits at once.
pub fn linear_cross_entropy_reference(hidden: Tensor<2>, weight: Weight, targets: Tensor<1, Int>) -> Tensor<1> {
    let [num_tokens, _] = hidden.dims();
    let [logits] = projections_reference(hidden, None, [weight]);
    -log_softmax(logits, 1).gather(1, targets.reshape([num_tokens, 1])).mean()
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
    use burn::tensor::{Int, Tensor};
    use rayon::prelude::*;

    use super::Weight;
    use crate::kernel::cpu::{
        Mat, MatMut, Matrix, Threads, WeightRows, dense, exponentials_in_place, gemm, indices, products, tensor,
        values, vectorized,
    };
    use crate::kernel::projections::flex::{Held, primitive, takes};
    use crate::kernel::quantized_linear::dequantized;

    /// Tokens whose logits stand at once.
    const CHUNK: usize = 256;

    pub fn linear_cross_entropy(hidden: Tensor<2>, weight: Weight, targets: Tensor<1, Int>) -> Tensor<1> {
        if takes(&hidden) {
            let targets = targets.try_into_primitive::<Flex>().expect("on the device of the states");
            let loss = mean_loss(&dense(primitive(hidden)), Held::new(weight).matrix(), &targets);
            return Tensor::from_primitive::<Flex>(tensor(vec![loss], [1]));
        }
        let weight = match weight {
            Weight::Float(weight) => weight,
            Weight::Quantized(weight) => dequantized(&weight, &hidden.device()),
        };
        Tensor::from_dispatch(<burn::backend::Dispatch as LinearCrossEntropy>::linear_cross_entropy_forward(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub trait LinearCrossEntropy: Backend {
        fn linear_cross_entropy_forward(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            targets: IntTensor<Self>,
        ) -> FloatTensor<Self>;
    }

    pub trait LinearCrossEntropyGradients: LinearCrossEntropy {
        /// The loss, and its gradients with respect to the states and, if it is wanted, to the weight.
        fn with_gradients(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            targets: IntTensor<Self>,
            of_weight: bool,
        ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>);

        /// A gradient times that of the loss.
        fn scaled(gradient: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    impl LinearCrossEntropy for Flex {
        fn linear_cross_entropy_forward(hidden: FlexTensor, weight: FlexTensor, targets: FlexTensor) -> FlexTensor {
            let weight = weight.to_contiguous();
            let loss = mean_loss(&dense(hidden), Matrix::Rows(WeightRows::of(&weight)), &targets);
            tensor(vec![loss], [1])
        }
    }

    fn mean_loss(hidden: &FlexTensor, weight: Matrix<'_>, targets: &FlexTensor) -> f32 {
        let (hidden_size, targets) = (hidden.shape()[1], indices(targets));
        let vocab_size = weight.rows(hidden_size).expect("sizes were compared before");
        let mut sum = 0.0;
        in_chunks(values(hidden), [vocab_size, hidden_size], &targets, |_, states, targets, logits| {
            products(states, hidden_size, vec![(weight, &mut *logits)], false, Threads::Pool);
            sum += losses(logits, targets, None);
        });
        (sum / targets.len() as f64) as f32
    }

    impl LinearCrossEntropyGradients for Flex {
        fn with_gradients(
            hidden: FlexTensor,
            weight: FlexTensor,
            targets: FlexTensor,
            of_weight: bool,
        ) -> (FlexTensor, FlexTensor, Option<FlexTensor>) {
            let (hidden, weight, targets) = (dense(hidden), dense(weight), indices(&targets));
            let (vocab_size, hidden_size) = (weight.shape()[0], weight.shape()[1]);
            let share = 1.0 / targets.len() as f32;
            let mut d_hidden = vec![0.0; values(&hidden).len()];
            let mut d_weight = of_weight.then(|| vec![0.0; values(&weight).len()]);
            let matrix = Mat::new(values(&weight), vocab_size, hidden_size);
            let mut sum = 0.0;
            in_chunks(values(&hidden), [vocab_size, hidden_size], &targets, |first, states, targets, logits| {
                let tokens = targets.len();
                let d_states = &mut d_hidden[first * hidden_size..(first + tokens) * hidden_size];
                let states = Mat::new(states, tokens, hidden_size);
                gemm(MatMut::new(logits, tokens, vocab_size), false, states, matrix.t(), Threads::Pool);
                sum += losses(logits, targets, Some(share));
                let d_logits = Mat::new(logits, tokens, vocab_size);
                gemm(MatMut::new(d_states, tokens, hidden_size), false, d_logits, matrix, Threads::Pool);
                if let Some(d_weight) = &mut d_weight {
                    let d_weight = MatMut::new(d_weight, vocab_size, hidden_size);
                    gemm(d_weight, first > 0, d_logits.t(), states, Threads::Pool);
                }
            });
            let loss = (sum / targets.len() as f64) as f32;
            let d_weight = d_weight.map(|d_weight| tensor(d_weight, weight.shape()));
            (tensor(vec![loss], [1]), tensor(d_hidden, hidden.shape()), d_weight)
        }

        fn scaled(gradient: FlexTensor, by: FlexTensor) -> FlexTensor {
            let factor = values(&dense(by))[0];
            if factor == 1.0 { gradient } else { Flex::float_mul_scalar(gradient, factor.into()) }
        }
    }

    /// Calls `body` with the index of a token, the states of some from it on, their targets, and room for their logits,
    /// until all are through.
    fn in_chunks(
        hidden: &[f32],
        [vocab_size, hidden_size]: [usize; 2],
        targets: &[usize],
        mut body: impl FnMut(usize, &[f32], &[usize], &mut [f32]),
    ) {
        if let Some(target) = targets.iter().find(|&&target| target >= vocab_size) {
            panic!("cross_entropy: target {target} of a vocabulary of {vocab_size}");
        }
        let mut logits = vec![0.0; CHUNK.min(targets.len()) * vocab_size];
        let chunks = hidden.chunks(CHUNK * hidden_size).zip(targets.chunks(CHUNK));
        for (index, (states, targets)) in chunks.enumerate() {
            body(index * CHUNK, states, targets, &mut logits[..targets.len() * vocab_size]);
        }
    }

    /// The sum of the losses of rows of logits; if `share` is given, `share · (softmax(logits) − one_hot(target))` stands
    /// in their place afterwards.
    fn losses(logits: &mut [f32], targets: &[usize], share: Option<f32>) -> f64 {
        let vocab_size = logits.len() / targets.len();
        let rows = logits.par_chunks_exact_mut(vocab_size).zip(targets);
        let of_rows = rows.map(|(row, &target)| {
            let of_target = row[target];
            let (largest, total) = vectorized!(exponentials_in_place(row));
            if let Some(share) = share {
                let scale = share / total;
                vectorized!(row.iter_mut().for_each(|p| *p *= scale));
                row[target] -= share;
            }
            largest + total.ln() - of_target
        });
        // In order, so that the sum has the same bits on any number of threads.
        of_rows.collect::<Vec<f32>>().into_iter().map(f64::from).sum()
    }

    impl<B: LinearCrossEntropyGradients, C: CheckpointStrategy> LinearCrossEntropy for Autodiff<B, C> {
        fn linear_cross_entropy_forward(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            targets: IntTensor<Self>,
        ) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: LinearCrossEntropyGradients> Backward<B, 2> for Step {
                type State = (FloatTensor<B>, Option<FloatTensor<B>>);

                fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    let (d_hidden, d_weight) = ops.state;
                    let [hidden_node, weight_node] = ops.parents;
                    if let (Some(node), Some(d_weight)) = (weight_node, d_weight) {
                        grads.register::<B>(node.id, B::scaled(d_weight, grad.clone()));
                    }
                    if let Some(node) = hidden_node {
                        grads.register::<B>(node.id, B::scaled(d_hidden, grad));
                    }
                }
            }

            let of_weight = weight.is_tracked();
            match Step.prepare::<C>([hidden.node(), weight.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
                    let (loss, d_hidden, d_weight) = B::with_gradients(hidden, weight, targets, of_weight);
                    prep.finish((d_hidden, d_weight), loss)
                }
                OpsKind::UnTracked(prep) => prep.finish(B::linear_cross_entropy_forward(
                    hidden.into_primitive(),
                    weight.into_primitive(),
                    targets,
                )),
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{DType, Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;
    use crate::kernel::quantized_linear::{BlockFormat, QuantizedMatrix};

    fn targets(num_tokens: usize, vocab_size: usize, device: &Device) -> Tensor<1, Int> {
        Tensor::<1, Int>::arange(0..num_tokens as i64, device).mul_scalar(7).remainder_scalar(vocab_size as i64)
    }

    #[test]
    fn the_kernel_gives_the_loss_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (tokens, vocab_size, hidden_size) in [(1, 1, 1), (5, 37, 9), (300, 1000, 40), (513, 70, 16)] {
            let hidden = random([tokens, hidden_size], &device).require_grad();
            let weight = random([vocab_size, hidden_size], &device).require_grad();
            let targets = targets(tokens, vocab_size, &device);
            let run = |f: fn(Tensor<2>, Weight, Tensor<1, Int>) -> Tensor<1>| {
                let loss = f(hidden.clone(), Weight::Float(weight.clone()), targets.clone());
                let grads = (loss.clone() * 3.0).backward();
                [
                    loss.inner().into_data(),
                    hidden.grad(&grads).unwrap().into_data(),
                    weight.grad(&grads).unwrap().into_data(),
                ]
            };
            for (found, expected) in run(linear_cross_entropy).iter().zip(&run(linear_cross_entropy_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-5));
            }
        }
    }

    #[test]
    fn a_frozen_head_passes_gradients_on_and_gets_none() {
        let device = Device::flex().autodiff();
        let hidden = random([3, 8], &device).require_grad();
        let weight = random([5, 8], &device);
        let loss = linear_cross_entropy(hidden.clone(), Weight::Float(weight.clone()), targets(3, 5, &device));
        let grads = loss.backward();
        assert!(hidden.grad(&grads).is_some());
        assert!(weight.grad(&grads).is_none());
    }

    #[test]
    fn heads_in_half_precision_and_in_blocks_give_the_loss_of_their_numbers() {
        let device = Device::flex();
        let (hidden, weight) = (random([40, 64], &device), random([300, 64], &device));
        let values: Vec<f32> = weight.to_data().iter().collect();
        let blocks = QuantizedMatrix::quantize(BlockFormat::Q8_0, [300, 64], &values);
        for (weight, tolerance) in
            [(Weight::Float(weight.cast(DType::BF16)), 1e-4), (Weight::Quantized(Arc::new(blocks)), 0.05)]
        {
            let targets = targets(40, 300, &device);
            let found = linear_cross_entropy(hidden.clone(), weight.clone(), targets.clone()).into_data();
            let expected = linear_cross_entropy_reference(hidden.clone(), weight, targets).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(tolerance));
        }
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let device = Device::flex();
        let weight = Weight::Float(Tensor::zeros([49_152, 2], &device));
        let loss = linear_cross_entropy(Tensor::ones([3, 2], &device), weight, targets(3, 49_152, &device));
        let expected = Tensor::<1>::full([1], 49_152f64.ln(), &device);
        loss.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-5));
    }

    #[test]
    #[should_panic(expected = "cross_entropy: target 4 of a vocabulary of 4")]
    fn a_target_beyond_the_vocabulary_is_refused() {
        let device = Device::flex();
        let weight = Weight::Float(Tensor::zeros([4, 2], &device));
        linear_cross_entropy(Tensor::zeros([1, 2], &device), weight, Tensor::<1, Int>::from_data([4], &device));
    }
}
