//! `silu(gate) ∘ up`: the gate of a SwiGLU MLP in one pass.

use burn::tensor::{Tensor, activation};

/// `silu(gate) ∘ up`, `silu(x) = x / (1 + e^-x)` (Shazeer, 2020, arXiv:2002.05202, §2).
///
/// # Shapes
/// - `gate`, `up`, result: the same
///
/// # Panics
/// If the shapes differ.
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "silu_mul: gate and up");
    #[cfg(feature = "flex")]
    if super::has_kernel(&gate.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::SiluMul>::silu_mul_forward(
            gate.into_dispatch(),
            up.into_dispatch(),
        ));
    }
    silu_mul_reference(gate, up)
}

/// The same by Burn's own operations.
pub fn silu_mul_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
    use rayon::prelude::*;

    use crate::kernel::cpu::{CHUNK, dense, for_each_chunk, silu, silu_derivative, tensor, values, vectorized};

    #[backend_extension(Flex, Autodiff)]
    pub trait SiluMul: Backend {
        fn silu_mul_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub trait SiluMulBackward: SiluMul {
        /// `(dgate, dup) = (dy ∘ up ∘ silu'(gate), dy ∘ silu(gate))`.
        fn silu_mul_backward(
            grad: FloatTensor<Self>,
            gate: FloatTensor<Self>,
            up: FloatTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);
    }

    impl SiluMul for Flex {
        fn silu_mul_forward(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
            let (gate, up) = (dense(gate), dense(up));
            let mut out = vec![0.0; values(&gate).len()];
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
            let (mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len]);
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

    impl<B: SiluMulBackward, C: CheckpointStrategy> SiluMul for Autodiff<B, C> {
        fn silu_mul_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: SiluMulBackward> Backward<B, 2> for Step {
                type State = (FloatTensor<B>, FloatTensor<B>);

                fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    let (dgate, dup) = B::silu_mul_backward(grad, ops.state.0, ops.state.1);
                    for (node, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
                        if let Some(node) = node {
                            grads.register::<B>(node.id, gradient);
                        }
                    }
                }
            }

            match Step.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let (gate, up) = (gate.into_primitive(), up.into_primitive());
                    prep.finish((gate.clone(), up.clone()), B::silu_mul_forward(gate, up))
                }
                OpsKind::UnTracked(prep) => {
                    prep.finish(B::silu_mul_forward(gate.into_primitive(), up.into_primitive()))
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for shape in [[1, 1], [3, 17], [40, 1000]] {
            let random = || Tensor::<2>::random(shape, Distribution::Normal(0.0, 4.0), &device).require_grad();
            let (gate, up, scale) = (random(), random(), random());
            let run = |f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let y = f(gate.clone(), up.clone());
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), gate.grad(&grads).unwrap().into_data(), up.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(silu_mul).iter().zip(&run(silu_mul_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }
}
