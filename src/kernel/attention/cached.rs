//! Attention that turns its queries and keys and appends to a cache: all that stands between the projections of a layer
//! when it decodes.

use burn::tensor::Tensor;

use super::{CausalMask, assert_sizes, attention, attention_reference};
use crate::kernel::rope::{rope, rope_reference};

/// Keys, turned, and values of the positions so far, with room for more.
#[derive(Debug, Clone)]
pub struct Cache {
    /// `[batch_size, capacity, num_kv_heads, head_dim]`.
    pub keys: Tensor<4>,
    /// The same shape.
    pub values: Tensor<4>,
}

impl Cache {
    /// Writes keys and values of the positions from `start` on; in place if nobody else has the cache.
    fn write(self, k: Tensor<4>, v: Tensor<4>, start: usize) -> Self {
        let [batch_size, len, heads, head_dim] = k.dims();
        let place = [0..batch_size, start..start + len, 0..heads, 0..head_dim];
        Self { keys: self.keys.slice_assign(place.clone(), k), values: self.values.slice_assign(place, v) }
    }
}

/// [`rope`] of `q` and `k`, which stand at the positions from `mask.past` on; `k` and `v` written to the cache at
/// these positions; then [`attention`] to all of the cache that is visible. The cache is written to in place if nobody
/// else has it.
///
/// # Shapes
/// - `q`, result: `[batch_size, new positions, num_heads, head_dim]`
/// - `k`, `v`: `[batch_size, new positions, num_kv_heads, head_dim]`
/// - `cos`, `sin`: `[new positions, head_dim / 2]`
///
/// # Panics
/// If the sizes disagree, or the cache has no room.
pub fn cached_attention(
    [q, k, v]: [Tensor<4>; 3],
    [cos, sin]: [Tensor<2>; 2],
    cache: Cache,
    mask: CausalMask,
) -> (Tensor<4>, Cache) {
    assert_sizes(&q, &cache.keys, &cache.values, mask);
    let ([batch_size, new, ..], [_, _, num_kv_heads, head_dim]) = (q.dims(), cache.keys.dims());
    for x in [&k, &v] {
        assert_eq!(x.dims(), [batch_size, new, num_kv_heads, head_dim], "cached_attention: new keys and values");
    }
    #[cfg(feature = "flex")]
    if flex::takes(&q) {
        return flex::cached_attention([q, k, v], [cos, sin], cache, mask);
    }
    let [q, k] = [q, k].map(|x| rope(x, cos.clone(), sin.clone()));
    let cache = cache.write(k, v, mask.past);
    (attention(q, cache.keys.clone(), cache.values.clone(), mask), cache)
}

