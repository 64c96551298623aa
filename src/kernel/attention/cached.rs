//! Attention with a cache: rotates queries and keys, appends keys and values, and attends to all of them. A decoding step
//! has nothing else between the projections of its layers.

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor};

#[cfg(feature = "flex")]
use super::Mask;
use super::{CausalMask, attention, attention_reference, mask::Ragged};
use crate::kernel::rope::{rope, rope_reference};

/// Rotated keys, and values, of the positions so far, with room for more.
#[derive(Debug, Clone)]
pub struct Cache {
    /// `[batch_size, capacity, num_kv_heads, head_dim]`.
    pub keys: Tensor<4>,
    /// The same shape.
    pub values: Tensor<4>,
}

impl Cache {
    /// Writes each new key and value to the place that its query has; in place if the backend can, the cache has no other
    /// owner and already has their type.
    fn write(self, k: Tensor<4>, v: Tensor<4>, mask: &CausalMask) -> Self {
        let [batch_size, len, heads, head_dim] = k.dims();
        let (keys, values) = (self.keys.cast(k.dtype()), self.values.cast(v.dtype()));
        let [keys, values] = match mask {
            CausalMask::Band(band) => {
                let place = [0..batch_size, band.past..band.past + len, 0..heads, 0..head_dim];
                [(keys, k), (values, v)].map(|(old, new)| old.slice_assign(place.clone(), new))
            }
            CausalMask::Ragged(Ragged { bounds, .. }) => {
                let [_, capacity, ..] = keys.dims();
                let (num_rows, width) = (batch_size * len, heads * head_dim);
                let (places, ends) = (places(bounds, capacity), bounds.clone().narrow(2, 1, 1));
                let is_padding = ends.equal_elem(0).reshape([num_rows, 1]).expand([num_rows, width]);
                [(keys, k), (values, v)].map(|(old, new)| {
                    let old = old.reshape([batch_size * capacity, width]);
                    // Padding writes the values that are already there.
                    let kept = old.clone().select(0, places.clone());
                    let new = new.reshape([num_rows, width]).mask_where(is_padding.clone(), kept);
                    let written = old.select_assign(0, places.clone(), new, IndexingUpdateOp::Assign);
                    written.reshape([batch_size, capacity, heads, head_dim])
                })
            }
            CausalMask::Forked(_) => panic!("cached_attention: a cache of forked sequences"),
        };
        Self { keys, values }
    }
}

/// The rows of a cache, of all sequences, that the queries write. No two write the same: padding takes the rows
/// that follow, and wraps around at the capacity.
fn places(bounds: &Tensor<3, Int>, capacity: usize) -> Tensor<1, Int> {
    let ([batch_size, len, _], device) = (bounds.dims(), bounds.device());
    let first_end = bounds.clone().slice([0..batch_size, 0..1, 1..2]).reshape([batch_size, 1]);
    let queries = Tensor::<1, Int>::arange(0..len as i64, &device).reshape([1, len]);
    let sequences = Tensor::<1, Int>::arange(0..batch_size as i64, &device).reshape([batch_size, 1]);
    let in_sequence = (first_end.clamp_min(1).sub_scalar(1) + queries).remainder_scalar(capacity as i64);
    (in_sequence + sequences.mul_scalar(capacity as i64)).reshape([batch_size * len])
}

/// Whether this device has a kernel. Where gradients are recorded, the operation is composed of those that it consists of.
pub fn has_kernel(device: &Device) -> bool {
    super::has_kernel(device) && !device.is_autodiff()
}

/// [`rope`] of `q` and `k`; `k` and `v` written to the cache, each where the mask has its query; then [`attention`] to all
/// keys of the cache that are visible. The cache is written to in place if it has no other owner.
///
/// # Shapes
/// - `q`, result: `[batch_size, new positions, num_heads, head_dim]`
/// - `k`, `v`: `[batch_size, new positions, num_kv_heads, head_dim]`
/// - `cos`, `sin`: `[batch_size or 1, new positions, head_dim / 2]`
///
/// # Panics
/// If there are no queries, the sizes disagree, the cache has no room, or the mask is one of forked sequences.
pub fn cached_attention(
    [q, k, v]: [Tensor<4>; 3],
    [cos, sin]: [Tensor<3>; 2],
    cache: Cache,
    mask: &CausalMask,
) -> (Tensor<4>, Cache) {
    super::assert_sizes(&q, &cache.keys, &cache.values, mask);
    let ([batch_size, new, ..], [_, _, num_kv_heads, head_dim]) = (q.dims(), cache.keys.dims());
    for x in [&k, &v] {
        assert_eq!(x.dims(), [batch_size, new, num_kv_heads, head_dim], "cached_attention: new keys and values");
    }
    #[cfg(feature = "flex")]
    if has_kernel(&q.device())
        && let Some(of_backend) = Mask::of(mask)
    {
        crate::kernel::rope::assert_tables(&q, &cos, &sin);
        super::count(&q, num_kv_heads, mask);
        let (y, keys, values) = <Dispatch as CachedAttention>::cached_attention_forward(
            q.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
            cache.keys.into_dispatch(),
            cache.values.into_dispatch(),
            of_backend,
        );
        let [y, keys, values] = [y, keys, values].map(Tensor::from_dispatch);
        return (y, Cache { keys, values });
    }
    let [q, k] = [q, k].map(|x| rope(x, cos.clone(), sin.clone()));
    let cache = cache.write(k, v, mask);
    (attention(q, cache.keys.clone(), cache.values.clone(), mask), cache)
}

