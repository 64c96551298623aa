//! A counter of the floating-point operations of matrix products.
//!
//! Every matrix product of a decoder goes through a public operation of this module, which adds two operations per
//! multiply-add, computed from its shapes. This counts the FLOPs of a model independently of its config.

use std::cell::Cell;

thread_local! {
    static EXECUTED: Cell<u64> = const { Cell::new(0) };
}

/// Adds multiply-adds to the calling thread's counter. Operations count before they fork.
pub(super) fn add(multiply_adds: usize) {
    EXECUTED.set(EXECUTED.get() + 2 * multiply_adds as u64);
}

/// Runs `work` on the calling thread and returns its result with the FLOPs of its matrix products. Products of a backward pass
/// are not counted.
pub fn executed_flops<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = EXECUTED.get();
    let result = work();
    (result, EXECUTED.get() - before)
}
