//! A counter of the floating-point operations of matrix products.
//!
//! Every matrix product of a decoder goes through a public operation of [`kernel`](crate::kernel), which adds two operations per
//! multiply-add, computed from its shapes. This counts the FLOPs of a model independently of its config.

use std::cell::Cell;

thread_local! {
    static EXECUTED: Cell<u64> = const { Cell::new(0) };
}

/// Adds multiply-adds to the calling thread's counter. Operations count before they fork.
pub(crate) fn count_multiply_adds(multiply_adds: usize) {
    EXECUTED.set(EXECUTED.get() + 2 * multiply_adds as u64);
}

/// FLOPs of the calling thread so far.
pub(super) fn total() -> u64 {
    EXECUTED.get()
}

/// Runs `work` on the calling thread and returns its result with the FLOPs of its matrix products. Products of a backward pass
/// are not counted.
pub fn executed_flops<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = total();
    let result = work();
    (result, total() - before)
}
