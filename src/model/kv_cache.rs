//! Keys and values of the tokens seen so far.

use burn::tensor::{Device, Tensor};

use crate::config::DecoderConfig;

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
            LayerCache { keys: Some(room()), values: Some(room()), len: 0 }
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
    /// `[batch_size, capacity, num_kv_heads, head_dim]`; taken out while it is written to, so that nobody else
    /// holds the buffer and the write happens in place.
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
    len: usize,
}

impl LayerCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes new positions behind the old ones, in place, and returns all keys and values with their spare room.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[batch_size, new positions, num_kv_heads, head_dim]`
    /// - result: `[batch_size, capacity, num_kv_heads, head_dim]`
    ///
    /// # Panics
    /// If there is no room.
    pub fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let end = self.len + keys.dims()[1];
        let write = |buffer: &mut Option<Tensor<4>>, new: Tensor<4>| {
            let [batch_size, _, heads, head_dim] = new.dims();
            let old = buffer.take().expect("a buffer is only out during a write");
            let capacity = old.dims()[1];
            assert!(end <= capacity, "{end} positions do not fit a cache of {capacity}");
            let written = old.slice_assign([0..batch_size, self.len..end, 0..heads, 0..head_dim], new);
            buffer.insert(written).clone()
        };
        let all = (write(&mut self.keys, keys), write(&mut self.values, values));
        self.len = end;
        all
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Distribution;

    use super::*;

    fn address(tensor: &Tensor<4>) -> *const f32 {
        tensor.clone().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr()
    }

    #[test]
    fn appending_writes_in_place() {
        let device = Device::flex();
        let mut cache = KvCache::new(&DecoderConfig::pico(), 2, 10, &device);
        let new = |len| Tensor::<4>::random([2, len, 2, 24], Distribution::Default, &device);
        let layer = &mut cache.layers()[0];
        let first = layer.append(new(3), new(3));
        let before = (address(&first.0), address(&first.1));
        drop(first);
        let (more, values) = (new(4), new(4));
        let (keys, values) = layer.append(more.clone(), values);
        assert_eq!((address(&keys), address(&values)), before);
        assert_eq!(keys.slice([0..2, 3..7]).into_data(), more.into_data());
        assert_eq!(layer.len(), 7);
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_full_cache_refuses_more() {
        let device = Device::flex();
        let new = || Tensor::zeros([1, 5, 2, 24], &device);
        KvCache::new(&DecoderConfig::pico(), 1, 4, &device).layers()[0].append(new(), new());
    }
}
