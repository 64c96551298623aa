//! What helpers ask memory for while they wait for work.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::lanes::prefetch;

/// Most bytes of a range that a helper reads ahead: what is read meanwhile by others should stay in its cache too.
const READ_AHEAD: usize = 128 * 1024;
/// Bytes of a range that a helper asks for between two looks.
const BYTES_A_LOOK: usize = 1024;
/// Helpers that read ahead; others have nothing to read.
const HELPERS: usize = 15;

/// Addresses of up to two ranges that will be read, for one helper.
pub(super) type Share = [Range<usize>; 2];

/// What each helper may read. Where two threads announce at the same time, their ranges may mix: they are a hint.
pub(super) struct Ahead {
    /// Counts the announcements.
    count: AtomicU64,
    /// Start and end of each range.
    shares: [[[AtomicUsize; 2]; 2]; HELPERS],
}

impl Ahead {
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            shares: [const { [const { [const { AtomicUsize::new(0) }; 2] }; 2] }; HELPERS],
        }
    }

    /// Has each helper ask for what lies in its ranges, the first share being that of the first helper. Nothing need lie
    /// there.
    pub(super) fn announce(&self, shares: &[Share]) {
        for (helper, places) in self.shares.iter().enumerate() {
            for (index, [start, end]) in places.iter().enumerate() {
                let range = shares.get(helper).map_or(0..0, |share| share[index].clone());
                start.store(range.start, Ordering::Relaxed);
                end.store(range.end, Ordering::Relaxed);
            }
            if helper >= shares.len() {
                break;
            }
        }
        self.count.fetch_add(1, Ordering::Release);
    }
}

/// How far a helper has come.
#[derive(Default)]
pub(super) struct Reading {
    helper: usize,
    count: u64,
    ranges: Share,
}

impl Reading {
    pub(super) fn of(helper: usize) -> Self {
        Self { helper, ..Self::default() }
    }

    /// Asks for some more, if there is more.
    pub(super) fn go_on(&mut self, ahead: &Ahead) {
        let count = ahead.count.load(Ordering::Acquire);
        if count != self.count {
            self.count = count;
            let Some(places) = ahead.shares.get(self.helper) else { return };
            for (range, [start, end]) in self.ranges.iter_mut().zip(places) {
                let start = start.load(Ordering::Relaxed);
                *range = start..end.load(Ordering::Relaxed).min(start.saturating_add(READ_AHEAD));
            }
        }
        for range in &mut self.ranges {
            let end = range.end.min(range.start.saturating_add(BYTES_A_LOOK));
            (range.start..end).step_by(64).for_each(prefetch);
            range.start = range.start.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(reading: &Reading) -> usize {
        reading.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    #[test]
    fn each_helper_reads_its_own_share_a_little_at_a_look_and_no_more_than_the_limit() {
        let ahead = Ahead::new();
        let (mut first, mut second, mut other) = (Reading::of(0), Reading::of(1), Reading::of(HELPERS));
        let limited = 4096..4096 + 2 * READ_AHEAD;
        ahead.announce(&[[100..200, 7..7], [limited, usize::MAX - 100..usize::MAX]]);
        for reading in [&mut first, &mut second, &mut other] {
            reading.go_on(&ahead);
        }
        assert_eq!((left(&first), left(&second), left(&other)), (0, READ_AHEAD - BYTES_A_LOOK, 0));
        let mut looks = 1;
        while left(&second) > 0 {
            second.go_on(&ahead);
            looks += 1;
        }
        assert_eq!(looks, READ_AHEAD / BYTES_A_LOOK);
        ahead.announce(&[[50..60, 0..0]]);
        second.go_on(&ahead);
        assert_eq!(second.ranges, [0..0, 0..0], "the new announcement has nothing for it");
    }
}