/// The same by Burn's own operations.
pub fn cached_attention_reference(
    [q, k, v]: [Tensor<4>; 3],
    [cos, sin]: [Tensor<2>; 2],
    cache: Cache,
    mask: CausalMask,
) -> (Tensor<4>, Cache) {
    let [q, k] = [q, k].map(|x| rope_reference(x, cos.clone(), sin.clone()));
    let cache = cache.write(k, v, mask.past);
    (attention_reference(q, cache.keys.clone(), cache.values.clone(), mask), cache)
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::Tensor;

    use super::super::flex::{Sizes, attend};
    use super::super::{CausalMask, count};
    use super::Cache;
    use crate::kernel::cpu::{dense, tensor, values, whole};
    use crate::kernel::projections::flex::primitive;
    use crate::kernel::rope::flex::Rope;

    pub use crate::kernel::projections::flex::takes;

    pub fn cached_attention(
        [q, k, v]: [Tensor<4>; 3],
        [cos, sin]: [Tensor<2>; 2],
        cache: Cache,
        mask: CausalMask,
    ) -> (Tensor<4>, Cache) {
        assert_eq!([cos.dims(), sin.dims()], [[q.dims()[1], q.dims()[3] / 2]; 2], "rope: tables");
        count(&q, mask);
        let [cos, sin] = [cos, sin].map(primitive);
        let [q, k] = [q, k].map(|x| Flex::rope_forward(primitive(x), cos.clone(), sin.clone()));
        let v = dense(primitive(v));
        let [mut keys, mut old_values] = [cache.keys, cache.values].map(|buffer| whole(primitive(buffer)));
        let sizes = Sizes::of(&q, &keys);
        for (buffer, new) in [(&mut keys, values(&k)), (&mut old_values, values(&v))] {
            sizes.append(new, buffer.storage_mut::<f32>(), mask.past);
        }
        let y = attend(sizes, mask, values(&q), values(&keys), values(&old_values));
        let [keys, values] = [keys, old_values].map(Tensor::from_primitive::<Flex>);
        (Tensor::from_primitive::<Flex>(tensor(y, q.shape())), Cache { keys, values })
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    /// Queries, keys and values of `len` positions, and their angles.
    fn step(
        [batch_size, len]: [usize; 2],
        [num_heads, num_kv_heads]: [usize; 2],
        head_dim: usize,
        device: &Device,
    ) -> ([Tensor<4>; 3], [Tensor<2>; 2]) {
        let new = [num_heads, num_kv_heads, num_kv_heads];
        let new = new.map(|heads| random([batch_size, len, heads, head_dim], device));
        (new, [(); 2].map(|()| random([len, head_dim / 2], device)))
    }

    fn empty(sizes: [usize; 4], device: &Device) -> Cache {
        Cache { keys: Tensor::zeros(sizes, device), values: Tensor::zeros(sizes, device) }
    }

    #[test]
    fn steps_of_any_length_give_what_the_reference_gives() {
        let device = Device::flex();
        for (batch_size, heads, kv_heads, head_dim, window) in
            [(1, 1, 1, 2, None), (2, 6, 2, 16, None), (3, 4, 4, 10, Some(3)), (1, 8, 1, 64, Some(70))]
        {
            let mut found = empty([batch_size, 100, kv_heads, head_dim], &device);
            let mut expected = found.clone();
            let mut past = 0;
            for len in [1, 5, 1, 66, 1, 1] {
                let (new, angles) = step([batch_size, len], [heads, kv_heads], head_dim, &device);
                let mask = CausalMask { past, window };
                let (y, cache) = cached_attention(new.clone(), angles.clone(), found, mask);
                let (expected_y, expected_cache) = cached_attention_reference(new, angles, expected, mask);
                y.into_data().assert_approx_eq::<f32>(&expected_y.into_data(), Tolerance::absolute(1e-4));
                for (found, expected) in [(&cache.keys, &expected_cache.keys), (&cache.values, &expected_cache.values)]
                {
                    found.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::absolute(1e-5));
                }
                (found, expected, past) = (cache, expected_cache, past + len);
            }
        }
    }

    #[test]
    fn a_cache_that_nobody_else_has_is_written_to_in_place() {
        let device = Device::flex();
        let addresses = |cache: &Cache| {
            [&cache.keys, &cache.values]
                .map(|buffer| buffer.clone().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr())
        };
        let cache = empty([2, 10, 2, 4], &device);
        let before = addresses(&cache);
        let attend = |cache, past| {
            let (new, angles) = step([2, 3], [6, 2], 4, &device);
            cached_attention(new, angles, cache, CausalMask { past, window: None })
        };
        let (_, cache) = attend(cache, 0);
        assert_eq!(addresses(&cache), before);
        let kept = cache.clone();
        let (_, cache) = attend(cache, 3);
        assert!(addresses(&cache).iter().zip(before).all(|(now, before)| *now != before), "a clone keeps its numbers");
        let written = |cache: &Cache| cache.keys.clone().slice([0..2, 3..6]).abs().sum().into_scalar::<f32>();
        assert_eq!(written(&kept), 0.0);
        assert!(written(&cache) > 0.0);
    }

    #[test]
    #[should_panic(expected = "cached_attention: new keys and values")]
    fn a_cache_of_other_heads_is_refused() {
        let device = Device::flex();
        let (new, angles) = step([1, 2], [6, 3], 4, &device);
        cached_attention(new, angles, empty([1, 40, 1, 4], &device), CausalMask { past: 0, window: None });
    }

    #[test]
    fn gradients_reach_queries_keys_and_values() {
        let device = Device::flex().autodiff();
        let (new, angles) = step([2, 3], [4, 2], 6, &device);
        let new = new.map(Tensor::require_grad);
        type Attend = fn([Tensor<4>; 3], [Tensor<2>; 2], Cache, CausalMask) -> (Tensor<4>, Cache);
        let run = |f: Attend| {
            let cache = empty([2, 5, 2, 6], &device);
            let (y, _) = f(new.clone(), angles.clone(), cache, CausalMask { past: 1, window: None });
            let grads = y.powi_scalar(2).sum().backward();
            new.each_ref().map(|x| x.grad(&grads).unwrap().into_data())
        };
        for (found, expected) in run(cached_attention).iter().zip(&run(cached_attention_reference)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
        }
    }

    #[test]
    #[should_panic(expected = "of 4 positions")]
    fn a_full_cache_refuses_more() {
        let device = Device::flex();
        let (new, angles) = step([1, 2], [2, 2], 4, &device);
        cached_attention(new, angles, empty([1, 4, 2, 4], &device), CausalMask { past: 3, window: None });
    }
}
