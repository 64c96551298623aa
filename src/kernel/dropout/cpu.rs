//! Dropout on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{Dropout, DropoutMask};
use crate::kernel::cpu::{CHUNK, dense, empty, for_each_chunk, tensor, values, vectorized};

impl Dropout for Flex {
    fn dropout_rows(x: FlexTensor, mask: DropoutMask) -> FlexTensor {
        let x = dense(x);
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1].max(1);
        let rows = (CHUNK / width).max(1);
        let mut out = empty(values(&x).len());
        for_each_chunk(&mut out, rows * width, |(task, out)| {
            let x = &values(&x)[task * rows * width..][..out.len()];
            vectorized!({
                for (row, (out, x)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
                    let row = mask.row(task * rows + row);
                    for ((column, out), x) in (0u32..).zip(out).zip(x) {
                        *out = x * mask.factor(row, column);
                    }
                }
            });
        });
        tensor(out, shape)
    }
}
