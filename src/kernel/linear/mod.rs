//! Linear maps without bias, `y = x·Wᵀ`: alone, several of one input, added to a residual, gated.
//!
//! A weight stays `[out, in]`, as checkpoints store it, in float32, float16, bfloat16 or quantized blocks. Products are
//! summed in float32. On Flex, quantized weights multiply activations that are rounded to 8 bits: each 32 elements of a row of
//! `x` become `d·q` with `q` in `−127..=127`, and a result is off by at most `Σ_blocks d/2 · Σ|w|`.
//!
//! The *type of products* is that of their results: bfloat16 on libtorch and devices of CubeCL if all weights of a call are read in
//! bfloat16, as under PyTorch's autocast, else float32. There, activations that meet a bfloat16 weight are rounded to bfloat16,
//! whatever the other weights of the call are, also in the gradients; so they are on a CPU with AMX, in products of more than 48 rows
//! and all gradients.
//!
//! Products whose weights are all float16 round activations to float16 on devices of CubeCL that have this type, and on GPUs of libtorch.
//! Their results are float32, so that only a factor can overflow: one beyond 65504 becomes infinite, and the results of its row infinite
//! or NaN. If the weights of a call differ in type, each float16 one is widened. Gradients are products in float32: those of a mean loss
//! would underflow in float16.
//!
//! Gradients exist for `x` and for float32 weights. Under autodiff, quantized weights are dequantized, on Flex a tile at a time, and
//! activations are not rounded, so that the gradient is that of the product (Dettmers et al., 2023, arXiv:2305.14314, §3).

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(all(test, feature = "flex"))]
mod tests;
#[cfg(feature = "tch")]
mod torch;
mod weight;

#[cfg(feature = "flex")]
pub(super) use weight::Operand;
pub use weight::Weight;

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor};

#[cfg(feature = "flex")]
use super::silu_mul::SiluMul;
use super::silu_mul::silu_mul_reference;
#[cfg(feature = "flex")]
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::trace::Op;

/// Whether products on this device have a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// Whether products with bfloat16 weights take their inputs and give their results in bfloat16.
pub fn keeps_bfloat16(device: &Device) -> bool {
    super::is_libtorch(device) || super::is_cube(device)
}

/// The type to which products on this device round activations that meet a weight of this type.
pub fn type_of_activations(weight: DType, device: &Device) -> DType {
    match weight {
        DType::BF16 if keeps_bfloat16(device) => DType::BF16,
        DType::F16 if multiplies_float16(device) => DType::F16,
        _ => DType::F32,
    }
}

/// Whether products read float16 weights as they are. ATen's product of float16 with float32 results is for GPUs alone.
fn multiplies_float16(device: &Device) -> bool {
    super::is_libtorch_cuda(device) || super::is_cube(device) && device.supports_dtype(DType::F16)
}

/// `y = x·Wᵀ`.
///
/// # Shapes
/// - `x`: `[.., in]`
/// - `weight`: `[out, in]`
/// - result: `[.., out]`, float32
///
/// # Panics
/// If the last axis of `x` is not the last of `weight`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let [y] = linear_all(x, [&Weight::from(weight)]);
    y.cast(DType::F32)
}

/// `x·Wᵀ` by Burn's matrix product.
///
/// # Panics
/// As [`linear`].
pub fn linear_reference<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let mut shape = x.dims();
    let [out_features, in_features] = weight.dims();
    let rows = shape.iter().product::<usize>() / in_features;
    shape[D - 1] = out_features;
    let weight = weight.cast(DType::F32);
    x.reshape([rows, in_features]).matmul(weight.transpose()).reshape(shape)
}

/// `x·Wᵀ` for each weight. Three products, as of queries, keys and values, run as one parallel loop.
///
/// # Shapes
/// - `x`: `[.., in]`
/// - `weights`: `[out_i, in]`
/// - results: `[.., out_i]`, in the type of products
///
/// # Panics
/// If the last axis of `x` is not the last of every weight.
pub fn linear_all<const D: usize, const N: usize>(x: Tensor<D>, weights: [&Weight; N]) -> [Tensor<D>; N] {
    weights.into_iter().for_each(|weight| check_and_count(&x, weight));
    let x = as_read(x, weights);
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        if let [first, second, third] = weights.as_slice() {
            let (first, second, third) = <Dispatch as LinearOps>::linear_three(
                x.into_dispatch(),
                first.operand(),
                second.operand(),
                third.operand(),
            );
            let mut products = [first, second, third].map(Tensor::from_dispatch).into_iter();
            return std::array::from_fn(|_| products.next().expect("N is 3"));
        }
        return weights.map(|weight| {
            Tensor::from_dispatch(<Dispatch as LinearOps>::linear_weight(x.clone().into_dispatch(), weight.operand()))
        });
    }
    linear_all_reference(x, weights)
}

/// The products of [`linear_all`] one after another, by Burn's matrix product.
///
/// # Panics
/// As [`linear_all`].
pub fn linear_all_reference<const D: usize, const N: usize>(x: Tensor<D>, weights: [&Weight; N]) -> [Tensor<D>; N] {
    weights.map(|weight| linear_reference(x.clone(), weight.float()))
}

