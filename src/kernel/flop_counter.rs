//! Counting the floating-point operations that kernels execute.
//!
//! Every matrix product of a decoder goes through a kernel, and each kernel adds what its own loop bounds say it
//! multiplied: two operations a multiply-add. That is a way to a model's FLOPs that does not look at its config.

use std::cell::Cell;

thread_local! {
    static EXECUTED: Cell<u64> = const { Cell::new(0) };
}

/// Adds `multiply_adds` of the calling thread's kernel; kernels count before they fork.
pub(super) fn add(multiply_adds: usize) {
    EXECUTED.set(EXECUTED.get() + 2 * multiply_adds as u64);
}

/// Runs `work` and returns its result with the FLOPs of the matrix products that its kernels executed on the
/// calling thread. Forward products only; what a backward pass multiplies is not counted.
pub fn executed_flops<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = EXECUTED.get();
    let result = work();
    (result, EXECUTED.get() - before)
}
