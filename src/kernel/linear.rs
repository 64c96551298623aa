//! `y = x·Wᵀ`: a linear map without bias whose weight stays `[out, in]`, as checkpoints store it.

use burn::tensor::{DType, Tensor};

/// `y = x·Wᵀ`.
///
/// The weight may be float16 or bfloat16; it is widened on the way through and the sum is in float32.
/// Gradients exist for float32 weights.
///
/// # Shapes
/// - `x`: `[.., in]`, float32
/// - `weight`: `[out, in]`
/// - result: `[.., out]`
///
/// # Panics
/// If the last axis of `x` is not the last of `weight`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let shape = x.dims();
    assert_eq!(shape[D - 1], in_features, "linear: last axis of x {shape:?} and in_features");
    super::flop_counter::add(shape.iter().product::<usize>() * out_features);
    #[cfg(feature = "flex")]
    if super::has_kernel(&x.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::Linear>::linear_forward(
            x.into_dispatch(),
            weight.into_dispatch(),
        ));
    }
    linear_reference(x, weight)
}

/// The same by Burn's own product.
///
/// # Panics
/// As [`linear`].
pub fn linear_reference<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let mut shape = x.dims();
    let [out_features, in_features] = weight.dims();
    let rows = shape.iter().product::<usize>() / in_features;
    shape[D - 1] = out_features;
    let weight = weight.cast(DType::F32);
    x.reshape([rows, in_features]).matmul(weight.transpose()).reshape(shape)
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

    use crate::kernel::cpu::{Mat, MatMut, Threads, WeightRows, dense, gemm, matmul_nt, tensor, values};

    #[backend_extension(Flex, Autodiff)]
    pub trait Linear: Backend {
        fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub trait LinearBackward: Linear {
        /// `dx = dy·W`.
        fn input_gradient(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
        /// `dW = dyᵀ·x`.
        fn weight_gradient(grad: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    impl Linear for Flex {
        fn linear_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
            let (x, weight) = (dense(x), weight.to_contiguous());
            let (n, k) = (weight.shape()[0], weight.shape()[1]);
            let mut shape = x.shape();
            let last = shape.num_dims() - 1;
            shape[last] = n;
            let mut out = vec![0.0; shape.num_elements()];
            matmul_nt(values(&x), WeightRows::of(&weight), &mut out, k, Threads::Pool);
            tensor(out, shape)
        }
    }

    impl LinearBackward for Flex {
        fn input_gradient(grad: FlexTensor, weight: FlexTensor) -> FlexTensor {
            let (grad, weight) = (dense(grad), dense(weight));
            let (n, k) = (weight.shape()[0], weight.shape()[1]);
            let mut shape = grad.shape();
            let m = shape.num_elements() / n;
            let last = shape.num_dims() - 1;
            shape[last] = k;
            let mut out = vec![0.0; m * k];
            let (a, b) = (Mat::new(values(&grad), m, n), Mat::new(values(&weight), n, k));
            gemm(MatMut::new(&mut out, m, k), false, a, b, Threads::Pool);
            tensor(out, shape)
        }

        fn weight_gradient(grad: FlexTensor, x: FlexTensor) -> FlexTensor {
            let (grad, x) = (dense(grad), dense(x));
            let last = |t: &FlexTensor| t.shape()[t.shape().num_dims() - 1];
            let (n, k) = (last(&grad), last(&x));
            let m = x.shape().num_elements() / k;
            let mut out = vec![0.0; n * k];
            let (a, b) = (Mat::new(values(&grad), m, n).t(), Mat::new(values(&x), m, k));
            gemm(MatMut::new(&mut out, n, k), false, a, b, Threads::Pool);
            tensor(out, [n, k])
        }
    }

    impl<B: LinearBackward, C: CheckpointStrategy> Linear for Autodiff<B, C> {
        fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: LinearBackward> Backward<B, 2> for Step {
                type State = (FloatTensor<B>, FloatTensor<B>);

                fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    let (x, weight) = ops.state;
                    let [x_node, weight_node] = ops.parents;
                    if let Some(node) = weight_node {
                        grads.register::<B>(node.id, B::weight_gradient(grad.clone(), x));
                    }
                    if let Some(node) = x_node {
                        grads.register::<B>(node.id, B::input_gradient(grad, weight));
                    }
                }
            }

            match Step.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let (x, weight) = (x.into_primitive(), weight.into_primitive());
                    prep.finish((x.clone(), weight.clone()), B::linear_forward(x, weight))
                }
                OpsKind::UnTracked(prep) => prep.finish(B::linear_forward(x.into_primitive(), weight.into_primitive())),
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
    fn the_kernel_gives_the_product_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (shape, out) in [([1, 1, 1], 1), ([2, 3, 17], 5), ([1, 33, 40], 70), ([3, 1, 64], 9)] {
            let x = random(shape, &device).require_grad();
            let weight = random([out, shape[2]], &device).require_grad();
            let scale = random([shape[0], shape[1], out], &device);
            let run = |f: fn(Tensor<3>, Tensor<2>) -> Tensor<3>| {
                let y = f(x.clone(), weight.clone());
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data(), weight.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(linear).iter().zip(&run(linear_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-4));
            }
        }
    }

    #[test]
    fn a_strided_input_is_read_through_its_strides() {
        let device = Device::flex();
        let x = random::<3>([4, 6, 10], &device).swap_dims(0, 1).slice([0..6, 1..3, 0..10]);
        let weight = random([7, 10], &device);
        linear(x.clone(), weight.clone())
            .into_data()
            .assert_approx_eq::<f32>(&linear_reference(x, weight).into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn half_precision_weights_are_widened_exactly() {
        let device = Device::flex();
        for dtype in [DType::BF16, DType::F16] {
            let (x, weight) = (random::<2>([20, 40], &device), random([130, 40], &device).cast(dtype));
            linear(x.clone(), weight.clone())
                .into_data()
                .assert_approx_eq::<f32>(&linear_reference(x, weight).into_data(), Tolerance::absolute(1e-5));
        }
    }

    #[test]
    #[should_panic(expected = "linear: last axis of x [2, 3] and in_features")]
    fn the_inner_axes_must_agree() {
        let device = Device::flex();
        linear(random::<2>([2, 3], &device), random([5, 4], &device));
    }
}
