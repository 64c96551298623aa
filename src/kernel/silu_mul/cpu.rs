//! SwiGLU's gate on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{SiluMul, SiluMulBackward};
use crate::kernel::cpu::{CHUNK, dense, empty, for_each_chunk, silu, silu_derivative, tensor, values, vectorized};

impl SiluMul for Flex {
    fn silu_mul(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (dense(gate), dense(up));
        let mut out = empty(values(&gate).len());
        for_each_chunk(&mut out, CHUNK, |(index, out)| {
            let [gate, up] = [&gate, &up].map(|x| &values(x)[index * CHUNK..][..out.len()]);
            vectorized!({
                for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = silu(*gate) * up;
                }
            });
        });
        tensor(out, gate.shape())
    }
}

impl SiluMulBackward for Flex {
    fn silu_mul_backward(grad: FlexTensor, gate: FlexTensor, up: FlexTensor) -> (FlexTensor, FlexTensor) {
        let (grad, gate, up) = (dense(grad), dense(gate), dense(up));
        let len = values(&gate).len();
        let (mut dgate, mut dup) = (empty(len), empty(len));
        let inputs = values(&gate).par_chunks(CHUNK).zip(values(&up).par_chunks(CHUNK));
        let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
        outputs.zip(values(&grad).par_chunks(CHUNK).zip(inputs)).for_each(|((dgate, dup), (grad, (gate, up)))| {
            vectorized!({
                for i in 0..grad.len() {
                    let (value, slope) = silu_derivative(gate[i]);
                    dgate[i] = grad[i] * up[i] * slope;
                    dup[i] = grad[i] * value;
                }
            });
        });
        (tensor(dgate, gate.shape()), tensor(dup, gate.shape()))
    }
}
