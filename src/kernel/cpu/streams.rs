//! Matrices that several threads stream from memory, each its own share, and what is read before it is asked for.
//!
//! Decoding reads every weight once a token, in an order that does not change. Each thread has neighbouring rows of a
//! product, so that what it asks for ahead is what it reads next; one that is done with its own takes from the others.
//! Between two products one thread works alone, and the helpers wait: meanwhile they read the beginning of their share of
//! the product that came next the last time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

use super::ahead::Share;
use super::rows::Matrix;
use super::spin_pool::{Threads, read_ahead};

/// Fewest and most bytes of a matrix that one task streams, as far as whole panels of sixteen rows and [`TASK_NUMBERS`]
/// allow: a stream that starts waits for memory.
const TASK_BYTES: RangeInclusive<usize> = 8 * 1024..=512 * 1024;
/// Most numbers that one task computes with a matrix, if sixteen rows of weights give no more: they stay in the cache.
const TASK_NUMBERS: usize = 32 * 1024;
/// Rows of activations up to which a product waits for memory.
const WAITING_ROWS: usize = 4;
/// Products that a thread remembers; a model has some hundreds.
const REMEMBERED: usize = 1 << 14;

/// Calls `task` with the index of each matrix and some of its rows, from a multiple of sixteen on, until all rows of all
/// matrices are through. `x` is `[m, k]`; the same rows of `beside` are read by the same task.
pub(super) fn in_rows(
    [m, k]: [usize; 2],
    matrices: &[Matrix<'_>],
    beside: Option<Matrix<'_>>,
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
            // Half of what is left of the share: the first streams long, the last end together (guided self-scheduling:
            // Polychronopoulos & Kuck, 1987).
            let bytes = (left / 2).clamp(*TASK_BYTES.start(), *TASK_BYTES.end());
            let most = (TASK_NUMBERS / m / 16 * 16).max(16);
            let end = (start + (bytes / row_bytes).next_multiple_of(16).clamp(16, most)).min(rows);
            tasks.push((index, start..end));
            left = left.saturating_sub((end - start) * row_bytes);
            start = end;
        }
    }
    let waits = count > 1 && m <= WAITING_ROWS;
    if waits {
        let of_helper = |start: &usize| {
            let (index, rows) = &tasks[*start];
            let from = |w: &Matrix<'_>| {
                let addresses = w.addresses();
                addresses.start + rows.start * (addresses.len() / w.rows(k).unwrap_or(1).max(1))..addresses.end
            };
            [from(&matrices[*index]), beside.as_ref().map_or(0..0, from)]
        };
        let shares = starts[1..].iter().map(of_helper).collect();
        HISTORY.with_borrow_mut(|history| history.came(first.addresses().start, shares));
    }
    threads.for_each_in_shares(&starts, tasks.len(), |index| {
        let (matrix, rows) = tasks[index].clone();
        task(matrix, rows);
    });
    if waits {
        HISTORY.with_borrow(|history| history.next().map(read_ahead));
    }
}

thread_local! {
    static HISTORY: RefCell<History> = RefCell::default();
}

/// Which product followed which.
#[derive(Default)]
struct History {
    /// Where the first matrix of the last one lies.
    last: usize,
    /// By that address, what of the one that followed belongs to each helper.
    followed: HashMap<usize, Vec<Share>>,
}

impl History {
    /// A product begins.
    fn came(&mut self, address: usize, shares: Vec<Share>) {
        if self.followed.len() >= REMEMBERED {
            self.followed.clear();
        }
        self.followed.insert(std::mem::replace(&mut self.last, address), shares);
    }

    /// What will be read next, if all goes as it went.
    fn next(&self) -> Option<&[Share]> {
        self.followed.get(&self.last).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::kernel::cpu::WeightRows;

    #[test]
    fn every_row_of_every_matrix_is_in_one_task_for_any_number_of_threads() {
        let weights = vec![0.0; 3 * 70_000];
        for (k, lens) in [(1, vec![0]), (3, vec![1, 17]), (64, vec![900, 0, 2000]), (1000, vec![60, 60, 60])] {
            let matrices: Vec<_> =
                lens.iter().map(|rows| Matrix::Rows(WeightRows::F32(&weights[..rows * k]))).collect();
            for threads in [1, 2, 3, 7] {
                let seen = Mutex::new(lens.iter().map(|rows| vec![0; *rows]).collect::<Vec<_>>());
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| {
                    in_rows([1, k], &matrices, None, Threads::Pool, |index, rows| {
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
    fn what_followed_once_is_expected_until_something_else_follows() {
        let share = |address: usize| vec![[address + 8..address + 16, 0..0]];
        let mut history = History::default();
        for address in [100, 200, 300, 100] {
            history.came(address, share(address));
        }
        assert_eq!(history.next(), Some(share(200).as_slice()));
        history.came(300, share(300));
        assert_eq!(history.next(), Some(share(100).as_slice()));
        history.came(100, share(100));
        assert_eq!(history.next(), Some(share(300).as_slice()), "the last one that followed 100");
        history.came(400, share(400));
        assert_eq!(history.next(), None);
    }
}
