//! What random numbers decide: the entries of a router, and which dimensions of an MLP are re-drawn.

use crate::weights::{Projection, RandomStream, RouterInit};

/// The entries of a router of shape `[rows, columns]`.
pub(super) fn router(init: RouterInit, [rows, columns]: [usize; 2], values: RandomStream) -> Vec<f32> {
    let mut weight = vec![0.0; rows * columns];
    match init {
        RouterInit::Zero => {}
        RouterInit::Normal { std } => values.map_normal(0, &mut weight, |_, z| (std * z) as f32),
        RouterInit::Uniform => {
            let bound = 1.0 / (columns as f64).sqrt();
            values.map_uniform(&mut weight, |u| (bound * (2.0 * u - 1.0)) as f32);
        }
        RouterInit::Orthogonal => {
            let norm = RouterInit::STD * (columns as f64).sqrt();
            let entries = values.orthonormal_rows(rows, columns).into_iter().flatten();
            weight.iter_mut().zip(entries).for_each(|(w, x)| *w = (norm * x) as f32);
        }
    }
    weight
}

/// Some intermediate dimensions of one matrix of an MLP: rows of gate and up, columns of down.
pub(super) struct Block {
    is_in: Vec<bool>,
    width: usize,
    by_row: bool,
}

impl Block {
    /// `count` dimensions of a matrix of this shape.
    pub fn new(projection: Projection, shape: &[usize], count: usize, dimensions: RandomStream) -> Self {
        let by_row = projection != Projection::Down;
        let mut is_in = vec![false; shape[usize::from(!by_row)]];
        dimensions.choose(is_in.len(), count).into_iter().for_each(|dimension| is_in[dimension] = true);
        Self { is_in, width: shape[1], by_row }
    }

    /// Whether the entry with this index, row-major, belongs to one of the dimensions.
    pub fn contains(&self, place: usize) -> bool {
        self.is_in[if self.by_row { place / self.width } else { place % self.width }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Purpose;

    #[test]
    fn the_block_of_gate_and_up_is_the_transpose_of_the_block_of_down() {
        let (f, h, count) = (7, 5, 3);
        let dimensions = RandomStream { seed: 3, layer: 0, purpose: Purpose::Dropped(0) };
        let places = |projection, shape: [usize; 2]| -> Vec<usize> {
            let block = Block::new(projection, &shape, count, dimensions);
            (0..f * h).filter(|&place| block.contains(place)).collect()
        };
        let down = places(Projection::Down, [h, f]);
        let mut transposed: Vec<_> = down.into_iter().map(|p| (p % f) * h + p / f).collect();
        transposed.sort_unstable();
        for projection in [Projection::Gate, Projection::Up] {
            assert_eq!(places(projection, [f, h]), transposed);
        }
        assert_eq!(transposed.len(), count * h);
    }
}
