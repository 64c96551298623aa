//! The rows of a ragged cache, each with a sequence or free.

use burn::tensor::Device;

use super::sequence::Sequence;
use crate::config::DecoderConfig;
use crate::model::KvCache;

/// Positions by which a cache is larger than its longest sequence, at first.
const SPARE: usize = 256;
/// Positions of a sequence that are copied to a new cache in about the time that a pass takes for a row. With SmolLM2-135M
/// in float32, 512 positions are 71 MB read, written and cleared, and a row is 0.3 GFLOP.
const COPIED_PER_ROW: usize = 512;

/// Sequences and their cache.
///
/// A pass computes idle rows too, and a cache of another size is a copy. So rows and positions are doubled when they do
/// not suffice, but there are no more rows than sequences that run or are known to follow; idle rows are given up once
/// they have taken as long as the copy takes.
#[derive(Debug)]
pub(super) struct Slots {
    cache: KvCache,
    rows: Vec<Option<Sequence>>,
    capacity: usize,
    /// Idle rows of the passes since the last copy.
    num_idle: usize,
    device: Device,
}

impl Slots {
    pub(super) fn new(config: &DecoderConfig, device: &Device) -> Self {
        let cache = KvCache::new(config, 0, 0, device);
        Self { cache, rows: Vec::new(), capacity: 0, num_idle: 0, device: device.clone() }
    }

    /// Running sequences.
    pub(super) fn num_running(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// Rows and their cache.
    pub(super) fn parts(&mut self) -> (&mut [Option<Sequence>], &mut KvCache) {
        (&mut self.rows, &mut self.cache)
    }

    /// Adds a sequence after the only one of `prompt`. If there is no room, it is made, with `num_wanted` rows at most.
    ///
    /// # Panics
    /// If these are not more than run already.
    pub(super) fn insert(&mut self, config: &DecoderConfig, sequence: Sequence, prompt: &KvCache, num_wanted: usize) {
        let len = prompt.lens()[0];
        let capacity = match len < self.capacity {
            true => self.capacity,
            false => (len + SPARE).max(2 * self.capacity).min(sequence.max_len().max(len + 1)),
        };
        let num_rows = match self.rows.iter().any(Option::is_none) {
            true => self.rows.len(),
            false => (2 * self.rows.len()).clamp(1, num_wanted),
        };
        if (num_rows, capacity) != (self.rows.len(), self.capacity) {
            self.rebuild(config, num_rows.min(num_wanted), capacity);
        }
        let at = self.rows.iter().position(Option::is_none).expect("a free row");
        self.cache.write_sequence(at, prompt, 0);
        self.rows[at] = Some(sequence);
    }

    /// Makes room for one more position of each sequence. If positions are added, `num_wanted` rows stay at most.
    pub(super) fn make_room(&mut self, config: &DecoderConfig, num_wanted: usize) {
        let lens = self.rows.iter().zip(self.cache.lens()).filter(|(row, _)| row.is_some()).map(|(_, len)| *len);
        if lens.max().is_some_and(|longest| longest == self.capacity) {
            let most = self.rows.iter().flatten().map(Sequence::max_len).max().expect("a running sequence");
            self.rebuild(config, num_wanted.min(self.rows.len()), (2 * self.capacity).min(most));
        }
    }

    /// Frees the rows whose sequence is no longer there.
    pub(super) fn release(&mut self, config: &DecoderConfig) {
        for (at, _) in self.rows.iter().enumerate().filter(|(_, row)| row.is_none()) {
            self.cache.truncate_sequence(at, 0);
        }
        if self.num_running() == 0 {
            *self = Self::new(config, &self.device);
        }
    }

    /// Counts the idle rows beyond `num_wanted` after a pass, and gives them up once they have taken as long as the copy
    /// takes.
    pub(super) fn compact(&mut self, config: &DecoderConfig, num_wanted: usize) {
        let num_idle = self.rows.len().saturating_sub(num_wanted);
        if num_idle == 0 {
            self.num_idle = 0;
            return;
        }
        self.num_idle += num_idle;
        if self.num_idle * COPIED_PER_ROW >= self.num_running() * self.capacity {
            self.rebuild(config, num_wanted, self.capacity);
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
        (self.cache, self.rows, self.capacity, self.num_idle) = (cache, rows, capacity, 0);
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::generate::{Request, SequenceId};

    const CONTEXT: usize = 2048;

    fn sequence(index: usize) -> Sequence {
        Sequence::new(&Request::new(vec![1, 2]), SequenceId { request: 0, index }, CONTEXT)
    }

    /// Slots of some sequences, which are known to come from the beginning.
    fn slots(config: &DecoderConfig, prompt_capacity: usize, num_sequences: usize) -> Slots {
        let device = Device::flex();
        let prompt = KvCache::new(config, 1, prompt_capacity, &device);
        let mut slots = Slots::new(config, &device);
        (0..num_sequences).for_each(|index| slots.insert(config, sequence(index), &prompt, num_sequences));
        slots
    }

    #[test]
    fn there_are_no_more_rows_than_sequences() {
        let config = DecoderConfig::pico();
        let mut slots = slots(&config, 4, 9);
        assert_eq!((slots.rows.len(), slots.num_running()), (9, 9));
        let one_more = KvCache::new(&config, 1, 4, &Device::flex());
        slots.insert(&config, sequence(9), &one_more, 10);
        assert_eq!(slots.rows.len(), 10);
    }

    #[test]
    fn idle_rows_are_given_up_after_the_time_of_a_copy() {
        let config = DecoderConfig::pico();
        let mut slots = slots(&config, 4, 9);
        // A copy of 8 sequences of 1024 positions takes as long as 16 idle rows.
        slots.rebuild(&config, 9, 1024);
        slots.rows[3] = None;
        slots.release(&config);
        for _ in 0..15 {
            slots.compact(&config, 8);
            assert_eq!(slots.rows.len(), 9);
        }
        slots.compact(&config, 8);
        assert_eq!((slots.rows.len(), slots.num_running()), (8, 8));
    }

    #[test]
    fn rows_of_sequences_that_follow_are_kept() {
        let config = DecoderConfig::pico();
        let mut slots = slots(&config, 4, 9);
        slots.rows[3] = None;
        (0..100).for_each(|_| slots.compact(&config, 9));
        assert_eq!((slots.rows.len(), slots.num_idle), (9, 0));
    }

    #[test]
    fn slots_without_sequences_hold_no_cache() {
        let config = DecoderConfig::pico();
        let mut slots = slots(&config, 4, 2);
        slots.rows.iter_mut().for_each(|row| *row = None);
        slots.release(&config);
        assert_eq!((slots.rows.len(), slots.capacity), (0, 0));
    }
}