/// `residual + x·Wᵀ`, in place if the residual has no other owner.
///
/// # Shapes
/// - `residual`, result: `[.., out]`, float32
/// - `x`: `[.., in]`
/// - `weight`: `[out, in]`
///
/// # Panics
/// If the last axis of `x` is not `in`, or the shape of the residual is not that of the product.
pub fn linear_add<const D: usize>(residual: Tensor<D>, x: Tensor<D>, weight: &Weight) -> Tensor<D> {
    check_and_count(&x, weight);
    let mut product = x.dims();
    product[D - 1] = weight.dims()[0];
    assert_eq!(residual.dims(), product, "linear_add: residual and product");
    let x = as_read(x, [weight]);
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        if x.dtype() != residual.dtype() {
            let y = <Dispatch as LinearOps>::linear_weight(x.into_dispatch(), weight.operand());
            return residual + Tensor::<D>::from_dispatch(y).cast(DType::F32);
        }
        return Tensor::from_dispatch(<Dispatch as LinearOps>::linear_add(
            residual.into_dispatch(),
            x.into_dispatch(),
            weight.operand(),
        ));
    }
    linear_add_reference(residual, x, weight)
}

/// [`linear_add`] by Burn's operations.
///
/// # Panics
/// As [`linear_add`].
pub fn linear_add_reference<const D: usize>(residual: Tensor<D>, x: Tensor<D>, weight: &Weight) -> Tensor<D> {
    residual + linear_reference(x, weight.float())
}

/// `silu(x·gateᵀ) ∘ (x·upᵀ)`, the hidden state of a gated MLP (Shazeer, 2020, arXiv:2002.05202, §2).
///
/// # Shapes
/// - `x`: `[.., in]`
/// - `gate`, `up`: `[out, in]`
/// - result: `[.., out]`, in the type of products
///
/// # Panics
/// If the last axis of `x` is not `in`, or the shapes of the weights differ.
pub fn gated_linear<const D: usize>(x: Tensor<D>, gate: &Weight, up: &Weight) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated_linear: gate and up");
    [gate, up].into_iter().for_each(|weight| check_and_count(&x, weight));
    let x = as_read(x, [gate, up]);
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as LinearOps>::gated_linear(
            x.into_dispatch(),
            gate.operand(),
            up.operand(),
        ));
    }
    gated_linear_reference(x, gate, up)
}

/// [`gated_linear`] by Burn's operations.
///
/// # Panics
/// As [`gated_linear`].
pub fn gated_linear_reference<const D: usize>(x: Tensor<D>, gate: &Weight, up: &Weight) -> Tensor<D> {
    let [gate, up] = linear_all_reference(x, [gate, up]);
    silu_mul_reference(gate, up)
}

/// `x` in the type in which products with these weights read it, converted once for all of them.
fn as_read<const D: usize, const N: usize>(x: Tensor<D>, weights: [&Weight; N]) -> Tensor<D> {
    let mut types = weights.iter().map(|weight| type_of_activations(weight.dtype(), &x.device()));
    let first = types.next().unwrap_or(DType::F32);
    let is_common = types.all(|other| other == first);
    x.cast(if is_common { first } else { DType::F32 })
}

/// Checks the shapes of a product and adds its multiply-adds to the counter.
fn check_and_count<const D: usize>(x: &Tensor<D>, weight: &Weight) {
    let (shape, [out_features, in_features]) = (x.dims(), weight.dims());
    assert_eq!(shape[D - 1], in_features, "linear: last axis of x {shape:?} and in_features");
    crate::trace::count(Op {
        multiply_adds: shape.iter().product::<usize>() * out_features,
        bytes: weight.size_bytes(),
        parameters: in_features * out_features,
    });
}

/// The products of a backend, which writes [`linear_float`](Self::linear_float); the rest composes it, and is overridden where
/// fusing pays.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait LinearOps: Backend + SiluMul {
    /// `x·Wᵀ` of a float weight: the differentiable operation. In the type of `x`, but float32 if that is float16.
    fn linear_float(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x·Wᵀ` of any weight.
    fn linear_weight(x: FloatTensor<Self>, #[extension_type] weight: Operand<Self>) -> FloatTensor<Self> {
        let weight = weight.into_float(&x.device());
        Self::linear_float(x, weight)
    }

    /// Three products of one `x`.
    fn linear_three(
        x: FloatTensor<Self>,
        #[extension_type] first: Operand<Self>,
        #[extension_type] second: Operand<Self>,
        #[extension_type] third: Operand<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        (Self::linear_weight(x.clone(), first), Self::linear_weight(x.clone(), second), Self::linear_weight(x, third))
    }

    /// `residual + x·Wᵀ`.
    fn linear_add(
        residual: FloatTensor<Self>,
        x: FloatTensor<Self>,
        #[extension_type] weight: Operand<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(residual, Self::linear_weight(x, weight))
    }

    /// `silu(x·gateᵀ) ∘ (x·upᵀ)`.
    fn gated_linear(
        x: FloatTensor<Self>,
        #[extension_type] gate: Operand<Self>,
        #[extension_type] up: Operand<Self>,
    ) -> FloatTensor<Self> {
        Self::silu_mul(Self::linear_weight(x.clone(), gate), Self::linear_weight(x, up))
    }
}

/// The gradients of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait LinearBackward: LinearOps + super::silu_mul::SiluMulBackward {
    /// `dx = dy·W`.
    fn input_gradient(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `dW = dyᵀ·x`, of a weight that the product read in `dtype`.
    fn weight_gradient(grad: FloatTensor<Self>, x: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self>;
    /// `x·Wᵀ` of a quantized weight, without rounding `x`.
    fn linear_of_blocks(x: FloatTensor<Self>, weight: &QuantizedWeight) -> FloatTensor<Self>;
    /// `dx = dy·W` of a quantized weight.
    fn input_gradient_of_blocks(grad: FloatTensor<Self>, weight: &QuantizedWeight) -> FloatTensor<Self>;
}
