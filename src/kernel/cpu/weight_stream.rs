//! Scheduling of products that stream their weights from memory.
//!
//! Decoding reads every weight once per token, in the same order each time. Each thread streams adjacent rows, so that its
//! prefetches are what it reads next, and steals from the others when it runs out. Between two products one thread works
//! alone; meanwhile the helpers prefetch the start of their share of the product that followed the last time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

use super::matrix::Matrix;
use super::prefetcher::HelperRanges;
use super::spin_pool::{Threads, publish_prefetch};

/// Bytes of weights per task, as far as panels of sixteen rows and [`MAX_TASK_OUTPUTS`] allow: each new stream starts with a
/// memory stall.
const TASK_BYTES: RangeInclusive<usize> = 8 * 1024..=512 * 1024;
/// Cap on the outputs of a task of more than sixteen rows, so that they stay in cache.
const MAX_TASK_OUTPUTS: usize = 32 * 1024;
/// Rows of activations up to which a product is memory-bound.
const MEMORY_BOUND_ROWS: usize = 4;
/// Cap on the products in a thread's history; a model has some hundreds.
const MAX_HISTORY: usize = 1 << 14;

/// Calls `task(matrix, rows)` in parallel until every row of every matrix is covered once. Each range starts at a multiple of
/// sixteen. The activations are `[m, k]`; a task also reads the same rows of `paired`.
pub(super) fn for_each_row_block(
    [m, k]: [usize; 2],
    matrices: &[Matrix<'_>],
    paired: Option<Matrix<'_>>,
    threads: Threads,
    task: impl Fn(usize, Range<usize>) + Sync,
) {
    let Some(first) = matrices.first() else { return };
    let total: usize = matrices.iter().map(|w| w.size_bytes()).sum();
    let count = threads.count();
    let share = total.div_ceil(count);
    let mut tasks = Vec::new();
    let mut starts = vec![0];
    let mut left = share;
    for (index, w) in matrices.iter().enumerate() {
        let rows = w.rows(k).unwrap_or(0);
        let row_bytes = (w.size_bytes() / rows.max(1)).max(1);
        let mut start = 0;
        while start < rows {
            if left == 0 && starts.len() < count {
                starts.push(tasks.len());
                left = share;
            }
            // Half of the rest of the share: long streams first, and the last tasks end together (guided self-scheduling:
            // Polychronopoulos & Kuck, 1987).
            let bytes = (left / 2).clamp(*TASK_BYTES.start(), *TASK_BYTES.end());
            let max_rows = (MAX_TASK_OUTPUTS / m / 16 * 16).max(16);
            let end = (start + (bytes / row_bytes).next_multiple_of(16).clamp(16, max_rows)).min(rows);
            tasks.push((index, start..end));
            left = left.saturating_sub((end - start) * row_bytes);
            start = end;
        }
    }
    let predict = count > 1 && m <= MEMORY_BOUND_ROWS;
    if predict {
        let ranges_of_helper = |start: &usize| {
            let (index, rows) = &tasks[*start];
            let from_row = |w: &Matrix<'_>| {
                let addresses = w.addresses();
                addresses.start + rows.start * (addresses.len() / w.rows(k).unwrap_or(1).max(1))..addresses.end
            };
            [from_row(&matrices[*index]), paired.as_ref().map_or(0..0, from_row)]
        };
        let ranges = starts[1..].iter().map(ranges_of_helper).collect();
        HISTORY.with_borrow_mut(|history| history.record(first.addresses().start, ranges));
    }
    threads.for_each_with_stealing(&starts, tasks.len(), |index| {
        let (matrix, rows) = tasks[index].clone();
        task(matrix, rows);
    });
    if predict {
        HISTORY.with_borrow(|history| history.predict().map(publish_prefetch));
    }
}

thread_local! {
    static HISTORY: RefCell<History> = RefCell::default();
}

/// Which product followed which, by the address of its first matrix.
#[derive(Default)]
struct History {
    /// The latest product.
    last: usize,
    /// For each product, the helpers' ranges of the one that followed it.
    successors: HashMap<usize, Vec<HelperRanges>>,
}

impl History {
    /// Records the start of a product.
    fn record(&mut self, address: usize, ranges: Vec<HelperRanges>) {
        if self.successors.len() >= MAX_HISTORY {
            self.successors.clear();
        }
        self.successors.insert(std::mem::replace(&mut self.last, address), ranges);
    }

    /// The ranges of the product that followed this one the last time.
    fn predict(&self) -> Option<&[HelperRanges]> {
        self.successors.get(&self.last).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::kernel::cpu::WeightRows;

    #[test]
    fn every_row_is_in_one_task_for_any_number_of_threads() {
        let weights = vec![0.0; 3 * 70_000];
        for (k, lens) in [(1, vec![0]), (3, vec![1, 17]), (64, vec![900, 0, 2000]), (1000, vec![60, 60, 60])] {
            let matrices: Vec<_> =
                lens.iter().map(|rows| Matrix::Rows(WeightRows::F32(&weights[..rows * k]))).collect();
            for threads in [1, 2, 3, 7] {
                let seen = Mutex::new(lens.iter().map(|rows| vec![0; *rows]).collect::<Vec<_>>());
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| {
                    for_each_row_block([1, k], &matrices, None, Threads::Pool, |index, rows| {
                        assert_eq!(rows.start % 16, 0, "whole panels");
                        seen.lock().expect("no task panics")[index][rows].iter_mut().for_each(|count| *count += 1);
                    });
                });
                let expected: Vec<_> = lens.iter().map(|rows| vec![1; *rows]).collect();
                assert_eq!(seen.into_inner().expect("no task panicked"), expected, "{threads} threads");
            }
        }
    }

    #[test]
    fn the_latest_successor_of_a_product_is_predicted() {
        let ranges = |address: usize| vec![[address + 8..address + 16, 0..0]];
        let mut history = History::default();
        for address in [100, 200, 300, 100] {
            history.record(address, ranges(address));
        }
        assert_eq!(history.predict(), Some(ranges(200).as_slice()));
        history.record(300, ranges(300));
        assert_eq!(history.predict(), Some(ranges(100).as_slice()));
        history.record(100, ranges(100));
        assert_eq!(history.predict(), Some(ranges(300).as_slice()), "the latest successor of 100");
        history.record(400, ranges(400));
        assert_eq!(history.predict(), None);
    }
}
