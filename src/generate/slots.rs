//! The rows of a ragged cache, each with a sequence or free.

use burn::tensor::Device;

use super::sequence::Sequence;
use crate::config::DecoderConfig;
use crate::model::KvCache;

/// Positions by which a cache is larger than its longest sequence, at first.
const SPARE: usize = 256;

/// Sequences and their cache. Rows and positions are doubled when they do not suffice, so that a batch takes the memory and
/// the time of the sequences that it has.
#[derive(Debug)]
pub(super) struct Slots {
    cache: KvCache,
    rows: Vec<Option<Sequence>>,
    capacity: usize,
    device: Device,
}

impl Slots {
    pub(super) fn new(config: &DecoderConfig, device: &Device) -> Self {
        Self { cache: KvCache::new(config, 0, 0, device), rows: Vec::new(), capacity: 0, device: device.clone() }
    }

    /// Running sequences.
    pub(super) fn num_running(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// Rows and their cache.
    pub(super) fn parts(&mut self) -> (&mut [Option<Sequence>], &mut KvCache) {
        (&mut self.rows, &mut self.cache)
    }

    /// Adds a sequence after the only one of `prompt`; there are `max_rows` rows at most.
    ///
    /// # Panics
    /// If all of them are taken.
    pub(super) fn insert(&mut self, config: &DecoderConfig, sequence: Sequence, prompt: &KvCache, max_rows: usize) {
        let num_rows = match self.rows.iter().any(Option::is_none) {
            true => self.rows.len(),
            false => (2 * self.rows.len()).clamp(1, max_rows),
        };
        let len = prompt.lens()[0];
        let capacity = match len < self.capacity {
            true => self.capacity,
            false => (len + SPARE).max(2 * self.capacity).min(sequence.max_len().max(len + 1)),
        };
        if (num_rows, capacity) != (self.rows.len(), self.capacity) {
            self.rebuild(config, num_rows, capacity);
        }
        let at = self.rows.iter().position(Option::is_none).expect("a free row");
        self.cache.write_sequence(at, prompt, 0);
        self.rows[at] = Some(sequence);
    }

    /// Makes room for one more position of each sequence.
    pub(super) fn make_room(&mut self, config: &DecoderConfig) {
        let lens = self.rows.iter().zip(self.cache.lens()).filter(|(row, _)| row.is_some()).map(|(_, len)| *len);
        if lens.max().is_some_and(|longest| longest == self.capacity) {
            let most = self.rows.iter().flatten().map(Sequence::max_len).max().expect("a running sequence");
            self.rebuild(config, self.rows.len(), (2 * self.capacity).min(most));
        }
    }

    /// Frees the rows whose sequence is no longer there. If none is `wanted`, gives up rows when no more than half are taken.
    pub(super) fn release(&mut self, config: &DecoderConfig, wanted: bool) {
        for (at, _) in self.rows.iter().enumerate().filter(|(_, row)| row.is_none()) {
            self.cache.truncate_sequence(at, 0);
        }
        let num_running = self.num_running();
        if num_running == 0 {
            *self = Self::new(config, &self.device);
        } else if !wanted && 2 * num_running <= self.rows.len() {
            self.rebuild(config, num_running, self.capacity);
        }
    }

    /// Moves the sequences to the first rows of a new cache.
    fn rebuild(&mut self, config: &DecoderConfig, num_rows: usize, capacity: usize) {
        let mut cache = KvCache::new(config, num_rows, capacity, &self.device);
        let running = self.rows.drain(..).enumerate().filter(|(_, row)| row.is_some());
        let mut rows = Vec::with_capacity(num_rows);
        for (from, row) in running {
            cache.write_sequence(rows.len(), &self.cache, from);
            rows.push(row);
        }
        rows.resize_with(num_rows, || None);
        (self.cache, self.rows, self.capacity) = (cache, rows, capacity);
    }
}
