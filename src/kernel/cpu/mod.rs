//! Building blocks of the CPU kernels, on plain slices.
//!
//! All results are deterministic for any number of threads: work is split over outputs, never over the terms of one sum.
//!
//! # Which to use
//!
//! **Vectors.** [`vectorized!`] compiles a plain loop for the widest vectors of this CPU, by way of pulp: for elementwise loops
//! and reductions, which the compiler vectorizes. [`Lanes`] are explicit vectors, for micro-kernels that it does not:
//! accumulators that must stay in registers, transposes, bit planes. Tiles of eight rows by two vectors made prefill of 64 to
//! 200 tokens 10 to 20 % faster; twelve rows spill and lose 30 %. Both need `#[inline(always)]` down to the loop: an outlined
//! function is compiled for the baseline CPU, which cost a third of the decoding speed.
//!
//! **Threads.** Rayon is for loops of many microseconds, and composes: most backward passes, one expert per task. [`Threads::Pool`]
//! is the [spin pool](spin_pool), for loops of microseconds: products, attention and [`for_each_chunk`]. A decoding step forks a hundred
//! times, and rayon parks its threads in between. The pool runs one loop at a time, and a second caller runs its own loop alone.
//!
//! **Matrices.** [`Mat`] is a strided view of floats, the operand of [`gemm`]: transposes and slices are free, so the products of a
//! backward pass need no copies. [`Matrix`] is a weight as it is stored, f32, f16, bf16 or quantized, the operand of
//! [`products`] and [`gated`], which choose by the number of rows of `x`: stream the weights, read them in place by GEMM, or
//! pack them. Packing a weight takes as long as multiplying some dozens of rows with it. Packed bfloat16 weights are multiplied
//! by AMX if the CPU has it: prefill of 512 tokens of SmolLM2 takes 0.37 of the time, a training step 0.62.
//!
//! **Prefetching.** A [`Prefetcher`](prefetcher) predicts the next product by the address of the last: decoding multiplies the
//! same weights in the same order for every token. While one thread works between two products, the helpers prefetch the
//! first 128 KiB of their share of the next: decoding Q4_0 +14 %, Q8_0 +9 %, bf16 +6 %, f32 +4 % with AVX-512 on two cores;
//! more than 128 KiB gave nothing.

mod empty;
mod gemm;
mod gemv;
mod lanes;
mod mat;
mod math;
mod matmul;
mod matrix;
mod prefetcher;
mod quantized;
mod scratch;
mod spin_pool;
mod weight_rows;
mod weight_stream;

pub(super) use empty::empty;
pub(super) use gemm::{PANEL_WIDTH, PanelRow, gemm, matrix_instructions, pack, panel_product};
pub(super) use lanes::{FourAtOnce, Lanes, WithLanes, four_at_once, instructions, sixteen, with_lanes};
#[cfg(test)]
pub(super) use lanes::{Plain, with_each_lanes};
pub(super) use mat::{Mat, MatMut, SharedMat};
pub(super) use math::{
    dispatch, exp, exponentials_in_place, silu, silu_derivative, softmax_in_place, sum_by, vectorized,
};
pub(super) use matmul::{gated, matmul_nn, matmul_nt, matmul_tn, products};
pub(super) use matrix::Matrix;
pub(super) use quantized::QuantizedMatrix;
pub(super) use scratch::Scratch;
pub(super) use spin_pool::Threads;
pub(super) use weight_rows::WeightRows;

use burn::backend::flex::FlexTensor;
use burn::backend::{TensorData, TensorMetadata};
use burn::tensor::{DType, Shape};

/// Elements per task of an elementwise loop. Fewer do not pay for a second thread.
pub(super) const CHUNK: usize = 16 * 1024;
/// Prefetch distance of streamed weights. The hardware prefetcher stops at the end of a 4 KiB page; at 25 GB/s a thread reads as
/// much in 160 ns. Decoding in f32: +7 % at 4 and at 8 KiB, −7 % at 1 KiB.
pub(super) const PREFETCH_BYTES: usize = 4 * 1024;

/// Calls `body` with the index and elements of each chunk of `size`, in parallel if there is more than one.
#[expect(unsafe_code, reason = "parallel tasks write to disjoint chunks")]
pub(super) fn for_each_chunk(out: &mut [f32], size: usize, body: impl Fn((usize, &mut [f32])) + Sync) {
    let len = out.len();
    if len <= size {
        return body((0, out));
    }
    let target = SharedMat::new(MatMut::new(out, 1, len));
    Threads::Pool.for_each(len.div_ceil(size), |index| {
        // SAFETY: chunks are disjoint, and each is the task of one index.
        body((index, unsafe { target.row(0, index * size..((index + 1) * size).min(len)) }));
    });
}

/// The tensor, contiguous: copied if it is strided.
///
/// # Panics
/// If it is not f32, the type of activations in every kernel.
pub(super) fn dense(tensor: FlexTensor) -> FlexTensor {
    assert_eq!(tensor.dtype(), DType::F32, "kernels compute in float32; cast activations first");
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a [`dense`] tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("contiguous")
}

/// The tensor, contiguous and spanning its storage, to be written in place: copied if it is a view.
pub(super) fn compact(tensor: FlexTensor) -> FlexTensor {
    let tensor = dense(tensor);
    if values(&tensor).len() == tensor.storage::<f32>().len() {
        return tensor;
    }
    self::tensor(values(&tensor).to_vec(), tensor.shape())
}

/// A tensor of `values`, without a copy.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The elements of an integer tensor as indices.
pub(super) fn indices(tensor: &FlexTensor) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I32 => tensor.as_slice::<i32>().expect("contiguous").iter().map(|&i| index(i.into())).collect(),
        DType::I64 => tensor.as_slice::<i64>().expect("contiguous").iter().map(|&i| index(i)).collect(),
        other => panic!("indices are i32 or i64, got {other:?}"),
    }
}

fn index(value: i64) -> usize {
    usize::try_from(value).expect("indices are not negative")
}
