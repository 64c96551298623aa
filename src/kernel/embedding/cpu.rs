//! Embedding lookup on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{Embedding, EmbeddingBackward};
use crate::kernel::cpu::{WeightRows, dense, empty, indices, tensor, values};

impl Embedding for Flex {
    fn embedding_rows(table: FlexTensor, tokens: FlexTensor) -> FlexTensor {
        let table = table.to_contiguous();
        let (vocab_size, width) = (table.shape()[0], table.shape()[1]);
        let mut shape = tokens.shape().to_vec();
        shape.push(width);
        let rows = WeightRows::from_tensor(&table);
        let mut out = empty(shape.iter().product());
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
