//! Shared helpers of the kernels in CubeCL, which are one source for CUDA, Vulkan and WebGPU.
//!
//! A kernel reads and writes whole buffers of contiguous tensors. It is launched with bounds checks on them, so an index that
//! is wrong never leaves its buffer. Numbers are computed in float32 whatever the buffers hold, and each element of a result
//! is written by one unit, so results have the same bits every time.

use burn::backend::{DType, Shape, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*, server::CubeCountSelection};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Units of a cube that works on one row, a power of two; every device of Vulkan has 128.
pub const UNITS: u32 = 128;

/// An argument that a kernel reads.
pub fn input(x: &CubeTensor) -> BufferArg {
    into_contiguous(x.clone()).into_buffer_arg()
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

/// `count` cubes or a few more, which end at once: [`CUBE_POS`] tells.
pub fn cubes(count: usize, like: &CubeTensor) -> CubeCount {
    CubeCountSelection::new(&like.client, count as u32).cube_count()
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
