//! Rotation on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{Rope, RopeBackward};
use crate::kernel::cpu::{CHUNK, dense, empty, for_each_chunk, tensor, values, vectorized};

/// Rotates every head by `direction` times its angle.
fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, direction: f32) -> FlexTensor {
    let (x, cos, sin) = (dense(x), dense(cos), dense(sin));
    let shape = x.shape();
    let (num_angles, head_dim) = (cos.shape()[0] * cos.shape()[1], shape[3]);
    let (half, width) = (head_dim / 2, shape[2] * head_dim);
    let (cos, sin) = (values(&cos), values(&sin));
    let mut out = empty(values(&x).len());
    let rows = (CHUNK / width).max(1);
    for_each_chunk(&mut out, rows * width, |(task, out)| {
        let x = &values(&x)[task * rows * width..][..out.len()];
        vectorized!({
            let positions = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate();
            for (row, (out, x)) in positions {
                let start = (task * rows + row) % num_angles * half;
                let (cos, sin) = (&cos[start..start + half], &sin[start..start + half]);
                for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                    let ((out_first, out_second), (first, second)) = (out.split_at_mut(half), x.split_at(half));
                    for i in 0..half {
                        let sin = sin[i] * direction;
                        out_first[i] = first[i] * cos[i] - second[i] * sin;
                        out_second[i] = second[i] * cos[i] + first[i] * sin;
                    }
                }
            }
        });
    });
    tensor(out, shape)
}

impl Rope for Flex {
    fn rope_forward(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        rotate(x, cos, sin, 1.0)
    }
}

impl RopeBackward for Flex {
    fn rope_backward(grad: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        rotate(grad, cos, sin, -1.0)
    }
}
