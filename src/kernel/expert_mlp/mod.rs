//! The experts of a sparse layer: each token passes the gated MLPs chosen by its router. No token is dropped.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "flex")]
mod cpu_backward;
#[cfg(feature = "cube")]
mod cube;
mod experts;
mod grouped;
mod quantized;
#[cfg(all(test, feature = "flex"))]
mod tests;
#[cfg(feature = "tch")]
mod torch;
#[cfg(feature = "flex")]
mod visits;

#[cfg(all(test, feature = "cuda-source"))]
pub(super) use cube::expert_mlp_of_blocks;
#[cfg(feature = "flex")]
pub(super) use experts::ExpertOperand;
pub use experts::{Experts, StackedExperts};
pub use grouped::expert_mlp_grouped;
pub use quantized::{QuantizedExpert, QuantizedExperts};

#[cfg(feature = "flex")]
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Device, Int, Tensor};

use super::linear::{gated_linear, linear_all, linear_reference};
use super::silu_mul::silu_mul_reference;
use crate::trace::Op;

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// `y_t = Σ_j weights[t, j] · down_e(silu(gate_e(x_t)) ∘ up_e(x_t))`, `e = chosen[t, j]`
/// (Jiang et al., 2024, arXiv:2401.04088, §2.1).
///
/// Tokens are sorted by expert, and each expert multiplies only its own (Gale et al., 2022, arXiv:2211.15841). Results are
/// summed in the order of `j`, with the same bits on any number of threads. On Flex, quantized experts round their
/// inputs as described in [`linear`](super::linear); they have no gradient, and pass gradients to `x` and `weights`. They are
/// [grouped](expert_mlp_grouped) under autodiff, on libtorch and on ndarray, and on a GPU if the matrices of a projection differ in
/// format or are too large for one buffer.
///
/// # Shapes
/// - `x`, result: `[num_tokens, hidden_size]`
/// - `weights`, `chosen`: `[num_tokens, num_experts_per_tok]`; the experts of a token are distinct
///
/// # Panics
/// If the sizes disagree or an expert does not exist.
pub fn expert_mlp(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, experts: &Experts) -> Tensor<2> {
    let ([num_tokens, hidden_size], [num_experts, width, hidden]) = (x.dims(), experts.dims());
    assert_eq!(hidden_size, hidden, "expert_mlp: hidden_size of x and experts");
    assert_eq!(weights.dims(), chosen.dims(), "expert_mlp: weights and chosen experts");
    assert_eq!(weights.dims()[0], num_tokens, "expert_mlp: tokens and routing");
    let num_visits = chosen.shape().num_elements();
    if experts.is_grouped(&x.device(), num_visits) {
        return expert_mlp_grouped(x, weights, chosen, num_experts, |index, _, x| {
            let [gate, up, down] = experts.weights(index);
            let [y] = linear_all(gated_linear(x, &gate, &up), [&down]);
            y.cast(DType::F32)
        });
    }
    let has_kernel = has_kernel(&x.device());
    let visits_per_token = if has_kernel { weights.dims()[1] } else { num_experts };
    // Which experts are visited is known on the device, so it is asked for a record alone.
    let num_visited = if crate::trace::is_recording() && has_kernel { num_distinct(&chosen) } else { num_experts };
    crate::trace::count(Op {
        multiply_adds: 3 * num_tokens * visits_per_token * width * hidden,
        bytes: num_visited * experts.expert_bytes(),
        parameters: 3 * num_experts * width * hidden,
    });
    #[cfg(feature = "flex")]
    if has_kernel {
        return Tensor::from_dispatch(<Dispatch as ExpertMlp>::expert_mlp(
            x.into_dispatch(),
            weights.into_dispatch(),
            chosen.into_dispatch(),
            experts.operand(),
        ));
    }
    expert_mlp_reference(x, weights, chosen, experts)
}

/// Number of different experts that tokens visit.
fn num_distinct(chosen: &Tensor<2, Int>) -> usize {
    let mut experts: Vec<i64> = chosen.clone().into_data().iter().collect();
    experts.sort_unstable();
    experts.dedup();
    experts.len()
}

/// [`expert_mlp`] by Burn's operations: every expert on every token, with weight zero if not chosen.
pub fn expert_mlp_reference(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, experts: &Experts) -> Tensor<2> {
    let [num_experts, _, _] = experts.dims();
    (0..num_experts).fold(x.zeros_like(), |y, index| {
        let weight = weights.clone().mask_fill(chosen.clone().not_equal_elem(index as i64), 0.0).sum_dim(1);
        let [gate, up, down] = experts.floats(index).map(|weight| experts.read(weight));
        let hidden = silu_mul_reference(linear_reference(x.clone(), gate), linear_reference(x.clone(), up));
        y + linear_reference(hidden, down) * weight
    })
}

/// The operation of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait ExpertMlp: Backend {
    /// The weighted outputs of the chosen experts.
    fn expert_mlp(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        chosen: IntTensor<Self>,
        #[extension_type] experts: ExpertOperand<Self>,
    ) -> FloatTensor<Self>;
}

/// The differentiable inputs `x`, `weights`, `gate`, `up`, `down`.
#[cfg(feature = "flex")]
pub(super) type Inputs<B> = [FloatTensor<B>; 5];

/// The gradients of `x` and `weights`, and those of `gate`, `up` and `down`.
#[cfg(feature = "flex")]
pub(super) type Gradients<B> = ([FloatTensor<B>; 2], Option<[FloatTensor<B>; 3]>);

/// The gradient of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait ExpertMlpBackward: ExpertMlp {
    /// The output, and `gate(x)` and `up(x)` of each visit.
    fn expert_mlp_saved(inputs: Inputs<Self>, chosen: IntTensor<Self>) -> [FloatTensor<Self>; 3];

    /// Gradients of `x` and `weights`, and of the matrices if they are asked for.
    fn expert_mlp_backward(
        grad: FloatTensor<Self>,
        inputs: Inputs<Self>,
        chosen: IntTensor<Self>,
        saved: [FloatTensor<Self>; 2],
        of_matrices: bool,
    ) -> Gradients<Self>;
}
