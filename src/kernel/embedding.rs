//! Rows of a table by index, and the sum of gradients back into them.

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::quantized_linear::QuantizedMatrix;

/// `y[b, t] = table[tokens[b, t]]`, widened to float32.
///
/// # Shapes
/// - `table`: `[vocab_size, hidden_size]`
/// - `tokens`: `[batch_size, seq_length]`
/// - result: `[batch_size, seq_length, hidden_size]`
///
/// # Panics
/// If an id is not below `vocab_size`.
pub fn embedding(table: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if super::has_kernel(&table.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::Embedding>::embedding_lookup(
            table.into_dispatch(),
            tokens.into_dispatch(),
        ));
    }
    embedding_reference(table, tokens)
}

/// The same by Burn's own operations.
pub fn embedding_reference(table: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let [batch_size, seq_length] = tokens.dims();
    let [_, hidden_size] = table.dims();
    let rows = table.select(0, tokens.reshape([batch_size * seq_length]));
    rows.cast(DType::F32).reshape([batch_size, seq_length, hidden_size])
}

/// The same with a table in blocks of integers: exactly the numbers that they stand for. Has no gradients.
///
/// # Panics
/// As [`embedding`].
pub fn quantized_embedding(table: &QuantizedMatrix, tokens: Tensor<2, Int>) -> Tensor<3> {
    let [vocab_size, hidden_size] = table.dims();
    let [batch_size, seq_length] = tokens.dims();
    let device = tokens.device();
    let mut rows = vec![0.0; batch_size * seq_length * hidden_size];
    for (token, row) in tokens.into_data().iter::<i64>().zip(rows.chunks_exact_mut(hidden_size)) {
        let id = usize::try_from(token).unwrap_or(usize::MAX);
        assert!(id < vocab_size, "embedding: id {token} of a vocabulary of {vocab_size}");
        table.dequantize_row(id, row);
    }
    Tensor::from_data(TensorData::new(rows, [batch_size, seq_length, hidden_size]), &device)
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

    use crate::kernel::cpu::{WeightRows, dense, indices, tensor, values};

    #[backend_extension(Flex, Autodiff)]
    pub trait Embedding: Backend {
        fn embedding_lookup(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;
    }

    pub trait EmbeddingBackward: Embedding {
        /// `dtable[v] = Σ over tokens equal to v of dy`, dense.
        fn lookup_backward(grad: FloatTensor<Self>, tokens: IntTensor<Self>, vocab_size: usize) -> FloatTensor<Self>;
    }

    impl Embedding for Flex {
        fn embedding_lookup(table: FlexTensor, tokens: FlexTensor) -> FlexTensor {
            let table = table.to_contiguous();
            let (vocab_size, width) = (table.shape()[0], table.shape()[1]);
            let mut shape = tokens.shape().to_vec();
            shape.push(width);
            let rows = WeightRows::of(&table);
            let mut out = vec![0.0; shape.iter().product()];
            for (token, out) in indices(&tokens).into_iter().zip(out.chunks_exact_mut(width)) {
                assert!(token < vocab_size, "embedding: id {token} of a vocabulary of {vocab_size}");
                rows.slice(token * width, width).widen_into(out);
            }
            tensor(out, shape)
        }
    }

    impl EmbeddingBackward for Flex {
        fn lookup_backward(grad: FlexTensor, tokens: FlexTensor, vocab_size: usize) -> FlexTensor {
            let grad = dense(grad);
            let shape = grad.shape();
            let width = shape[shape.num_dims() - 1];
            let mut out = vec![0.0; vocab_size * width];
            for (token, grad) in indices(&tokens).into_iter().zip(values(&grad).chunks_exact(width)) {
                let row = &mut out[token * width..(token + 1) * width];
                row.iter_mut().zip(grad).for_each(|(sum, term)| *sum += term);
            }
            tensor(out, [vocab_size, width])
        }
    }

    impl<B: EmbeddingBackward, C: CheckpointStrategy> Embedding for Autodiff<B, C> {
        fn embedding_lookup(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;

            impl<B: EmbeddingBackward> Backward<B, 1> for Step {
                type State = (IntTensor<B>, usize);

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let grad = grads.consume::<B>(&ops.node);
                    if let [Some(node)] = ops.parents {
                        grads.register::<B>(node.id, B::lookup_backward(grad, ops.state.0, ops.state.1));
                    }
                }
            }

            match Step.prepare::<C>([table.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let table = table.into_primitive();
                    let vocab_size = table.shape()[0];
                    prep.finish((tokens.clone(), vocab_size), B::embedding_lookup(table, tokens))
                }
                OpsKind::UnTracked(prep) => prep.finish(B::embedding_lookup(table.into_primitive(), tokens)),
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;

    fn tokens(device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::from([[3, 0, 3], [6, 3, 1]]), device)
    }

    #[test]
    fn the_kernel_gives_the_rows_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        let table = Tensor::<2>::random([7, 5], Distribution::Default, &device).require_grad();
        let run = |f: fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>| {
            let y = f(table.clone(), tokens(&device));
            let grads = y.clone().square().sum().backward();
            [y.inner().into_data(), table.grad(&grads).unwrap().into_data()]
        };
        for (found, expected) in run(embedding).iter().zip(&run(embedding_reference)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-6));
        }
    }

    #[test]
    fn half_precision_rows_are_widened() {
        let device = Device::flex();
        for dtype in [DType::F16, DType::BF16] {
            let table = Tensor::<2>::random([7, 5], Distribution::Default, &device).cast(dtype);
            assert_eq!(
                embedding(table.clone(), tokens(&device)).into_data(),
                embedding_reference(table, tokens(&device)).into_data()
            );
        }
    }

    #[test]
    #[should_panic(expected = "embedding: id 6 of a vocabulary of 6")]
    fn an_id_beyond_the_table_is_refused() {
        let device = Device::flex();
        embedding(Tensor::zeros([6, 2], &device), tokens(&device));
    }
}
