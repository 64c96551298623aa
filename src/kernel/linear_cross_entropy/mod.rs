//! Cross entropy of the next token from hidden states, without materializing the logits.
//!
//! Logits are computed for a chunk of tokens at a time and overwritten with their gradient while they are in cache, so the
//! gradients of the mean loss are ready when the forward pass ends (Hsu et al., 2024, arXiv:2410.10989, §3.2). Nothing is
//! computed twice, and nothing of size `num_tokens · vocab_size` is allocated.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "tch")]
mod torch;

#[cfg(feature = "flex")]
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Device, Int, Tensor, activation::log_softmax};

#[cfg(feature = "flex")]
use super::linear::Operand;
use super::linear::{Weight, linear_reference, type_of_activations};
use crate::trace::Op;

/// Logits that a device with a kernel holds at once: 128 MiB. On the CPU, each chunk of tokens packs the whole weight, which takes
/// as long as multiplying it with 50 tokens.
const MAX_LOGITS: usize = 1 << 25;
/// Tokens of a chunk that may have more logits.
const MIN_TOKENS: usize = 256;

/// Tokens whose logits exist at once, out of `num_tokens`: chunks are as equal as possible.
pub fn tokens_of_chunk(num_tokens: usize, vocab_size: usize) -> usize {
    let most = (MAX_LOGITS / vocab_size.max(1)).max(MIN_TOKENS);
    num_tokens.div_ceil(num_tokens.div_ceil(most).max(1)).max(1)
}

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// The gradient that the losses of tokens get from the loss of a batch. Gradients are right under either; the other one
/// costs a product of the size of the logits, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// The same for all tokens, as under a mean. The products of the backward pass are those of the forward pass, scaled.
    Equal,
    /// Different ones, as when whole sequences are compared. For the gradient of the weight, the backward pass computes the
    /// logits of the tokens again whose gradient is not zero.
    Any,
}

/// `−ln softmax(hidden·weightᵀ)[target]` of each token, in nats, for losses that get the same gradient.
///
/// # Shapes
/// - `hidden`: `[num_tokens, hidden_size]`, float32
/// - `weight`: `[vocab_size, hidden_size]`
/// - `targets`, result: `[num_tokens]`
///
/// # Panics
/// If the sizes disagree, there are no tokens, or a target is not below `vocab_size`.
pub fn linear_cross_entropy(hidden: Tensor<2>, weight: &Weight, targets: Tensor<1, Int>) -> Tensor<1> {
    linear_cross_entropy_for(hidden, weight, targets, Upstream::Equal)
}

/// [`linear_cross_entropy`] whose gradient will be `upstream`.
///
/// # Panics
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_for(
    hidden: Tensor<2>,
    weight: &Weight,
    targets: Tensor<1, Int>,
    upstream: Upstream,
) -> Tensor<1> {
    let ([num_tokens, hidden_size], [vocab_size, in_features]) = (hidden.dims(), weight.dims());
    assert_eq!(hidden_size, in_features, "linear_cross_entropy: hidden_size and in_features");
    assert_eq!(num_tokens, targets.dims()[0], "linear_cross_entropy: tokens and targets");
    assert!(num_tokens > 0, "linear_cross_entropy: no tokens");
    crate::trace::count(Op {
        multiply_adds: num_tokens * vocab_size * hidden_size,
        bytes: weight.size_bytes(),
        parameters: vocab_size * hidden_size,
    });
    // The bodies round to bfloat16 themselves, since they also round gradients; float16 is for the forward product alone.
    let is_float16 = type_of_activations(weight.dtype(), &hidden.device()) == DType::F16;
    let hidden = if is_float16 { hidden.cast(DType::F16) } else { hidden };
    #[cfg(feature = "flex")]
    if has_kernel(&hidden.device()) {
        return Tensor::from_dispatch(<Dispatch as LinearCrossEntropy>::linear_cross_entropy_forward(
            hidden.into_dispatch(),
            weight.operand(),
            targets.into_dispatch(),
            upstream,
        ));
    }
    linear_cross_entropy_reference(hidden, weight, targets)
}

