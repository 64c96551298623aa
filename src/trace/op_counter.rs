//! Counters of what operations compute and read, independent of the config.
//!
//! Every matrix product of a decoder goes through a public operation of [`kernel`](crate::kernel), which counts its multiply-adds
//! and the weights, keys and values that it reads, from its shapes. The node of an operation in the graph of automatic
//! differentiation keeps its [`Work`](super::Work), and counts its gradients for the span in which the operation ran.

use std::cell::Cell;

/// What an operation computes and reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Op {
    /// Multiply-adds of its matrix products.
    pub multiply_adds: usize,
    /// Bytes of weights, keys and values.
    pub bytes: usize,
    /// Parameters that it reads.
    pub parameters: usize,
}

/// Sums of a thread.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub flops: u64,
    pub bytes: u64,
}

thread_local! {
    static EXECUTED: Cell<Totals> = const { Cell::new(Totals { flops: 0, bytes: 0 }) };
    static LATEST: Cell<Op> = const { Cell::new(Op { multiply_adds: 0, bytes: 0, parameters: 0 }) };
}

/// Adds an operation to the calling thread's counters. Operations count before they fork.
pub(crate) fn count(op: Op) {
    let Totals { flops, bytes } = EXECUTED.get();
    EXECUTED.set(Totals { flops: flops + 2 * op.multiply_adds as u64, bytes: bytes + op.bytes as u64 });
    LATEST.set(op);
}

/// The sums of the calling thread so far.
pub(super) fn totals() -> Totals {
    EXECUTED.get()
}

/// Runs `work` on the calling thread and returns its result with the FLOPs of its matrix products. Products of a backward pass
/// are not counted.
pub fn executed_flops<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = totals().flops;
    let result = work();
    (result, totals().flops - before)
}

/// Runs `work` and takes back what it counted, which is returned: work that is recorded counts whenever it is replayed.
pub(crate) fn uncounted<R>(work: impl FnOnce() -> R) -> (R, Op) {
    let before = totals();
    let result = work();
    let Totals { flops, bytes } = EXECUTED.replace(before);
    let [multiply_adds, bytes] = [(flops - before.flops) / 2, bytes - before.bytes].map(|sum| sum as usize);
    (result, Op { multiply_adds, bytes, parameters: 0 })
}

/// The operation that counted last on the calling thread.
pub(super) fn latest() -> Op {
    LATEST.get()
}
