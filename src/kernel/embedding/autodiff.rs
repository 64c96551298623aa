//! The gradient of a table: rows of the output gradient, added up by token.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, TensorMetadata};

use super::{Embedding, EmbeddingBackward};
use crate::trace::Work;

impl<B: EmbeddingBackward, C: CheckpointStrategy> Embedding for Autodiff<B, C> {
    fn embedding_rows(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: EmbeddingBackward> Backward<B, 1> for Step {
            type State = (IntTensor<B>, usize, Work);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (tokens, vocab_size, work) = ops.state;
                if let [Some(node)] = ops.parents {
                    work.count_gradients(false, true);
                    grads.register::<B>(node.id, B::lookup_backward(grad, tokens, vocab_size));
                }
            }
        }

        match Step.prepare::<C>([table.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let table = table.into_primitive();
                let vocab_size = table.shape()[0];
                prep.finish((tokens.clone(), vocab_size, Work::of_latest()), B::embedding_rows(table, tokens))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::embedding_rows(table.into_primitive(), tokens)),
        }
    }
}