/// The same by Burn's own operations, with all logits at once.
pub fn linear_cross_entropy_reference(hidden: Tensor<2>, weight: &Weight, targets: Tensor<1, Int>) -> Tensor<1> {
    let [num_tokens, _] = hidden.dims();
    let logits = linear_reference(hidden, weight.float());
    -log_softmax(logits, 1).gather(1, targets.reshape([num_tokens, 1])).reshape([num_tokens])
}

/// The operation on a backend. `hidden`: `[num_tokens, hidden_size]`, `weight`: `[vocab_size, hidden_size]`, `targets` and
/// the losses: `[num_tokens]`.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait LinearCrossEntropy: Backend {
    /// The losses.
    fn linear_cross_entropy_forward(
        hidden: FloatTensor<Self>,
        #[extension_type] weight: Operand<Self>,
        targets: IntTensor<Self>,
        upstream: Upstream,
    ) -> FloatTensor<Self>;
}

/// The gradients of the operation on a backend.
#[cfg(feature = "flex")]
pub(super) trait LinearCrossEntropyBackward: LinearCrossEntropy {
    /// The losses, and the gradients of their mean.
    fn losses_and_gradients(inputs: Inputs<Self>, of_weight: bool) -> (FloatTensor<Self>, Gradients<Self>);

    /// The gradients of `Σ upstream · losses`, as far as possible from those of the mean.
    fn gradients(
        upstream: FloatTensor<Self>,
        inputs: Inputs<Self>,
        of_mean: Gradients<Self>,
        of_weight: bool,
    ) -> Gradients<Self>;
}

/// The arguments of the operation.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
pub(super) struct Inputs<B: Backend> {
    pub(super) hidden: FloatTensor<B>,
    pub(super) weight: Operand<B>,
    pub(super) targets: IntTensor<B>,
}

/// Gradients with respect to the hidden states and, if it was asked for, to the weight.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
pub(super) struct Gradients<B: Backend> {
    pub(super) hidden: FloatTensor<B>,
    pub(super) weight: Option<FloatTensor<B>>,
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::kernel::blocks::BlockFormat;
    use crate::kernel::fixture::random;
    use crate::kernel::quantized_weight::QuantizedWeight;

    fn targets(num_tokens: usize, vocab_size: usize, device: &Device) -> Tensor<1, Int> {
        Tensor::<1, Int>::arange(0..num_tokens as i64, device).mul_scalar(7).remainder_scalar(vocab_size as i64)
    }

    /// Gradients of the losses: of a mean and a multiple of it; of one token apart; of every second token; all different.
    fn upstreams(num_tokens: usize, device: &Device) -> [Tensor<1>; 5] {
        let index = Tensor::<1, Int>::arange(0..num_tokens as i64, device);
        let share = 1.0 / num_tokens as f64;
        [
            Tensor::full([num_tokens], share, device),
            Tensor::full([num_tokens], -3.0 * share, device),
            index.clone().equal_elem(0).float(),
            index.clone().remainder_scalar(2).float() * share,
            (index.float() + 1.0).cos() * share,
        ]
    }

