//! Products on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;

use super::{LinearBackward, LinearOps, Operand};
use crate::kernel::cpu::{
    self, Mat, MatMut, Matrix, Threads, WeightRows, compact, dense, empty, matmul_nn, matmul_tn, tensor, values,
};
use crate::kernel::quantized_weight::QuantizedWeight;

impl LinearOps for Flex {
    fn linear_float(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let [y] = all(x, [Operand::Float(weight)]);
        y
    }

    fn linear_weight(x: FlexTensor, weight: Operand<Self>) -> FlexTensor {
        let [y] = all(x, [weight]);
        y
    }

    fn linear_three(
        x: FlexTensor,
        first: Operand<Self>,
        second: Operand<Self>,
        third: Operand<Self>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        all(x, [first, second, third]).into()
    }

    fn linear_add(residual: FlexTensor, x: FlexTensor, weight: Operand<Self>) -> FlexTensor {
        let (mut out, x, weight) = (compact(residual), dense(x), weight.contiguous());
        let k = last_size(&x);
        // In place if the residual has no other owner.
        let sums = out.storage_mut::<f32>();
        if k > 0 {
            cpu::products(values(&x), k, vec![(weight.matrix(), sums)], true, Threads::Pool);
        }
        out
    }

    fn gated_linear(x: FlexTensor, gate: Operand<Self>, up: Operand<Self>) -> FlexTensor {
        let (x, gate, up) = (dense(x), gate.contiguous(), up.contiguous());
        let (k, mut shape) = (last_size(&x), x.shape());
        let last = shape.num_dims() - 1;
        shape[last] = gate.rows();
        let mut out = output(shape.num_elements(), k);
        if k > 0 {
            cpu::gated(values(&x), k, [gate.matrix(), up.matrix()], &mut out, Threads::Pool);
        }
        tensor(out, shape)
    }
}

/// All products of one `x`, in one parallel loop.
fn all<const N: usize>(x: FlexTensor, weights: [Operand<Flex>; N]) -> [FlexTensor; N] {
    let x = dense(x);
    let (k, shape) = (last_size(&x), x.shape());
    let last = shape.num_dims() - 1;
    let rows: usize = (0..last).map(|axis| shape[axis]).product();
    let weights = weights.map(Operand::contiguous);
    let mut outs = weights.each_ref().map(|weight| output(rows * weight.rows(), k));
    let products = weights.iter().zip(&mut outs).map(|(weight, out)| (weight.matrix(), out.as_mut_slice())).collect();
    if k > 0 {
        cpu::products(values(&x), k, products, false, Threads::Pool);
    }
    let mut widths = weights.iter().map(Operand::rows);
    outs.map(|out| {
        let mut shape = shape.clone();
        shape[last] = widths.next().expect("one width per product");
        tensor(out, shape)
    })
}

/// A product over `k` terms, to be written if there are any, else zero.
fn output(len: usize, k: usize) -> Vec<f32> {
    if k > 0 { empty(len) } else { vec![0.0; len] }
}

fn last_size(x: &FlexTensor) -> usize {
    x.shape()[x.shape().num_dims() - 1]
}

impl Operand<Flex> {
    /// The operand, contiguous.
    pub(in crate::kernel) fn contiguous(self) -> Self {
        match self {
            Self::Float(weight) => Self::Float(weight.to_contiguous()),
            Self::Quantized(weight) => Self::Quantized(weight),
        }
    }

    /// The weight of a [`contiguous`](Self::contiguous) operand.
    pub(in crate::kernel) fn matrix(&self) -> Matrix<'_> {
        match self {
            Self::Float(weight) => Matrix::Rows(WeightRows::from_tensor(weight)),
            Self::Quantized(weight) => Matrix::Quantized(weight.panels()),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Float(weight) => weight.shape()[0],
            Self::Quantized(weight) => weight.dims()[0],
        }
    }
}

impl LinearBackward for Flex {
    fn input_gradient(grad: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (grad, weight) = (dense(grad), weight.to_contiguous());
        let (n, k) = (weight.shape()[0], weight.shape()[1]);
        let mut shape = grad.shape();
        let m = shape.num_elements() / n;
        let last = shape.num_dims() - 1;
        shape[last] = k;
        let mut out = empty(m * k);
        let grad = Mat::new(values(&grad), m, n);
        matmul_nn(grad, WeightRows::from_tensor(&weight), MatMut::new(&mut out, m, k), false, Threads::Pool);
        tensor(out, shape)
    }

    fn weight_gradient(grad: FlexTensor, x: FlexTensor, dtype: DType) -> FlexTensor {
        let (grad, x) = (dense(grad), dense(x));
        let last = |t: &FlexTensor| t.shape()[t.shape().num_dims() - 1];
        let (n, k) = (last(&grad), last(&x));
        let m = x.shape().num_elements() / k;
        let mut out = empty(n * k);
        let (grad, x) = (Mat::new(values(&grad), m, n), Mat::new(values(&x), m, k));
        matmul_tn(grad, x, MatMut::new(&mut out, n, k), dtype, false, Threads::Pool);
        tensor(out, [n, k])
    }

    fn linear_of_blocks(x: FlexTensor, weight: &QuantizedWeight) -> FlexTensor {
        let (x, [n, k]) = (dense(x), weight.dims());
        let mut shape = x.shape();
        let (m, last) = (shape.num_elements() / k, shape.num_dims() - 1);
        shape[last] = n;
        let mut out = empty(m * n);
        weight.panels().product(values(&x), &mut out);
        tensor(out, shape)
    }

    fn input_gradient_of_blocks(grad: FlexTensor, weight: &QuantizedWeight) -> FlexTensor {
        let (grad, [n, k]) = (dense(grad), weight.dims());
        let mut shape = grad.shape();
        let (m, last) = (shape.num_elements() / n, shape.num_dims() - 1);
        shape[last] = k;
        let mut out = vec![0.0; m * k];
        weight.panels().input_gradient(values(&grad), &mut out);
        tensor(out, shape)
    }
}
