//! A block of the inner axis of several products with one `A`: packing, and the tasks of its threads.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::buffer::Buffer;
use super::tiling::{COLUMNS, Tiles, Tiling, blocks};
use crate::kernel::cpu::mat::{Mat, MatMut, SharedMat};
use crate::kernel::cpu::math::silu_times;
use crate::kernel::cpu::scratch::Scratch;
use crate::kernel::cpu::spin_pool::Threads;
use crate::kernel::cpu::weight_rows::Widen;

/// Fewest columns of `B` in a task. Fewer do not pay for reading all of `A`.
const MIN_TASK_COLUMNS: usize = 3 * COLUMNS;
/// Fewest panels of `A` in a task. Fewer do not pay for packing its columns of `B`.
const MIN_BAND_PANELS: usize = 4;
/// Rows of a gated product whose two factors are in cache when they are multiplied.
const GATED_ROWS: usize = 128;

/// A product with `A`.
pub(super) enum Product<'a, W> {
    /// `out = A·B`, or `out += A·B`.
    Sum { out: SharedMat<'a>, b: Mat<'a, W> },
    /// `out = silu(A·gate) ∘ (A·up)`. `factor` has `A·up` between the blocks of the inner axis, if there are several.
    Gated { out: SharedMat<'a>, gate: Mat<'a, W>, up: Mat<'a, W>, factor: Option<SharedMat<'a>> },
}

impl<W: Widen> Product<'_, W> {
    fn out(&self) -> &SharedMat<'_> {
        match self {
            Self::Sum { out, .. } | Self::Gated { out, .. } => out,
        }
    }

    /// Columns of the result.
    pub(super) fn columns(&self) -> usize {
        self.out().dims()[1]
    }

    /// # Panics
    /// Unless the product is one with `[m, k]`.
    pub(super) fn assert_sizes(&self, m: usize, k: usize) {
        let operands = match self {
            Self::Sum { b, .. } => vec![b],
            Self::Gated { gate, up, .. } => vec![gate, up],
        };
        let [rows, columns] = self.out().dims();
        for b in operands {
            assert_eq!(([rows, columns], b.dims()), ([m, b.cols], [k, columns]), "sizes of a product");
        }
    }

    /// The product of an `A` without columns.
    #[expect(unsafe_code, reason = "no task has begun")]
    pub(super) fn fill_with_zeros(&self) {
        let [rows, columns] = self.out().dims();
        for row in 0..rows {
            // SAFETY: no task has begun, so there is no other reference.
            unsafe { self.out().row(row, 0..columns) }.fill(0.0);
        }
    }
}

/// Columns of a task: whole panels, at most `most`, and fewer if `n` columns would make fewer than `min_tasks` tasks, but not below
/// [`MIN_TASK_COLUMNS`].
fn task_columns(n: usize, min_tasks: usize, most: usize) -> usize {
    (n / min_tasks / COLUMNS * COLUMNS).clamp(MIN_TASK_COLUMNS.min(most), most)
}

/// Blocks of whole panels, as equal as possible and of at most `most` columns.
fn equal_blocks(columns: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let step = columns.div_ceil(columns.div_ceil(most).max(1)).next_multiple_of(COLUMNS);
    blocks(0..columns, step.max(COLUMNS))
}

/// A block of the inner axis of several products with one `A`.
pub(super) struct DepthBlock<'a, T, W> {
    pub tiling: T,
    pub products: &'a [Product<'a, W>],
    pub accumulate: bool,
    pub a: Mat<'a>,
    pub depths: Range<usize>,
}

