//! Attention with a cache that is written to in place.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::super::{Mask, cached::CachedAttention};
use super::forward::attend;
use super::layout::{Sizes, Visible};
use crate::kernel::cpu::{compact, dense, tensor, values};
use crate::kernel::rope::Rope;

impl CachedAttention for Flex {
    fn cached_attention_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        keys: FlexTensor,
        cached_values: FlexTensor,
        mask: Mask<Self>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [q, k] = [q, k].map(|x| Self::rope_forward(x, cos.clone(), sin.clone()));
        let v = dense(v);
        let [mut keys, mut all_values] = [keys, cached_values].map(compact);
        let sizes = Sizes::of(&q, &keys);
        let visible = Visible::new(mask, sizes.num_queries);
        for (buffer, new) in [(&mut keys, &k), (&mut all_values, &v)] {
            sizes.append(values(new), buffer.storage_mut::<f32>(), &visible);
        }
        let y = attend(sizes, &visible, [&q, &keys, &all_values].map(values));
        (tensor(y, q.shape()), keys, all_values)
    }
}
