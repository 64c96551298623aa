//! Rotary position embedding of queries and keys, in the rotate-half layout of Hugging Face checkpoints.

use burn::tensor::Tensor;

/// Turns the pair `(x_i, x_{i + head_dim/2})` at position `t` by the angle whose cosine and sine are `cos[t, i]`
/// and `sin[t, i]` (Su et al., 2021, arXiv:2104.09864, §3.2).
///
/// # Shapes
/// - `x`, result: `[batch_size, seq_length, num_heads, head_dim]`
/// - `cos`, `sin`: `[seq_length, head_dim / 2]`
///
/// # Panics
/// If the sizes disagree.
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, seq_length, _, head_dim] = x.dims();
    assert_eq!(cos.dims(), [seq_length, head_dim / 2], "rope: table of cosines");
    assert_eq!(cos.dims(), sin.dims(), "rope: tables");
    #[cfg(feature = "flex")]
    if super::has_kernel(&x.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::Rope>::rope_forward(
            x.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
        ));
    }
    rope_reference(x, cos, sin)
}

/// The same by Burn's own operations.
pub fn rope_reference(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, seq_length, _, head_dim] = x.dims();
    let half = head_dim / 2;
    let table = |t: Tensor<2>| t.reshape([1, seq_length, 1, half]);
    let (cos, sin) = (table(cos), table(sin));
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    Tensor::cat(vec![turned_first, second * cos + first * sin], 3)
}

#[cfg(feature = "flex")]
pub(super) mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

    use crate::kernel::cpu::{CHUNK, dense, for_each_chunk, tensor, values, vectorized};

    #[backend_extension(Flex, Autodiff)]
    pub trait Rope: Backend {
        fn rope_forward(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub trait RopeBackward: Rope {
        /// A turn by the opposite angle.
        fn rope_backward(grad: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    /// Turns every head by `direction` times its angle.
    fn turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, direction: f32) -> FlexTensor {
        let (x, cos, sin) = (dense(x), dense(cos), dense(sin));
        let shape = x.shape();
        let (seq_length, head_dim) = (shape[1], shape[3]);
        let (half, width) = (head_dim / 2, shape[2] * head_dim);
        let (cos, sin) = (values(&cos), values(&sin));
        let mut out = vec![0.0; values(&x).len()];
        let rows = (CHUNK / width).max(1);
        for_each_chunk(&mut out, rows * width, |(task, out)| {
            let x = &values(&x)[task * rows * width..][..out.len()];
            vectorized!({
                let positions = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate();
                for (row, (out, x)) in positions {
                    let start = (task * rows + row) % seq_length * half;
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
            turn(x, cos, sin, 1.0)
        }
    }

    impl RopeBackward for Flex {
        fn rope_backward(grad: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
            turn(grad, cos, sin, -1.0)
        }
    }

    impl<B: RopeBackward, C: CheckpointStrategy> Rope for Autodiff<B, C> {
        fn rope_forward(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: RopeBackward> Backward<B, 1> for Step {
                type State = (FloatTensor<B>, FloatTensor<B>);

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    if let [Some(node)] = ops.parents {
                        grads.register::<B>(node.id, B::rope_backward(grad, ops.state.0, ops.state.1));
                    }
                }
            }

            let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
            match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let y = B::rope_forward(x.into_primitive(), cos.clone(), sin.clone());
                    prep.finish((cos, sin), y)
                }
                OpsKind::UnTracked(prep) => prep.finish(B::rope_forward(x.into_primitive(), cos, sin)),
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for shape in [[1, 1, 1, 2], [2, 5, 3, 6], [3, 70, 4, 24]] {
            let x = random(shape, &device).require_grad();
            let angles = random([shape[1], shape[3] / 2], &device);
            let (cos, sin) = (angles.clone().cos(), angles.sin());
            let scale = random(shape, &device);
            let run = |f: fn(Tensor<4>, Tensor<2>, Tensor<2>) -> Tensor<4>| {
                let y = f(x.clone(), cos.clone(), sin.clone());
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(rope).iter().zip(&run(rope_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-6));
            }
        }
    }

    #[test]
    fn a_turn_keeps_the_length_of_every_head() {
        let device = Device::flex();
        let x = random([2, 9, 3, 8], &device);
        let angles = random([9, 4], &device);
        let turned = rope(x.clone(), angles.clone().cos(), angles.sin());
        let length = |x: Tensor<4>| x.square().sum_dim(3).into_data();
        length(turned).assert_approx_eq::<f32>(&length(x), Tolerance::absolute(1e-5));
    }
}