    #[test]
    fn the_kernel_gives_the_losses_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (tokens, vocab_size, hidden_size) in [(1, 1, 1), (5, 37, 9), (300, 1000, 40), (513, 70, 16)] {
            let hidden = random([tokens, hidden_size], &device).require_grad();
            let weight = random([vocab_size, hidden_size], &device).require_grad();
            let targets = targets(tokens, vocab_size, &device);
            for upstream in upstreams(tokens, &device) {
                let run = |f: fn(Tensor<2>, &Weight, Tensor<1, Int>) -> Tensor<1>| {
                    let losses = f(hidden.clone(), &weight.clone().into(), targets.clone());
                    let grads = (losses.clone() * upstream.clone()).sum().backward();
                    [
                        losses.inner().into_data(),
                        hidden.grad(&grads).unwrap().into_data(),
                        weight.grad(&grads).unwrap().into_data(),
                    ]
                };
                let expected = run(linear_cross_entropy_reference);
                for found in [run(linear_cross_entropy), run(for_any_upstream)] {
                    for (found, expected) in found.iter().zip(&expected) {
                        found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-5));
                    }
                }
            }
        }
    }

    fn for_any_upstream(hidden: Tensor<2>, weight: &Weight, targets: Tensor<1, Int>) -> Tensor<1> {
        linear_cross_entropy_for(hidden, weight, targets, Upstream::Any)
    }

    #[test]
    fn a_frozen_head_passes_gradients_on_and_gets_none() {
        let device = Device::flex().autodiff();
        let hidden = random([3, 8], &device).require_grad();
        let weight = random([5, 8], &device);
        for f in [linear_cross_entropy, for_any_upstream] {
            let losses = f(hidden.clone(), &weight.clone().into(), targets(3, 5, &device));
            let grads = losses.sum().backward();
            assert!(hidden.grad(&grads).is_some());
            assert!(weight.grad(&grads).is_none());
        }
    }

    #[test]
    fn heads_in_half_precision_and_in_blocks_give_the_losses_of_their_numbers() {
        let device = Device::flex();
        let (hidden, weight) = (random([40, 64], &device), random([300, 64], &device));
        let values: Vec<f32> = weight.to_data().iter().collect();
        let blocks = QuantizedWeight::quantize(BlockFormat::Q8_0, [300, 64], &values, &device);
        for (weight, tolerance) in [(Weight::from(weight.cast(DType::BF16)), 1e-4), (Weight::from(blocks), 0.05)] {
            let targets = targets(40, 300, &device);
            let found = linear_cross_entropy(hidden.clone(), &weight, targets.clone()).mean().into_data();
            let expected = linear_cross_entropy_reference(hidden.clone(), &weight, targets).mean().into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(tolerance));
        }
    }

    #[test]
    fn chunks_are_of_one_size_within_a_limit_of_logits() {
        assert_eq!(tokens_of_chunk(812, 49_152), 406);
        assert_eq!(tokens_of_chunk(682, 49_152), 682);
        assert_eq!(tokens_of_chunk(1000, 256_000), 250);
        assert_eq!([0, 1].map(|num_tokens| tokens_of_chunk(num_tokens, 256_000)), [1, 1]);
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let device = Device::flex();
        let weight = Weight::from(Tensor::zeros([49_152, 2], &device));
        let losses = linear_cross_entropy(Tensor::ones([3, 2], &device), &weight, targets(3, 49_152, &device));
        let expected = Tensor::<1>::full([3], 49_152f64.ln(), &device);
        losses.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-5));
    }

    #[test]
    #[should_panic(expected = "cross_entropy: target 4 of a vocabulary of 4")]
    fn a_target_beyond_the_vocabulary_is_refused() {
        let device = Device::flex();
        let weight = Weight::from(Tensor::zeros([4, 2], &device));
        linear_cross_entropy(Tensor::zeros([1, 2], &device), &weight, Tensor::<1, Int>::from_data([4], &device));
    }

    #[test]
    fn a_multiple_of_the_mean_has_the_gradients_of_the_forward_pass_to_the_bit() {
        let device = Device::flex().autodiff();
        let hidden = random([300, 16], &device).require_grad();
        let weight = random([50, 16], &device).require_grad();
        let run = |factor: f64| {
            let losses = linear_cross_entropy(hidden.clone(), &weight.clone().into(), targets(300, 50, &device));
            let grads = (losses.mean() * factor).backward();
            [&hidden, &weight].map(|leaf| leaf.grad(&grads).unwrap())
        };
        for (once, half) in run(1.0).into_iter().zip(run(0.5)) {
            assert_eq!((half * 2.0).into_data(), once.into_data());
        }
    }
}
