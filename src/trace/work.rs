//! The work of a differentiable operation, kept by its node for its backward pass.

use super::op_counter::{Op, latest};
use super::recorder::{count_gradients, innermost};

/// An operation and the span that it ran in, kept for its backward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    op: Op,
    span: Option<usize>,
}

impl Work {
    /// The work of an operation that runs now.
    pub(crate) fn new(op: Op) -> Self {
        Self { op, span: innermost() }
    }

    /// The work of the public operation that counted last, of which the caller is the differentiable body.
    pub(crate) fn of_latest() -> Self {
        Self::new(latest())
    }

    /// Counts the gradients that are computed: each costs the products of the operation once more, and that of the input reads
    /// what the operation read.
    pub(crate) fn count_gradients(self, of_input: bool, of_parameters: bool) {
        let Op { multiply_adds, bytes, parameters } = self.op;
        let products = usize::from(of_input) + usize::from(of_parameters);
        let op = Op {
            multiply_adds: products * multiply_adds,
            bytes: if of_input { bytes } else { 0 },
            parameters: if of_parameters { parameters } else { 0 },
        };
        count_gradients(self.span, op);
    }
}
