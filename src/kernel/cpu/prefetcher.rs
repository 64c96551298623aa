//! Prefetching by helper threads while they wait for work.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::lanes::prefetch;

/// Cap on a range, so that what other threads read meanwhile is not evicted from the cache.
const MAX_RANGE_BYTES: usize = 128 * 1024;
/// Bytes of a range that a helper prefetches between two polls for work.
const STEP_BYTES: usize = 1024;
/// Helpers that prefetch; any others do not.
const MAX_HELPERS: usize = 15;

/// Up to two address ranges for one helper to prefetch.
pub(super) type HelperRanges = [Range<usize>; 2];

/// The ranges that each helper should prefetch. Concurrent publishers may mix their ranges: they are only a hint.
pub(super) struct Prefetcher {
    /// Number of publications.
    version: AtomicU64,
    /// Start and end of each range, for each helper.
    ranges: [[[AtomicUsize; 2]; 2]; MAX_HELPERS],
}

impl Prefetcher {
    pub(super) const fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            ranges: [const { [const { [const { AtomicUsize::new(0) }; 2] }; 2] }; MAX_HELPERS],
        }
    }

    /// Publishes the address ranges that each helper should prefetch, the first helper's first. They need not be mapped.
    pub(super) fn publish(&self, ranges: &[HelperRanges]) {
        for (helper, slots) in self.ranges.iter().enumerate() {
            for (index, [start, end]) in slots.iter().enumerate() {
                let range = ranges.get(helper).map_or(0..0, |ranges| ranges[index].clone());
                start.store(range.start, Ordering::Relaxed);
                end.store(range.end, Ordering::Relaxed);
            }
            if helper >= ranges.len() {
                break;
            }
        }
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// A helper's progress through its ranges.
#[derive(Default)]
pub(super) struct PrefetchCursor {
    helper: usize,
    version: u64,
    ranges: HelperRanges,
}

impl PrefetchCursor {
    pub(super) fn new(helper: usize) -> Self {
        Self { helper, ..Self::default() }
    }

    /// Prefetches the next [`STEP_BYTES`] of each range.
    pub(super) fn step(&mut self, prefetcher: &Prefetcher) {
        let version = prefetcher.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            let Some(slots) = prefetcher.ranges.get(self.helper) else { return };
            for (range, [start, end]) in self.ranges.iter_mut().zip(slots) {
                let start = start.load(Ordering::Relaxed);
                *range = start..end.load(Ordering::Relaxed).min(start.saturating_add(MAX_RANGE_BYTES));
            }
        }
        for range in &mut self.ranges {
            let end = range.end.min(range.start.saturating_add(STEP_BYTES));
            (range.start..end).step_by(64).for_each(prefetch);
            range.start = range.start.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remaining(cursor: &PrefetchCursor) -> usize {
        cursor.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    #[test]
    fn each_helper_prefetches_its_own_ranges_in_steps_up_to_the_cap() {
        let prefetcher = Prefetcher::new();
        let [mut first, mut second, mut other] = [0, 1, MAX_HELPERS].map(PrefetchCursor::new);
        let capped = 4096..4096 + 2 * MAX_RANGE_BYTES;
        prefetcher.publish(&[[100..200, 7..7], [capped, usize::MAX - 100..usize::MAX]]);
        for cursor in [&mut first, &mut second, &mut other] {
            cursor.step(&prefetcher);
        }
        assert_eq!([&first, &second, &other].map(remaining), [0, MAX_RANGE_BYTES - STEP_BYTES, 0]);
        let mut steps = 1;
        while remaining(&second) > 0 {
            second.step(&prefetcher);
            steps += 1;
        }
        assert_eq!(steps, MAX_RANGE_BYTES / STEP_BYTES);
        prefetcher.publish(&[[50..60, 0..0]]);
        second.step(&prefetcher);
        assert_eq!(second.ranges, [0..0, 0..0], "nothing published for this helper");
    }
}
