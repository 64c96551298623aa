//! Keys and values of the tokens seen so far.

use burn::tensor::{Device, Tensor};

use super::{Positions, TokenBatch};
use crate::config::DecoderConfig;
use crate::kernel::attention::{Cache, cached_attention};

/// The cache of a decoder: keys and values of each layer, with room for a fixed number of positions per sequence.
///
/// Sequences may have different lengths, and each may be cut back or begun anew while the others go on.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Positions of each sequence.
    lens: Vec<usize>,
    capacity: usize,
}

impl KvCache {
    /// An empty cache with room for `capacity` positions of each of `batch_size` sequences, in float32.
    pub fn new(config: &DecoderConfig, batch_size: usize, capacity: usize, device: &Device) -> Self {
        let layer = |_| {
            let room = || Tensor::zeros([batch_size, capacity, config.num_key_value_heads, config.head_dim], device);
            LayerCache(Some(Cache { keys: room(), values: room() }))
        };
        Self { layers: (0..config.num_hidden_layers).map(layer).collect(), lens: vec![0; batch_size], capacity }
    }

    /// Positions of each sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Cuts every sequence back to its first `len` positions: the next tokens continue that prefix.
    ///
    /// # Panics
    /// If a sequence has fewer than `len` positions.
    pub fn truncate(&mut self, len: usize) {
        (0..self.lens.len()).for_each(|sequence| self.truncate_sequence(sequence, len));
    }

    /// Cuts one sequence back to its first `len` positions; with 0, another sequence can take its place.
    ///
    /// # Panics
    /// If there is no such sequence, or it has fewer than `len` positions.
    pub fn truncate_sequence(&mut self, sequence: usize, len: usize) {
        let held = &mut self.lens[sequence];
        assert!(len <= *held, "a cache of {held} positions has no prefix of {len}");
        *held = len;
    }

    /// Makes the tokens of a pass part of their sequences; every layer has to [`attend`](LayerCache::attend) to them.
    ///
    /// # Panics
    /// If a sequence outgrows the capacity.
    pub(super) fn append(&mut self, tokens: &TokenBatch) -> &mut [LayerCache] {
        for (len, new) in self.lens.iter_mut().zip(tokens.lens()) {
            *len += new;
            assert!(*len <= self.capacity, "{len} positions do not fit a cache of {}", self.capacity);
        }
        &mut self.layers
    }
}

/// Keys and values of one layer; taken out while they are written to, so that they have one owner and change in place.
#[derive(Debug)]
pub struct LayerCache(Option<Cache>);

impl LayerCache {
    /// Rotates queries and keys, writes keys and values behind the old ones of their sequence, in place, and attends to all
    /// that the mask shows.
    ///
    /// # Shapes
    /// - queries, result: `[batch_size, new positions, num_heads, head_dim]`
    /// - keys, values: `[batch_size, new positions, num_kv_heads, head_dim]`
    ///
    /// # Panics
    /// If there is no room.
    pub fn attend(&mut self, new: [Tensor<4>; 3], positions: &Positions) -> Tensor<4> {
        let angles = [positions.rotation.cos.clone(), positions.rotation.sin.clone()];
        let cache = self.0.take().expect("in place between passes");
        let (y, cache) = cached_attention(new, angles, cache, &positions.mask);
        self.0 = Some(cache);
        y
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Int;

    use super::*;

    /// Queries, keys and values of new positions.
    fn new(config: &DecoderConfig, salt: i64, batch_size: usize, len: usize) -> [Tensor<4>; 3] {
        let heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads];
        heads.map(|heads| {
            let numbers = (batch_size * len * heads * config.head_dim) as i64;
            let numbers = Tensor::<1, Int>::arange(salt..salt + numbers, &Device::flex()).float().sin();
            numbers.reshape([batch_size, len, heads, config.head_dim])
        })
    }

    /// Appends `len` positions to every sequence, and attends in the first layer.
    fn attend(cache: &mut KvCache, config: &DecoderConfig, salt: i64, len: usize) -> Tensor<4> {
        let batch_size = cache.lens().len();
        let tokens = TokenBatch::from(Tensor::zeros([batch_size, len], &Device::flex()));
        let positions = Positions::new(config, &tokens, Some(cache.lens()), &Device::flex());
        cache.append(&tokens)[0].attend(new(config, salt, batch_size, len), &positions)
    }

    #[test]
    fn attending_writes_in_place() {
        let config = DecoderConfig::pico();
        let mut cache = KvCache::new(&config, 2, 10, &Device::flex());
        let addresses = |cache: &KvCache| {
            let Cache { keys, values } = cache.layers[0].0.as_ref().expect("in place");
            [keys, values]
                .map(|buffer| buffer.clone().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr())
        };
        let before = addresses(&cache);
        for len in [3, 1, 4] {
            attend(&mut cache, &config, 0, len);
            assert_eq!(addresses(&cache), before);
        }
        cache.truncate_sequence(1, 2);
        attend(&mut cache, &config, 0, 1);
        assert_eq!((addresses(&cache), cache.lens()), (before, [9, 3].as_slice()));
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_full_cache_refuses_more() {
        let config = DecoderConfig::pico();
        attend(&mut KvCache::new(&config, 1, 4, &Device::flex()), &config, 0, 5);
    }

    #[test]
    fn a_prefix_gives_the_attention_that_it_gave() {
        let config = DecoderConfig::pico();
        let mut cache = KvCache::new(&config, 2, 10, &Device::flex());
        attend(&mut cache, &config, 1, 3);
        let mut again = |salt: i64| {
            cache.truncate(3);
            attend(&mut cache, &config, salt, 4).into_data()
        };
        let first = again(5);
        assert_ne!(again(6), first);
        assert_eq!(again(5), first);
    }
}
