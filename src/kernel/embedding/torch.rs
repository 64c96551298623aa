//! Embedding lookup on libtorch.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{Embedding, EmbeddingBackward};

impl Embedding for LibTorch {
    fn embedding_rows(table: TchTensor, tokens: TchTensor) -> TchTensor {
        let mut shape = tokens.tensor.size();
        shape.push(table.tensor.size()[1]);
        let rows = table.tensor.index_select(0, &tokens.tensor.reshape([-1]));
        TchTensor::new(rows.to_kind(Kind::Float).reshape(shape))
    }
}

impl EmbeddingBackward for LibTorch {
    fn lookup_backward(grad: TchTensor, tokens: TchTensor, vocab_size: usize) -> TchTensor {
        const NO_PADDING: i64 = -1;
        let vocab_size = vocab_size as i64;
        TchTensor::new(Tensor::embedding_dense_backward(&grad.tensor, &tokens.tensor, vocab_size, NO_PADDING, false))
    }
}
