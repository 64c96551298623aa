//! Keys and values of the tokens seen so far.

use burn::tensor::{Device, Tensor};

use super::Rotation;
use crate::config::DecoderConfig;
use crate::kernel::attention::{Cache, CausalMask, cached_attention};

/// The cache of a whole decoder: one [`LayerCache`] a layer, room for a fixed number of positions.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache with room for `capacity` positions of `batch_size` sequences, in float32.
    pub fn new(config: &DecoderConfig, batch_size: usize, capacity: usize, device: &Device) -> Self {
        let layer = |_| {
            let room = || Tensor::zeros([batch_size, capacity, config.num_key_value_heads, config.head_dim], device);
            LayerCache { cache: Some(Cache { keys: room(), values: room() }), len: 0 }
        };
        Self { layers: (0..config.num_hidden_layers).map(layer).collect() }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len)
    }

    /// Whether nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every position from `len` on: what is appended next continues the prefix that is left.
    ///
    /// # Panics
    /// If fewer than `len` positions are held.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "a cache of {} positions has no prefix of {len}", self.len());
        self.layers.iter_mut().for_each(|layer| layer.len = len);
    }

    /// The caches of the layers, first layer first.
    pub(super) fn layers(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct LayerCache {
    /// Taken out while it is written to, so that nobody else holds the buffers and the write happens in place.
    cache: Option<Cache>,
    len: usize,
}

impl LayerCache {
    /// Turns queries and keys, writes keys and values behind the old ones, in place, and attends to all.
    ///
    /// # Shapes
    /// - queries, result: `[batch_size, new positions, num_heads, head_dim]`
    /// - keys, values: `[batch_size, new positions, num_kv_heads, head_dim]`
    ///
    /// # Panics
    /// If there is no room.
    pub fn attend(&mut self, new: [Tensor<4>; 3], rotation: &Rotation, window: Option<usize>) -> Tensor<4> {
        let mask = CausalMask { past: self.len, window };
        let end = self.len + new[0].dims()[1];
        let capacity = self.cache.as_ref().map_or(0, |cache| cache.keys.dims()[1]);
        assert!(end <= capacity, "{end} positions do not fit a cache of {capacity}");
        let cache = self.cache.take().expect("a cache is only out during a write");
        let (y, cache) = cached_attention(new, rotation.tables(), cache, mask);
        self.cache = Some(cache);
        self.len = end;
        y
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::model::RotaryEmbedding;

    /// Heads of queries, keys and values.
    fn heads(config: &DecoderConfig) -> [usize; 3] {
        [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    }

    #[test]
    fn attending_writes_in_place() {
        let (device, config) = (Device::flex(), DecoderConfig::pico());
        let rotary = RotaryEmbedding::init(&config, &device);
        let mut cache = KvCache::new(&config, 2, 10, &device);
        let layer = &mut cache.layers()[0];
        let addresses = |layer: &LayerCache| {
            let Cache { keys, values } = layer.cache.as_ref().expect("nothing is being written");
            [keys, values]
                .map(|buffer| buffer.clone().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr())
        };
        let before = addresses(layer);
        for (start, len) in [(0, 3), (3, 1), (4, 4)] {
            let new = heads(&config).map(|heads| Tensor::ones([2, len, heads, config.head_dim], &device));
            layer.attend(new, &rotary.rotation(start, len, &device), None);
            assert_eq!(addresses(layer), before);
        }
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_full_cache_refuses_more() {
        let (device, config) = (Device::flex(), DecoderConfig::pico());
        let rotation = RotaryEmbedding::init(&config, &device).rotation(0, 5, &device);
        let new = heads(&config).map(|heads| Tensor::zeros([1, 5, heads, config.head_dim], &device));
        KvCache::new(&config, 1, 4, &device).layers()[0].attend(new, &rotation, None);
    }

    #[test]
    fn a_prefix_that_is_kept_gives_the_attention_that_it_gave() {
        let (device, config) = (Device::flex(), DecoderConfig::pico());
        let rotary = RotaryEmbedding::init(&config, &device);
        let mut cache = KvCache::new(&config, 2, 10, &device);
        let new = |salt: i64, len: usize| {
            heads(&config).map(|heads| {
                let numbers = (2 * len * heads * config.head_dim) as i64;
                let numbers = Tensor::<1, burn::tensor::Int>::arange(salt..salt + numbers, &device).float().sin();
                numbers.reshape([2, len, heads, config.head_dim])
            })
        };
        let mut attend = |start: usize, len: usize, salt: i64| {
            cache.truncate(start);
            cache.layers()[0].attend(new(salt, len), &rotary.rotation(start, len, &device), None).into_data()
        };
        attend(0, 3, 1);
        let first = attend(3, 4, 5);
        assert_ne!(attend(3, 4, 6), first);
        assert_eq!(attend(3, 4, 5), first);
    }
}