impl<T: Tiling, W: Widen> DepthBlock<'_, T, W> {
    /// Computes some rows of all products.
    pub(super) fn rows(&self, rows: &Range<usize>, threads: Threads) {
        let panel = T::panel_len(self.depths.len());
        let mut buffer = Buffer::new();
        let packed = buffer.elements::<T::Packed>(rows.len().div_ceil(T::ROWS) * panel);
        let packs: Vec<_> =
            blocks(rows.clone(), 8 * T::ROWS).zip(packed.chunks_mut(8 * panel)).map(Mutex::new).collect();
        threads.for_each(packs.len(), |index| {
            let mut pack_of_one = packs[index].lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, panels) = &mut *pack_of_one;
            self.tiling.pack_rows(self.a, rows.clone(), self.depths.clone(), panels);
        });

        let min_tasks = if threads == Threads::Pool { 2 * rayon::current_num_threads() } else { 1 };
        let n: usize = self.products.iter().map(Product::columns).sum();
        let most = task_columns(n, min_tasks.div_ceil(rows.len().div_ceil(MIN_BAND_PANELS * T::ROWS)), T::TASK_COLUMNS);
        let columns: Vec<_> = self
            .products
            .iter()
            .flat_map(|product| equal_blocks(product.columns(), most).map(move |columns| (product, columns)))
            .collect();
        let step = rows.len().div_ceil(min_tasks.div_ceil(columns.len()));
        let step = step.max(MIN_BAND_PANELS * T::ROWS).next_multiple_of(T::ROWS);
        let bands: Vec<_> = blocks(rows.clone(), step).zip(packed.chunks(step / T::ROWS * panel)).collect();
        threads.for_each(bands.len() * columns.len(), |index| {
            let (rows, packed_a) = &bands[index / columns.len()];
            let (product, columns) = &columns[index % columns.len()];
            match product {
                Product::Sum { out, b } => self.sum(out, b, rows.clone(), packed_a, columns.clone()),
                Product::Gated { out, gate, up, factor } => {
                    self.gated(out, [gate, up], factor.as_ref(), rows.clone(), packed_a, columns.clone());
                }
            }
        });
    }

    /// Packs some columns of `B` and multiplies them with packed rows of `A`.
    fn sum(
        &self,
        out: &SharedMat<'_>,
        b: &Mat<'_, W>,
        rows: Range<usize>,
        packed_a: &[T::Packed],
        mut rest: Range<usize>,
    ) {
        let mut buffer = Buffer::new();
        let panels = buffer.elements(T::block_len(self.depths.len()));
        while !rest.is_empty() {
            let (columns, packed_b) = self.tiling.pack_columns(*b, rest.clone(), self.depths.clone(), panels);
            rest.start = columns.end;
            self.multiply(out, rows.clone(), packed_a, columns, packed_b);
        }
    }

    /// Packs some columns of both matrices, computes both products for a group of rows at a time, and multiplies them while they
    /// are in cache.
    #[expect(unsafe_code, reason = "parallel tasks write to disjoint tiles")]
    fn gated(
        &self,
        out: &SharedMat<'_>,
        [gate, up]: [&Mat<'_, W>; 2],
        factor: Option<&SharedMat<'_>>,
        rows: Range<usize>,
        packed_a: &[T::Packed],
        mut rest: Range<usize>,
    ) {
        let (panel, is_last) = (T::panel_len(self.depths.len()), self.depths.end == self.a.cols);
        let mut buffers = [Buffer::new(), Buffer::new()];
        let [gate_panels, up_panels] =
            buffers.each_mut().map(|buffer| buffer.elements(T::block_len(self.depths.len())));
        while !rest.is_empty() {
            let pack = |b: &Mat<'_, W>, panels| self.tiling.pack_columns(*b, rest.clone(), self.depths.clone(), panels);
            let (gate_columns, packed_gate) = pack(gate, &mut *gate_panels);
            let (up_columns, packed_up) = pack(up, &mut *up_panels);
            // Fewer columns of one matrix fit if only its panels have three parts.
            let columns = rest.start..gate_columns.end.min(up_columns.end);
            let num_panels = columns.len().div_ceil(COLUMNS);
            let first = |packed: &[T::Packed], of: Range<usize>| packed.len() / of.len().div_ceil(COLUMNS) * num_panels;
            let packed_gate = &packed_gate[..first(packed_gate, gate_columns)];
            let packed_up = &packed_up[..first(packed_up, up_columns)];
            rest.start = columns.end;

            let num_panels = GATED_ROWS / T::ROWS;
            let groups = blocks(rows.clone(), num_panels * T::ROWS).zip(packed_a.chunks(num_panels * panel));
            for (rows, packed_a) in groups {
                let (mut scratch, in_cache);
                let (factor, up_rows, up_columns) = match factor {
                    Some(factor) => (factor, rows.clone(), columns.clone()),
                    None => {
                        scratch = Scratch::new(rows.len() * columns.len());
                        in_cache = SharedMat::new(MatMut::new(&mut scratch, rows.len(), columns.len()));
                        (&in_cache, 0..rows.len(), 0..columns.len())
                    }
                };
                self.multiply(out, rows.clone(), packed_a, columns.clone(), packed_gate);
                self.multiply(factor, up_rows.clone(), packed_a, up_columns.clone(), packed_up);
                if is_last {
                    for (row, up_row) in rows.zip(up_rows) {
                        // SAFETY: each band of rows is paired with each block of columns once, and this task has ended writing
                        // to them.
                        let [hidden, factor] =
                            unsafe { [out.row(row, columns.clone()), factor.row(up_row, up_columns.clone())] };
                        silu_times(hidden, factor);
                    }
                }
            }
        }
    }

    fn multiply(
        &self,
        out: &SharedMat<'_>,
        rows: Range<usize>,
        packed_a: &[T::Packed],
        columns: Range<usize>,
        packed_b: &[T::Packed],
    ) {
        let (accumulate, depth) = (self.accumulate, self.depths.len());
        self.tiling.multiply(Tiles { out, accumulate, depth, rows, columns, packed_a, packed_b });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_columns_are_cut_into_more_tasks_for_more_threads() {
        for (n, min_tasks, expected) in [(3072, 1, 288), (576, 2, 288), (576, 4, 128), (576, 32, 96), (64, 9, 96)] {
            assert_eq!(task_columns(n, min_tasks, 288), expected, "{n} columns in {min_tasks} tasks");
        }
        assert_eq!(task_columns(576, 1, 96), 96);
    }

    #[test]
    fn blocks_of_columns_are_equal_and_have_whole_panels() {
        for (columns, most, expected) in [
            (1536, 288, vec![256; 6]),
            (576, 288, vec![288; 2]),
            (192, 288, vec![192]),
            (97, 96, vec![64, 33]),
            (0, 96, vec![]),
        ] {
            let found: Vec<usize> = equal_blocks(columns, most).map(|block| block.len()).collect();
            assert_eq!(found, expected, "{columns} columns");
        }
    }
}
