//! Keys and values of the tokens seen so far.

use std::mem;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::Positions;
use crate::config::DecoderConfig;
use crate::kernel::attention::{Cache, cached_attention};
use crate::kernel::graph::{Buffer, buffer};

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
    /// An empty cache with room for `capacity` positions of each of `batch_size` sequences. It takes memory from the first pass on, in
    /// the type of keys and values.
    pub fn new(config: &DecoderConfig, batch_size: usize, capacity: usize, device: &Device) -> Self {
        let sizes = [batch_size, capacity, config.num_key_value_heads, config.head_dim];
        let layer = |_| LayerCache { sizes, device: device.clone(), written: None, is_written: false };
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

    /// Cuts one sequence back to nothing and writes zeros over its keys and values, which may not be finite. Attention of libtorch
    /// multiplies those that its mask hides by 0, so they would spoil the next sequence in this place.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn clear_sequence(&mut self, sequence: usize) {
        self.lens[sequence] = 0;
        self.layers.iter_mut().for_each(|layer| layer.clear_sequence(sequence));
    }

    /// A new cache with copies of some sequences, in this order and as often as they are named: forks of a shared prefix.
    ///
    /// # Panics
    /// If there is no such sequence, or one has more than `capacity` positions.
    pub fn gather(&self, sequences: &[usize], capacity: usize) -> Self {
        let lens: Vec<usize> = sequences.iter().map(|sequence| self.lens[*sequence]).collect();
        let longest = lens.iter().copied().max().unwrap_or(0);
        assert!(longest <= capacity, "{longest} positions do not fit a cache of {capacity}");
        // Behind the prefix, the last position again: there, only finite numbers matter.
        let last = longest.saturating_sub(1);
        let positions = |&sequence: &usize| {
            let first = sequence * self.capacity;
            (0..capacity).map(move |position| (first + position.min(last)) as i32)
        };
        let positions: Vec<i32> = sequences.iter().flat_map(positions).collect();
        let layers = self.layers.iter().map(|layer| layer.gather(&positions, sequences.len())).collect();
        Self { layers, lens, capacity }
    }

    /// Replaces sequence `at` by a copy of a sequence of another cache, in place: continuous batching computes a prompt in a
    /// cache of its own, so that the other sequences are not padded to its length.
    ///
    /// # Panics
    /// If there is no such sequence in either cache, it does not fit this one, or the caches are of different models.
    pub fn write_sequence(&mut self, at: usize, from: &Self, sequence: usize) {
        self.write_prefix(at, from, sequence, from.lens[sequence]);
    }

    /// As [`write_sequence`](Self::write_sequence), with the first `len` positions of the sequence only: another one that
    /// begins alike continues them.
    ///
    /// # Panics
    /// If the sequence has fewer than `len` positions, and as [`write_sequence`](Self::write_sequence).
    pub fn write_prefix(&mut self, at: usize, from: &Self, sequence: usize, len: usize) {
        let held = from.lens[sequence];
        assert!(len <= held, "a cache of {held} positions has no prefix of {len}");
        assert!(len <= self.capacity, "{len} positions do not fit a cache of {}", self.capacity);
        assert_eq!(self.layers.len(), from.layers.len(), "layers of two caches");
        self.lens[at] = len;
        for (layer, from) in self.layers.iter_mut().zip(&from.layers) {
            layer.write_sequence(at, from, sequence, len);
        }
    }

    /// Makes this many tokens of each sequence part of it; every layer has to [`attend`](LayerCache::attend) to them.
    ///
    /// # Panics
    /// If a sequence outgrows the capacity.
    pub(super) fn append(&mut self, lens: impl IntoIterator<Item = usize>) -> &mut [LayerCache] {
        for (len, new) in self.lens.iter_mut().zip(lens) {
            *len += new;
            assert!(*len <= self.capacity, "{len} positions do not fit a cache of {}", self.capacity);
        }
        &mut self.layers
    }

    /// The caches of the layers, for a pass over tokens that are [appended](Self::append) already or will be.
    pub(super) fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Positions of a sequence at most.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The type of keys and values.
    ///
    /// # Panics
    /// If there are none yet.
    pub(super) fn dtype(&self) -> DType {
        let first = self.layers.first().and_then(|layer| layer.written());
        first.expect("a cache that was written to").keys.dtype()
    }

    /// Whether all numbers of the buffers are finite.
    #[cfg(all(test, feature = "flex"))]
    pub(crate) fn is_finite(&self) -> bool {
        let buffers =
            self.layers.iter().filter_map(|layer| layer.written()).flat_map(|made| [&made.keys, &made.values]);
        buffers.into_iter().all(|buffer| buffer.to_data().iter::<f32>().all(|x| x.is_finite()))
    }

    /// The buffers of all layers, if there are any yet, and the device has [graphs](crate::kernel::graph).
    pub(super) fn buffers(&self) -> Option<Vec<Buffer>> {
        let written: Option<Vec<&Cache>> = self.layers.iter().map(|layer| layer.written()).collect();
        written?.into_iter().flat_map(|Cache { keys, values }| [buffer(keys), buffer(values)]).collect()
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct LayerCache {
    sizes: [usize; 4],
    device: Device,
    /// In the type of the first that wrote to it; taken out while it is written to, so that it has one owner and changes in place.
    written: Option<Cache>,
    /// Whether anything was written: if so, it is there between passes.
    is_written: bool,
}

const LOST: &str = "keys and values were lost by an earlier panic";

impl LayerCache {
    /// Rotates queries and keys, writes keys and values behind the old ones of their sequence, in place, and attends to all
    /// that the mask shows.
    ///
    /// # Shapes
    /// - queries, result: `[batch_size, new positions, num_heads, head_dim]`
    /// - keys, values: `[batch_size, new positions, num_kv_heads, head_dim]`
    ///
    /// # Panics
    /// If there is no room, or an earlier pass panicked here.
    pub fn attend(&mut self, new: [Tensor<4>; 3], positions: &Positions) -> Tensor<4> {
        let angles = [positions.rotation.cos.clone(), positions.rotation.sin.clone()];
        let cache = self.taken(new[1].dtype());
        let (y, cache) = cached_attention(new, angles, cache, &positions.mask);
        self.written = Some(cache);
        y
    }

    /// What was written, if there is anything.
    fn written(&self) -> Option<&Cache> {
        self.is_written.then(|| self.written.as_ref().expect(LOST))
    }

    /// What was written, at first zeros. Not by `Tensor::zeros`, which on Flex writes them twice.
    fn taken(&mut self, dtype: DType) -> Cache {
        let zeros = || Tensor::full(self.sizes, 0.0, (&self.device, dtype));
        match mem::replace(&mut self.is_written, true) {
            true => self.written.take().expect(LOST),
            false => Cache { keys: zeros(), values: zeros() },
        }
    }

    /// A copy of some positions of all sequences together, as those of `batch_size` sequences of one length.
    fn gather(&self, positions: &[i32], batch_size: usize) -> Self {
        let [held_sequences, held, heads, head_dim] = self.sizes;
        let sizes = [batch_size, positions.len() / batch_size.max(1), heads, head_dim];
        let positions = TensorData::new(positions.to_vec(), [positions.len()]);
        let written = self.written().map(|Cache { keys, values }| {
            let positions = Tensor::<1, Int>::from_data(positions, &keys.device());
            let [keys, values] = [keys, values].map(|buffer| {
                let rows = buffer.clone().reshape([held_sequences * held, heads * head_dim]);
                rows.select(0, positions.clone()).reshape(sizes)
            });
            Cache { keys, values }
        });
        Self { sizes, device: self.device.clone(), is_written: written.is_some(), written }
    }

    fn write_sequence(&mut self, at: usize, from: &Self, sequence: usize, len: usize) {
        if len == 0 {
            return;
        }
        let from = from.written().expect("keys and values of the positions of a sequence");
        let Cache { keys, values } = self.taken(from.keys.dtype());
        let keys = copied(keys, at, &from.keys, sequence, len);
        self.written = Some(Cache { keys, values: copied(values, at, &from.values, sequence, len) });
    }

    fn clear_sequence(&mut self, sequence: usize) {
        let Some(dtype) = self.written().map(|cache| cache.keys.dtype()) else { return };
        let [_, capacity, heads, head_dim] = self.sizes;
        let zeros = Tensor::full([1, capacity, heads, head_dim], 0.0, (&self.device, dtype));
        let Cache { keys, values } = self.taken(dtype);
        let [keys, values] =
            [keys, values].map(|buffer| buffer.slice_assign([sequence..sequence + 1, 0..capacity], zeros.clone()));
        self.written = Some(Cache { keys, values });
    }
}

/// `buffer` with the first `len` positions of a sequence of another in place of its sequence `at`; in place if it has no
/// other owner.
fn copied(buffer: Tensor<4>, at: usize, from: &Tensor<4>, sequence: usize, len: usize) -> Tensor<4> {
    let prefix = from.clone().slice([sequence..sequence + 1, 0..len]);
    buffer.cast(from.dtype()).slice_assign([at..at + 1, 0..len], prefix)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::model::TokenBatch;

    /// With one layer, as tests attend in the first alone.
    fn config() -> DecoderConfig {
        DecoderConfig::pico().with(|fields| fields.num_hidden_layers = 1).expect("sound")
    }

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
        cache.append(tokens.lens())[0].attend(new(config, salt, batch_size, len), &positions)
    }

    fn addresses(cache: &KvCache) -> [*const f32; 2] {
        let Cache { keys, values } = cache.layers[0].written().expect("a pass");
        [keys, values]
            .map(|buffer| buffer.clone().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr())
    }

    #[test]
    fn attending_writes_in_place() {
        let config = config();
        let mut cache = KvCache::new(&config, 2, 10, &Device::flex());
        attend(&mut cache, &config, 0, 3);
        let before = addresses(&cache);
        for len in [1, 4] {
            attend(&mut cache, &config, 0, len);
            assert_eq!(addresses(&cache), before);
        }
        cache.truncate_sequence(1, 2);
        attend(&mut cache, &config, 0, 1);
        assert_eq!((addresses(&cache), cache.lens()), (before, [9, 3].as_slice()));
    }

    #[test]
    fn the_first_that_is_written_gives_a_cache_its_type() {
        let config = config();
        let new = || KvCache::new(&config, 2, 10, &Device::flex());
        let has_buffers = |cache: &KvCache| cache.layers.iter().any(|layer| layer.written().is_some());
        let mut cache = new();
        assert!(!has_buffers(&cache) && !has_buffers(&cache.gather(&[1, 0, 1], 4)));
        cache.write_sequence(1, &new(), 0);
        assert!(!has_buffers(&cache), "an empty sequence");

        let mut other = new();
        attend(&mut other, &config, 0, 3);
        let Cache { keys, values } = other.layers[0].taken(DType::F32);
        let [keys, values] = [keys, values].map(|buffer| buffer.cast(DType::BF16));
        other.layers[0].written = Some(Cache { keys, values });
        cache.write_sequence(1, &other, 0);
        assert_eq!(cache.dtype(), DType::BF16);
        assert_eq!(other.gather(&[0], 4).dtype(), DType::BF16);
    }

    #[test]
    fn a_cleared_sequence_holds_finite_numbers_and_leaves_the_others_alone() {
        let config = config();
        let mut cache = KvCache::new(&config, 2, 10, &Device::flex());
        cache.clear_sequence(1);
        attend(&mut cache, &config, 0, 5);
        let numbers = |cache: &KvCache| {
            let Cache { keys, values } = cache.layers[0].written().expect("a pass");
            [0, 1].map(|row| {
                let of_row = |buffer: &Tensor<4>| buffer.clone().narrow(0, row, 1).into_data().iter::<f32>().collect();
                let numbers: [Vec<f32>; 2] = [keys, values].map(of_row);
                numbers.concat()
            })
        };
        let [first, _] = numbers(&cache);
        let Cache { keys, values } = cache.layers[0].taken(DType::F32);
        let nan = keys.clone().narrow(0, 1, 1) * f32::NAN;
        let [keys, values] = [keys, values].map(|buffer| buffer.slice_assign([1..2, 0..10], nan.clone()));
        cache.layers[0].written = Some(Cache { keys, values });

        cache.clear_sequence(1);
        let [found, cleared] = numbers(&cache);
        assert_eq!((found, cache.lens()), (first, [5, 0].as_slice()));
        assert!(cleared.iter().all(|x| *x == 0.0));
    }

    #[test]
    #[should_panic(expected = "lost by an earlier panic")]
    fn a_layer_whose_pass_panicked_is_not_read_as_zeros() {
        let config = config();
        let mut cache = KvCache::new(&config, 1, 10, &Device::flex());
        attend(&mut cache, &config, 0, 3);
        cache.layers[0].written = None;
        attend(&mut cache, &config, 0, 1);
    }

    #[test]
    #[should_panic(expected = "keys and values of the positions")]
    fn a_sequence_without_keys_is_not_copied() {
        let config = config();
        let [mut cache, mut other] = [(); 2].map(|()| KvCache::new(&config, 1, 10, &Device::flex()));
        other.append([3]);
        cache.write_sequence(0, &other, 0);
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_full_cache_refuses_more() {
        let config = config();
        attend(&mut KvCache::new(&config, 1, 4, &Device::flex()), &config, 0, 5);
    }

    #[test]
    fn a_prefix_gives_the_attention_that_it_gave() {
        let config = config();
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

    #[test]
    fn a_sequence_is_written_in_place() {
        let config = config();
        let [mut cache, mut other] = [2, 1].map(|batch_size| KvCache::new(&config, batch_size, 10, &Device::flex()));
        attend(&mut cache, &config, 0, 5);
        attend(&mut other, &config, 1, 3);
        let before = addresses(&cache);
        cache.write_sequence(1, &other, 0);
        assert_eq!((addresses(&cache), cache.lens()), (before, [5, 3].as_slice()));
    }

    #[test]
    fn a_written_prefix_gives_the_attention_of_the_sequence_that_it_begins() {
        let config = config();
        let mut cache = KvCache::new(&config, 1, 10, &Device::flex());
        attend(&mut cache, &config, 1, 6);
        let mut prefix = KvCache::new(&config, 1, 7, &Device::flex());
        prefix.write_prefix(0, &cache, 0, 3);
        cache.truncate(3);
        let [found, expected] = [&mut prefix, &mut cache].map(|cache| attend(cache, &config, 5, 4).into_data());
        assert_eq!(found, expected);
    }

    #[test]
    fn forks_go_on_as_the_sequence_that_they_copy() {
        let config = config();
        let held = || {
            let mut cache = KvCache::new(&config, 2, 9, &Device::flex());
            attend(&mut cache, &config, 1, 5);
            cache
        };
        for (first_len, capacity) in [(5, 9), (5, 8), (2, 6), (0, 3)] {
            let mut cache = held();
            (0..2).for_each(|sequence| cache.truncate_sequence(sequence, first_len));
            let mut forks = cache.gather(&[1, 0, 1], capacity);
            assert_eq!((forks.lens(), forks.capacity), ([first_len; 3].as_slice(), capacity));
            // The numbers of the first two sequences of a pass do not depend on the third.
            let found = attend(&mut forks, &config, 5, 3).narrow(0, 0, 2).into_data();
            let mut written = KvCache::new(&config, 2, 9, &Device::flex());
            (0..2).for_each(|sequence| written.write_sequence(sequence, &cache, 1 - sequence));
            let expected = attend(&mut written, &config, 5, 3).into_data();
            assert_eq!(found, expected, "{first_len} positions in {capacity}");
            let keys = |cache: &KvCache| cache.layers[0].written().unwrap().keys.clone().into_data();
            assert_eq!(keys(&cache), keys(&held()), "the source stays as it was");
        }
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_sequence_is_not_gathered_into_less_room() {
        let config = config();
        let mut cache = KvCache::new(&config, 1, 5, &Device::flex());
        attend(&mut cache, &config, 0, 5);
        cache.gather(&[0], 4);
    }

    #[test]
    #[should_panic(expected = "5 positions do not fit a cache of 4")]
    fn a_sequence_is_not_written_into_less_room() {
        let config = config();
        let [mut small, mut cache] = [4, 5].map(|capacity| KvCache::new(&config, 1, capacity, &Device::flex()));
        attend(&mut cache, &config, 0, 5);
        small.write_sequence(0, &cache, 0);
    }
}
