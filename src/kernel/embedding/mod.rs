//! Rows of a table by index, and the sum of gradients back into them.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "tch")]
mod torch;

#[cfg(feature = "flex")]
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::trace::Op;

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// `y[b, t] = table[tokens[b, t]]`, widened to float32.
///
/// # Shapes
/// - `table`: `[vocab_size, hidden_size]`
/// - `tokens`: `[batch_size, seq_length]`
/// - result: `[batch_size, seq_length, hidden_size]`
///
/// # Panics
/// On Flex and libtorch, if an id is not below `vocab_size`; on a GPU the row is then unspecified.
pub fn embedding(table: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let [vocab_size, hidden_size] = table.dims();
    crate::trace::count(Op {
        multiply_adds: 0,
        bytes: tokens.shape().num_elements() * hidden_size * table.dtype().size(),
        parameters: vocab_size * hidden_size,
    });
    #[cfg(feature = "flex")]
    if has_kernel(&table.device()) {
        return Tensor::from_dispatch(<Dispatch as Embedding>::embedding_rows(
            table.into_dispatch(),
            tokens.into_dispatch(),
        ));
    }
    embedding_reference(table, tokens)
}

/// [`embedding`] by Burn's operations.
pub fn embedding_reference(table: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let [batch_size, seq_length] = tokens.dims();
    let [_, hidden_size] = table.dims();
    let rows = table.select(0, tokens.reshape([batch_size * seq_length]));
    rows.cast(DType::F32).reshape([batch_size, seq_length, hidden_size])
}

/// The operation of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait Embedding: Backend {
    /// The rows.
    fn embedding_rows(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;
}

/// The gradient of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait EmbeddingBackward: Embedding {
    /// `dtable[v] = Σ over tokens equal to v of dy`, dense.
    fn lookup_backward(grad: FloatTensor<Self>, tokens: IntTensor<Self>, vocab_size: usize) -> FloatTensor<Self>;
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
