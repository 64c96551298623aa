//! Shared helpers of the kernels in CubeCL, which are one source for CUDA, Vulkan and WebGPU.
//!
//! A kernel reads and writes whole buffers of contiguous tensors. It is launched with bounds checks on them, so an index that
//! is wrong never leaves its buffer. Sums are float32, activations too, or bfloat16 between [products](crate::kernel::linear) of
//! it; each element of a result is written by one unit, so results have the same bits every time.

#[cfg(all(test, feature = "cuda-source"))]
mod cuda_source;
pub mod launches;
pub mod quantized;
pub mod tensor_cores;

use burn::backend::{Cube, DType, Shape, TensorMetadata};
use burn::tensor::kind::Basic;
use burn::tensor::{BackendPrimitive, Tensor};
use burn_cubecl::cubecl::{self, prelude::*, server::CubeCountSelection};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

pub use quantized::{WordMatrix, WordStack};

/// Units of a cube that works on one row, a power of two; every device of Vulkan has 128.
pub const UNITS: u32 = 128;

/// An argument that a kernel reads.
pub fn input(x: &CubeTensor) -> BufferArg {
    into_contiguous(x.clone()).into_buffer_arg()
}

/// An argument that a kernel reads as `dtype`.
///
/// # Panics
/// If it has another type.
pub fn typed_input(x: &CubeTensor, dtype: DType) -> BufferArg {
    assert_eq!(x.dtype, dtype, "a kernel reads {dtype:?}; cast activations first");
    input(x)
}

/// An argument that a kernel reads as float32.
///
/// # Panics
/// If it has another type.
pub fn float_input(x: &CubeTensor) -> BufferArg {
    typed_input(x, DType::F32)
}

/// An argument that a kernel writes.
pub fn output(x: &CubeTensor) -> BufferArg {
    x.clone().into_buffer_arg()
}

/// A contiguous tensor beside `like`, of any contents; CUDA's own choice would pad rows.
pub fn empty(shape: impl Into<Shape>, dtype: DType, like: &CubeTensor) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), dtype)
}

/// A tensor of the shape and type of `like`, of any contents.
pub fn empty_like(like: &CubeTensor) -> CubeTensor {
    empty(like.shape(), like.dtype, like)
}

/// A tensor of `dtype` that a kernel may write to: `x` itself if it has this type, is contiguous, and nobody else has it, else a
/// copy.
pub fn owned(x: CubeTensor, dtype: DType) -> CubeTensor {
    let x = into_contiguous(cast(x, dtype));
    // Burn's copies have padded rows on CUDA.
    if x.can_mut() { x } else { into_contiguous(x.copy()) }
}

/// The tensor of Burn's public operations, for what is composed of them.
pub fn public<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(x)
}

/// The tensor that kernels take.
pub fn primitive<const D: usize, K>(x: Tensor<D, K>) -> CubeTensor
where
    K: Basic + BackendPrimitive<Cube, Primitive = CubeTensor>,
{
    x.try_into_primitive::<Cube>().expect("a tensor of the same backend")
}

/// `a·b`, in bfloat16 if `b` is a matrix of it, else in float32. Sums are in float32 and rounded once. Two float16 factors are
/// multiplied as they are; one is widened.
pub fn rounded_product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    match (a.dtype(), b.dtype()) {
        (DType::F16, DType::F16) => product_of_halves(primitive(a), primitive(b)),
        (_, DType::BF16) => a.cast(DType::BF16).matmul(b),
        _ => a.matmul(b.cast(DType::F32)),
    }
}

/// `a·b` of two float16 matrices, whose float32 sums are not rounded, since they may exceed 65504.
fn product_of_halves(a: CubeTensor, b: CubeTensor) -> Tensor<2> {
    public(matmul(a, b, None, MatmulStrategy::default(), DType::F32).expect("a kernel for every product"))
}

/// [`rounded_product`], returned in float32.
pub fn matrix_product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    rounded_product(a, b).cast(DType::F32)
}

/// A cube for each of `count` rows, by [`CUBE_POS`], or a few more, which have to end at once.
pub fn cube_for_each(count: usize, like: &CubeTensor) -> (CubeCount, CubeDim) {
    (CubeCountSelection::new(&like.client, count as u32).cube_count(), CubeDim::new_1d(UNITS))
}

/// A unit for each of `count` elements, by [`ABSOLUTE_POS`], or a few more, which have to end at once.
pub fn unit_for_each(count: usize, like: &CubeTensor) -> (CubeCount, CubeDim) {
    cube_for_each(count.div_ceil(UNITS as usize), like)
}

/// The sum of one number of each unit of a cube of `units`, a power of two, at every unit.
#[cube]
pub fn sum_of_units(x: f32, #[comptime] units: u32) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(units as usize);
    let unit = UNIT_POS as usize;
    sums[unit] = x;
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            let other = sums[unit + half as usize];
            sums[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    sums[0]
}

/// The largest of one number of each unit of a cube of `units`, a power of two, at every unit.
#[cube]
pub fn max_of_units(x: f32, #[comptime] units: u32) -> f32 {
    let mut highest = Shared::<[f32]>::new_slice(units as usize);
    let unit = UNIT_POS as usize;
    highest[unit] = x;
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            highest[unit] = max(highest[unit], highest[unit + half as usize]);
        }
        sync_cube();
        half /= 2;
    }
    highest[0]
}
