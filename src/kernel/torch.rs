//! Shared helpers of the bodies for libtorch.
//!
//! A result never shares memory with an argument: Burn overwrites a tensor that has no other owner that it knows of.

use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

/// The tensor in memory that no other shares: copied if necessary.
pub fn owned(x: TchTensor) -> TchTensor {
    if x.can_mut() { x } else { TchTensor::new(x.tensor.copy()) }
}

/// `a·b`, in bfloat16 if `b` is a matrix of it: sums are then in float32 and rounded once, to bfloat16. Returned in the type of `a`.
/// Two float16 factors, on a GPU, are multiplied as they are and give float32.
pub fn product(a: &Tensor, b: &Tensor) -> Tensor {
    match (a.kind(), b.kind()) {
        (Kind::Half, Kind::Half) => product_of_halves(a, b),
        (kind, Kind::BFloat16) => as_read(a, b).matmul(b).to_kind(kind),
        (kind, _) => a.matmul(&b.to_kind(kind)),
    }
}

/// `a·b` of float16 rows and a float16 matrix, whose float32 sums are not rounded, since they may exceed 65504.
fn product_of_halves(a: &Tensor, b: &Tensor) -> Tensor {
    let (mut shape, columns) = (a.size(), b.size()[1]);
    shape.pop();
    shape.push(columns);
    a.flatten(0, -2).mm_dtype(b, Kind::Float).reshape(shape)
}

/// `x` in the type in which [`product`] reads it beside `weight`.
pub fn as_read(x: &Tensor, weight: &Tensor) -> Tensor {
    match weight.kind() {
        Kind::BFloat16 => x.to_kind(Kind::BFloat16),
        _ => x.shallow_clone(),
    }
}

/// The gradients of `f` at `inputs`, given that of its result, by libtorch's own autograd.
pub fn gradients<const N: usize>(
    inputs: [&TchTensor; N],
    grad: &TchTensor,
    f: impl FnOnce(&[Tensor; N]) -> Tensor,
) -> [TchTensor; N] {
    tch::with_grad(|| {
        let leaves = inputs.map(|input| input.tensor.detach().set_requires_grad(true));
        let along = (f(&leaves) * &grad.tensor).sum(Kind::Float);
        let mut found = Tensor::run_backward(&[along], &leaves, false, false).into_iter();
        std::array::from_fn(|_| TchTensor::new(found.next().expect("a gradient for each input")))
    })
}
