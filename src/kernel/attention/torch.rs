//! Attention by libtorch's `scaled_dot_product_attention`, which chooses a kernel for the device: FlashAttention where its
//! shapes and masks allow it.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{Attention, AttentionBackward, Band, Inputs, Kept, Mask};
use crate::kernel::torch::gradients;

/// Which keys the queries see, as the operation takes it.
struct Visible {
    /// Each query `i` of `n` sees keys `0..=i` of `n`.
    is_causal: bool,
    /// True where a query sees a key, broadcast over heads; all keys if none.
    mask: Option<Tensor>,
    /// True of queries that are padding, `[batch_size, num_queries, 1, 1]`.
    is_padding: Option<Tensor>,
    /// Keys that some query may see.
    num_keys: i64,
}

impl Visible {
    fn new(mask: &Mask<LibTorch>, q: &Tensor) -> Self {
        let num_queries = q.size()[1];
        match mask {
            Mask::Band(Band { past, window }) => {
                let past = *past as i64;
                let num_keys = past + num_queries;
                let window = window.map(|window| window as i64).filter(|window| *window < num_keys);
                let is_causal = past == 0 && window.is_none();
                let sees_all = num_queries == 1 && window.is_none();
                let mask = (!is_causal && !sees_all).then(|| {
                    let end = Tensor::arange_start(past + 1, num_keys + 1, (Kind::Int64, q.device())).unsqueeze(1);
                    between(&(&end - window.unwrap_or(num_keys)), &end, num_keys)
                });
                Self { is_causal, mask, is_padding: None, num_keys }
            }
            Mask::Ragged { bounds, num_keys } => {
                let [first, end] = [0, 1].map(|side| bounds.tensor.narrow(2, side, 1).unsqueeze(1));
                let num_keys = *num_keys as i64;
                // Padding sees one key, so that no number on the way is NaN.
                let mask = between(&first, &end.clamp_min(1), num_keys);
                let is_padding = end.eq(0).transpose(1, 2);
                Self { is_causal: false, mask: Some(mask), is_padding: Some(is_padding), num_keys }
            }
        }
    }

    fn attend(&self, [q, k, v]: [&Tensor; 3]) -> Tensor {
        let is_grouped = q.size()[2] != k.size()[2];
        let [k, v] = [k, v].map(|x| x.narrow(1, 0, self.num_keys).transpose(1, 2));
        let q = q.transpose(1, 2);
        let mask = self.mask.as_ref();
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, self.is_causal, None, is_grouped);
        let y = y.transpose(1, 2);
        match &self.is_padding {
            Some(is_padding) => y.masked_fill(is_padding, 0.0),
            None => y,
        }
    }
}

/// True where `first ≤ key < end`, for bounds of `[.., num_queries, 1]`: `[.., num_queries, num_keys]`.
fn between(first: &Tensor, end: &Tensor, num_keys: i64) -> Tensor {
    let keys = Tensor::arange(num_keys, (Kind::Int64, end.device()));
    first.le_tensor(&keys).logical_and(&end.gt_tensor(&keys))
}

impl Attention for LibTorch {
    fn attention_forward(q: TchTensor, k: TchTensor, v: TchTensor, mask: Mask<Self>) -> TchTensor {
        let visible = Visible::new(&mask, &q.tensor);
        TchTensor::new(visible.attend([&q, &k, &v].map(|x| &x.tensor)).contiguous())
    }
}

impl AttentionBackward for LibTorch {
    fn attention_backward(grad: TchTensor, inputs: Inputs<Self>, _: Option<Kept<Self>>) -> [TchTensor; 3] {
        let Inputs { q, k, v, mask } = inputs;
        let visible = Visible::new(&mask, &q.tensor);
        gradients([&q, &k, &v], &grad, |inputs| visible.attend(inputs.each_ref()))
    }
}
