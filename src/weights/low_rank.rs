//! A low-rank update of a matrix, as LoRA trains it.

use rayon::prelude::*;

/// Elements per task.
const BLOCK: usize = 1 << 14;

/// `ΔW = scale · B·A` of a matrix `[out, in]` (Hu et al., 2021, arXiv:2106.09685, §4.1).
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `A`, `[rank, in]`, row-major.
    pub a: Vec<f32>,
    /// `B`, `[out, rank]`, row-major.
    pub b: Vec<f32>,
    /// The inner size.
    pub rank: usize,
    /// The factor of the product.
    pub scale: f64,
}

impl LowRank {
    /// `[out, in]` of the matrix that is updated.
    pub fn dims(&self) -> [usize; 2] {
        [&self.b, &self.a].map(|factor| factor.len() / self.rank)
    }

    /// Adds the update to some elements of the matrix, row-major from index `first` on. Computes in single precision; the
    /// result does not depend on how the matrix is divided among calls.
    ///
    /// # Panics
    /// If the elements reach beyond the matrix.
    pub fn add_to(&self, first: usize, values: &mut [f32]) {
        values
            .par_chunks_mut(BLOCK)
            .enumerate()
            .for_each(|(block, values)| self.add_block(first + block * BLOCK, values));
    }

    fn add_block(&self, first: usize, values: &mut [f32]) {
        let [_, columns] = self.dims();
        let scale = self.scale as f32;
        let (mut rest, mut at, mut product) = (values, first, Vec::with_capacity(columns));
        while !rest.is_empty() {
            let (row, column) = (at / columns, at % columns);
            let (here, after) = rest.split_at_mut((columns - column).min(rest.len()));
            product.clear();
            product.resize(here.len(), 0.0f32);
            let factors = &self.b[row * self.rank..(row + 1) * self.rank];
            for (factor, a) in factors.iter().zip(self.a.chunks_exact(columns)) {
                product.iter_mut().zip(&a[column..]).for_each(|(sum, a)| *sum += factor * a);
            }
            here.iter_mut().zip(&product).for_each(|(w, update)| *w += scale * update);
            at += here.len();
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_the_scaled_product_of_its_factors_however_it_is_cut() {
        let update =
            LowRank { a: vec![1.0, 2.0, 3.0, 0.5, 0.0, -1.0], b: vec![1.0, 0.0, 2.0, 4.0], rank: 2, scale: 0.5 };
        assert_eq!(update.dims(), [2, 3]);
        let expected = [10.5, 11.0, 11.5, 12.0, 12.0, 11.0];
        for cut in 0..=6 {
            let mut values = [10.0f32; 6];
            let (head, tail) = values.split_at_mut(cut);
            update.add_to(0, head);
            update.add_to(cut, tail);
            assert_eq!(values, expected, "cut at {cut}");
        }
    }
}
