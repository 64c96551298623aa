//! The choice of experts: the largest scores of each token, and the softmax over them.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;

#[cfg(feature = "flex")]
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
#[cfg(feature = "flex")]
use burn::tensor::IntDType;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor};

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_cube(device)
}

/// `weights[t] = softmax(scores[t, experts[t]])` over the `k` experts with the largest scores of token `t`
/// (Jiang et al., 2024, arXiv:2401.04088, §2.1). Experts are in descending order of their scores, the first of equal ones before
/// the others; NaN is larger than every number. The gradient is that of the softmax.
///
/// # Shapes
/// - `scores`: `[num_tokens, num_experts]`
/// - `weights`, `experts`: `[num_tokens, k]`
///
/// # Panics
/// If `k` is not from 1 to `num_experts`.
pub fn top_k_softmax(scores: Tensor<2>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    let [_, num_experts] = scores.dims();
    assert!((1..=num_experts).contains(&k), "top_k_softmax: {k} of {num_experts} experts");
    #[cfg(feature = "flex")]
    if has_kernel(&scores.device()) {
        let dtype = scores.device().settings().int_dtype;
        let (weights, experts) = <Dispatch as TopKSoftmax>::top_k_softmax(scores.into_dispatch(), k, dtype);
        return (Tensor::from_dispatch(weights), Tensor::from_dispatch(experts));
    }
    top_k_softmax_reference(scores, k)
}

/// [`top_k_softmax`] by Burn's operations, which order NaN and, on libtorch, equal scores in their own way.
///
/// # Panics
/// As [`top_k_softmax`].
pub fn top_k_softmax_reference(scores: Tensor<2>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    // Without autodiff, whose top-k sorts.
    let experts = scores.clone().without_autodiff().topk_with_indices(k, 1).1;
    (softmax(scores.gather(1, experts.clone()), 1), experts)
}

/// The operation of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait TopKSoftmax: Backend {
    /// Weights, and experts as integers of this type.
    fn top_k_softmax(scores: FloatTensor<Self>, k: usize, dtype: IntDType) -> (FloatTensor<Self>, IntTensor<Self>);
}

/// The gradient of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait TopKSoftmaxBackward: TopKSoftmax {
    /// `dscores[t, experts[t, j]] = w_j·(dw_j − Σ_i w_i·dw_i)`, and zero elsewhere: `[num_tokens, num_experts]`.
    fn top_k_softmax_backward(
        grad: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        experts: IntTensor<Self>,
        num_experts: usize,
    ) -> FloatTensor<Self>;
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;

    type TopK = fn(Tensor<2>, usize) -> (Tensor<2>, Tensor<2, Int>);

    #[test]
    fn the_kernel_gives_the_choices_weights_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for [num_tokens, num_experts, k] in [[1, 1, 1], [3, 8, 2], [5, 4, 4], [7, 64, 8], [1500, 6, 3]] {
            let random = |columns| Tensor::<2>::random([num_tokens, columns], Distribution::Normal(0.0, 3.0), &device);
            let (scores, scale) = (random(num_experts).require_grad(), random(k));
            let run = |f: TopK| {
                let (weights, experts) = f(scores.clone(), k);
                let grads = (weights.clone() * scale.clone()).sum().backward();
                ([weights.inner(), scores.grad(&grads).unwrap()].map(Tensor::into_data), experts.into_data())
            };
            let ((found, chosen), (expected, expected_choice)) = (run(top_k_softmax), run(top_k_softmax_reference));
            assert_eq!(chosen, expected_choice);
            for (found, expected) in found.iter().zip(&expected) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }

    #[test]
    fn the_first_of_equal_scores_and_nan_come_first() {
        let device = Device::flex();
        let scores = Tensor::from_data([[1.0, 2.0, 2.0, 2.0], [0.0, f32::NAN, f32::INFINITY, f32::NAN]], &device);
        let (weights, experts) = top_k_softmax(scores, 3);
        assert_eq!(experts.into_data().convert::<i64>(), TensorData::from([[1i64, 2, 3], [1, 3, 2]]));
        let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
        assert!(weights[..3].iter().all(|weight| *weight == 1.0 / 3.0) && weights[3..].iter().all(|w| w.is_nan()));
    }

    #[test]
    #[should_panic(expected = "top_k_softmax: 3 of 2 experts")]
    fn more_choices_than_experts_are_refused() {
        top_k_softmax(Tensor::zeros([1, 2], &Device::flex()), 3);
    }
}
