//! Attention by libtorch's `scaled_dot_product_attention`, which chooses a kernel for the device: FlashAttention where its
//! shapes and masks allow it.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::cached::CachedAttention;
use super::{Attention, AttentionBackward, Band, Inputs, Kept, Mask};
use crate::kernel::rope::Rope;
use crate::kernel::torch::{gradients, owned};

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
            Mask::Ragged { bounds, num_keys, .. } => {
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

/// Writes new keys and values to the places of their queries, in place if the cache has no other owner and already has their
/// type.
fn append(cache: [TchTensor; 2], new: [&Tensor; 2], mask: &Mask<LibTorch>) -> [TchTensor; 2] {
    let mut buffers = cache.map(owned);
    for (buffer, new) in buffers.iter_mut().zip(new) {
        if buffer.tensor.kind() != new.kind() {
            *buffer = TchTensor::new(buffer.tensor.to_kind(new.kind()));
        }
    }
    let (batch_size, len, capacity) = (new[0].size()[0], new[0].size()[1], buffers[0].tensor.size()[1]);
    match mask {
        Mask::Band(band) => {
            for (buffer, new) in buffers.iter().zip(new) {
                buffer.tensor.narrow(1, band.past as i64, len).copy_(new);
            }
        }
        Mask::Ragged { bounds, .. } => {
            let options = (Kind::Int64, bounds.tensor.device());
            let ends = bounds.tensor.select(2, 1).to_kind(Kind::Int64);
            // No two queries have the same place: padding takes the places that follow, wraps around at the capacity, and
            // writes the values that are already there.
            let places = Tensor::arange(len, options) + ends.narrow(1, 0, 1).clamp_min(1) - 1i64;
            let places = places.remainder(capacity);
            let sequences = Tensor::arange(batch_size, options).unsqueeze(1);
            let places = [Some(&sequences), Some(&places)];
            let is_padding = ends.eq(0).unsqueeze(2).unsqueeze(3);
            for (buffer, new) in buffers.iter_mut().zip(new) {
                let new = buffer.tensor.index(&places).where_self(&is_padding, new);
                let _ = buffer.tensor.index_put_(&places, &new, false);
            }
        }
    }
    buffers
}

impl CachedAttention for LibTorch {
    fn cached_attention_forward(
        q: TchTensor,
        k: TchTensor,
        v: TchTensor,
        cos: TchTensor,
        sin: TchTensor,
        keys: TchTensor,
        values: TchTensor,
        mask: Mask<Self>,
    ) -> (TchTensor, TchTensor, TchTensor) {
        let q = Self::rope_forward(q, cos.clone(), sin.clone());
        let k = Self::rope_forward(k, cos, sin);
        let [keys, values] = append([keys, values], [&k.tensor, &v.tensor], &mask);
        let y = Self::attention_forward(q, keys.clone(), values.clone(), mask);
        (y, keys, values)
    }
}

impl AttentionBackward for LibTorch {
    fn attention_backward(grad: TchTensor, inputs: Inputs<Self>, _: Option<Kept<Self>>) -> [TchTensor; 3] {
        let Inputs { q, k, v, mask } = inputs;
        let visible = Visible::new(&mask, &q.tensor);
        gradients([&q, &k, &v], &grad, |inputs| visible.attend(inputs.each_ref()))
    }
}
