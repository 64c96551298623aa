//! The operations on plain slices of host memory: what the Flex bodies are made of.
//!
//! Everything here is deterministic for any number of threads: work is split over outputs, never over the
//! terms of one sum.

mod ahead;
mod gemm;
mod lanes;
mod mat;
mod math;
mod quantized;
mod rows;
mod scratch;
mod spin_pool;
mod streams;
mod weight_rows;

pub(super) use gemm::{PANEL_WIDTH, PanelRow, gemm, gemms, gemms_unpacked, pack, panel_product};
pub(super) use lanes::{FourAtOnce, Lanes, WithLanes, four_at_once, with_lanes};
#[cfg(test)]
pub(super) use lanes::{Plain, with_each_lanes};
pub(super) use mat::{Mat, MatMut, SharedMat};
pub(super) use math::{
    dispatch, exp, exponentials_in_place, silu, silu_derivative, softmax_in_place, sum_by, vectorized,
};
pub(super) use quantized::QuantizedMatrix;
pub(super) use rows::{Matrix, gated, matmul_nt, products, sixteen};
pub(super) use scratch::Scratch;
pub(super) use spin_pool::Threads;
pub(super) use weight_rows::WeightRows;

use burn::backend::flex::FlexTensor;
use burn::backend::{TensorData, TensorMetadata};
use burn::tensor::{DType, Shape};
use rayon::prelude::*;

/// Elements that one task of an elementwise loop handles; fewer than this are not worth a second thread.
pub(super) const CHUNK: usize = 16 * 1024;
/// How far ahead a stream of weights is asked for: the processor's own guess ends with the page of 4 KiB. A thread that
/// reads 25 GB/s has as much under way in 160 ns.
pub(super) const PREFETCH_BYTES: usize = 4 * 1024;

/// Calls `body` with every `size` elements of `out` and their index: on the calling thread if that is all of it.
pub(super) fn for_each_chunk(out: &mut [f32], size: usize, body: impl Fn((usize, &mut [f32])) + Sync + Send) {
    if out.len() <= size {
        body((0, out));
    } else {
        out.par_chunks_mut(size).enumerate().for_each(body);
    }
}

/// The tensor with its elements next to each other; a copy only if it was strided.
///
/// # Panics
/// If it does not hold f32: activations are single precision in every kernel.
pub(super) fn dense(tensor: FlexTensor) -> FlexTensor {
    assert_eq!(tensor.dtype(), DType::F32, "kernels compute in float32; cast activations first");
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a [`dense`] tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("made dense")
}

/// The tensor with its elements and nothing else in its storage, to be written to; a copy only if it was a part.
pub(super) fn whole(tensor: FlexTensor) -> FlexTensor {
    let tensor = dense(tensor);
    if values(&tensor).len() == tensor.storage::<f32>().len() {
        return tensor;
    }
    self::tensor(values(&tensor).to_vec(), tensor.shape())
}

/// A tensor that owns `values`, without a copy.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Indices on the host, whatever integer type the tensor has.
pub(super) fn indices(tensor: &FlexTensor) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I32 => tensor.as_slice::<i32>().expect("made dense").iter().map(|&i| index(i.into())).collect(),
        DType::I64 => tensor.as_slice::<i64>().expect("made dense").iter().map(|&i| index(i)).collect(),
        other => panic!("indices are i32 or i64, got {other:?}"),
    }
}

fn index(value: i64) -> usize {
    usize::try_from(value).expect("an index is not negative")
}