/// The same by Burn's own operations.
pub fn cached_attention_reference(
    [q, k, v]: [Tensor<4>; 3],
    [cos, sin]: [Tensor<3>; 2],
    cache: Cache,
    mask: &CausalMask,
) -> (Tensor<4>, Cache) {
    let [q, k] = [q, k].map(|x| rope_reference(x, cos.clone(), sin.clone()));
    let cache = cache.write(k, v, mask);
    (attention_reference(q, cache.keys.clone(), cache.values.clone(), mask), cache)
}

/// The operation on a backend, for inference; shapes are those of [`cached_attention`].
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"))]
pub(in crate::kernel) trait CachedAttention: Backend {
    /// The result, keys and values.
    #[allow(clippy::too_many_arguments, reason = "primitives cross the dispatch one by one")]
    fn cached_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        #[extension_type] mask: Mask<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
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
    ) -> ([Tensor<4>; 3], [Tensor<3>; 2]) {
        let new = [num_heads, num_kv_heads, num_kv_heads];
        let new = new.map(|heads| random([batch_size, len, heads, head_dim], device));
        (new, [(); 2].map(|()| random([1, len, head_dim / 2], device)))
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
                let mask = CausalMask::band(past, window);
                let (y, cache) = cached_attention(new.clone(), angles.clone(), found, &mask);
                let (expected_y, expected_cache) = cached_attention_reference(new, angles, expected, &mask);
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
            cached_attention(new, angles, cache, &CausalMask::band(past, None))
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
        cached_attention(new, angles, empty([1, 40, 1, 4], &device), &CausalMask::band(0, None));
    }

    #[test]
    fn gradients_reach_queries_keys_and_values() {
        let device = Device::flex().autodiff();
        let (new, angles) = step([2, 3], [4, 2], 6, &device);
        let new = new.map(Tensor::require_grad);
        type Attend = fn([Tensor<4>; 3], [Tensor<3>; 2], Cache, &CausalMask) -> (Tensor<4>, Cache);
        let run = |f: Attend| {
            let cache = empty([2, 5, 2, 6], &device);
            let (y, _) = f(new.clone(), angles.clone(), cache, &CausalMask::band(1, None));
            let grads = y.powi_scalar(2).sum().backward();
            new.each_ref().map(|x| x.grad(&grads).unwrap().into_data())
        };
        for (found, expected) in run(cached_attention).iter().zip(&run(cached_attention_reference)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
        }
    }

    #[test]
    #[should_panic(expected = "5 keys for 4 positions")]
    fn a_full_cache_refuses_more() {
        let device = Device::flex();
        let (new, angles) = step([1, 2], [2, 2], 4, &device);
        cached_attention(new, angles, empty([1, 4, 2, 4], &device), &CausalMask::band(3, None));
    }

    #[test]
    fn sequences_of_different_lengths_are_appended_each_to_its_own_end() {
        let device = Device::flex();
        let full = random([3, 40, 2, 6], &device);
        let cache = Cache { keys: full.clone(), values: full.clone() };
        let keys = |past: usize, len: usize| (past..past + len).map(|i| 0..i + 1).collect::<Vec<_>>();
        let mask = CausalMask::ragged(&[keys(30, 3), vec![], keys(0, 5)], &device);
        let (new, [cos, sin]) = step([3, 5], [4, 2], 6, &device);
        let angles = [cos, sin].map(|table| table.repeat_dim(0, 3));
        let (y, found) = cached_attention(new.clone(), angles.clone(), cache.clone(), &mask);
        let (expected_y, expected) = cached_attention_reference(new.clone(), angles, cache, &mask);
        y.into_data().assert_approx_eq::<f32>(&expected_y.into_data(), Tolerance::absolute(1e-4));
        for (found, expected) in [(&found.keys, &expected.keys), (&found.values, &expected.values)] {
            found.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::absolute(1e-5));
        }
        let part = |x: &Tensor<4>, batch: usize, start: usize, len: usize| {
            x.clone().narrow(0, batch, 1).narrow(1, start, len).into_data()
        };
        for (batch, past, len) in [(0, 30, 3), (2, 0, 5)] {
            assert_eq!(part(&found.values, batch, past, len), part(&new[2], batch, 0, len));
            assert_eq!(part(&found.values, batch, past + len, 2), part(&full, batch, past + len, 2));
        }
        assert_eq!(part(&found.values, 1, 0, 40), part(&full, 1, 0, 40), "an idle sequence is untouched");
    }
}
