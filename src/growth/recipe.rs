//! How one weight of a grown decoder comes from its source.

use std::fmt;

use serde::Serialize;

use super::RouterInit;
use super::draws::Draws;
use crate::weights::{Dtype, LayerTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

/// How one weight of a grown decoder comes from its source: what a plan decides, before a weight is read.
///
/// Arithmetic is in `f64`; the result is rounded to the type of the source's weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Recipe {
    /// The weight of the source, byte for byte.
    Copy {
        /// Which weight.
        source: TensorId,
    },
    /// `w + relative_std · std(w) · N(0, 1)`.
    Noise {
        /// Which weight is `w`.
        source: TensorId,
        /// Size of the noise beside the weight's entries.
        relative_std: f64,
        /// Where the normal numbers come from.
        values: Draws,
    },
    /// `count` intermediate dimensions are re-drawn from `N(mean, std)` of what they hold.
    Drop {
        /// Which matrix of a dense MLP.
        source: TensorId,
        /// How many intermediate dimensions.
        count: usize,
        /// Where their choice comes from.
        dimensions: Draws,
        /// Where the normal numbers come from.
        values: Draws,
    },
    /// A fresh router.
    Router {
        /// The weight whose number format the router takes.
        like: TensorId,
        /// How it starts.
        init: RouterInit,
        /// Where the random numbers come from.
        values: Draws,
    },
}

impl Recipe {
    /// The weight of the source that this one starts as; `None` if it is drawn afresh.
    pub fn source(&self) -> Option<TensorId> {
        match *self {
            Self::Copy { source } | Self::Noise { source, .. } | Self::Drop { source, .. } => Some(source),
            Self::Router { .. } => None,
        }
    }

    pub(super) fn dtype(&self, source: &impl WeightSource) -> Dtype {
        match *self {
            Self::Copy { source: id } | Self::Noise { source: id, .. } | Self::Drop { source: id, .. } => {
                source.dtype(id)
            }
            Self::Router { like, .. } => source.dtype(like),
        }
    }

    /// Makes the weight, of the given shape.
    pub(super) fn read(&self, source: &impl WeightSource, shape: Vec<usize>) -> Result<RawTensor, WeightError> {
        let values = match *self {
            Self::Copy { source: id } => return source.read(id),
            Self::Noise { source: id, relative_std, values } => {
                let mut weight = source.read(id)?.to_f32();
                let (_, std) = mean_and_std(weight.iter().copied());
                values.map_normal(&mut weight, |w, z| (f64::from(w) + relative_std * std * z) as f32);
                weight
            }
            Self::Drop { source: id, count, dimensions, values } => {
                let mut weight = source.read(id)?.to_f32();
                redraw(&mut weight, &Block::of(id, &shape, count, dimensions), values);
                weight
            }
            Self::Router { init, values, .. } => router(init, [shape[0], shape[1]], values),
        };
        Ok(RawTensor::from_f32(self.dtype(source), shape, &values))
    }
}

/// In words: `copy`, `noise 0.01`, `drop 168 dimensions`, `router normal(0.02)`.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Copy { .. } => f.write_str("copy"),
            Self::Noise { relative_std, .. } => write!(f, "noise {relative_std}"),
            Self::Drop { count, .. } => write!(f, "drop {count} dimensions"),
            Self::Router { init, .. } => write!(f, "router {init}"),
        }
    }
}

/// Some intermediate dimensions of one matrix of an MLP: whole rows of gate and up, whole columns of down.
enum Block {
    Rows { rows: Vec<usize>, width: usize },
    Columns { columns: Vec<usize>, shape: [usize; 2] },
}

impl Block {
    fn of(id: TensorId, shape: &[usize], count: usize, dimensions: Draws) -> Self {
        let TensorId::Layer(_, LayerTensor::Mlp(projection)) = id else { panic!("{id:?} is no matrix of an MLP") };
        match projection {
            Projection::Gate | Projection::Up => {
                Self::Rows { rows: dimensions.choose(shape[0], count), width: shape[1] }
            }
            Projection::Down => {
                Self::Columns { columns: dimensions.choose(shape[1], count), shape: [shape[0], shape[1]] }
            }
        }
    }

    /// Where the entries of the block lie in the row-major matrix, in order.
    fn positions(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::Rows { rows, width } => Box::new(rows.iter().flat_map(move |row| row * width..(row + 1) * width)),
            Self::Columns { columns, shape: [height, width] } => {
                Box::new((0..*height).flat_map(move |row| columns.iter().map(move |column| row * width + column)))
            }
        }
    }
}

fn redraw(weight: &mut [f32], block: &Block, values: Draws) {
    let mut drawn: Vec<f32> = block.positions().map(|position| weight[position]).collect();
    let (mean, std) = mean_and_std(drawn.iter().copied());
    values.map_normal(&mut drawn, |_, z| (mean + std * z) as f32);
    block.positions().zip(drawn).for_each(|(position, value)| weight[position] = value);
}

fn router(init: RouterInit, [rows, columns]: [usize; 2], values: Draws) -> Vec<f32> {
    let mut weight = vec![0.0; rows * columns];
    match init {
        RouterInit::Zero => {}
        RouterInit::Normal { std } => values.map_normal(&mut weight, |_, z| (std * z) as f32),
        RouterInit::Orthogonal => {
            let norm = RouterInit::orthogonal_norm(columns);
            let entries = values.orthonormal_rows(rows, columns).into_iter().flatten();
            weight.iter_mut().zip(entries).for_each(|(w, x)| *w = (norm * x) as f32);
        }
    }
    weight
}

fn mean_and_std(values: impl ExactSizeIterator<Item = f32> + Clone) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let variance = values.map(|v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::draws::Purpose;
    use super::*;

    const VALUES: Draws = Draws { seed: 3, layer: 0, purpose: Purpose::Values(0, Projection::Gate) };
    const DIMENSIONS: Draws = Draws { seed: 3, layer: 0, purpose: Purpose::Dropped(0) };

    fn block(projection: Projection, shape: [usize; 2], count: usize) -> Block {
        Block::of(TensorId::Layer(0, LayerTensor::Mlp(projection)), &shape, count, DIMENSIONS)
    }

    #[test]
    fn the_block_of_gate_and_up_is_the_transpose_of_the_block_of_down() {
        let (f, h, count) = (7, 5, 3);
        let mut transposed: Vec<_> =
            block(Projection::Down, [h, f], count).positions().map(|p| (p % f) * h + p / f).collect();
        transposed.sort_unstable();
        for projection in [Projection::Gate, Projection::Up] {
            assert_eq!(block(projection, [f, h], count).positions().collect::<Vec<_>>(), transposed);
        }
        assert_eq!(transposed.len(), count * h);
    }

    #[test]
    fn re_drawn_values_have_the_mean_and_deviation_of_what_they_replace() {
        let shape = [64, 200];
        let block = block(Projection::Gate, shape, 32);
        let inside: Vec<usize> = block.positions().collect();
        let mut weight = vec![1e3; shape[0] * shape[1]];
        for (i, &position) in inside.iter().enumerate() {
            weight[position] = if i % 2 == 0 { 2.0 } else { 4.0 };
        }
        redraw(&mut weight, &block, VALUES);
        let (mean, std) = mean_and_std(inside.iter().map(|&p| weight[p]));
        let n = inside.len() as f64;
        assert!((mean - 3.0).abs() < 5.0 / n.sqrt(), "mean {mean}");
        assert!((std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "std {std}");
        assert_eq!(weight.iter().filter(|w| **w == 1e3).count(), weight.len() - inside.len());
    }

    #[test]
    fn the_deviation_divides_by_the_number_of_values() {
        assert_eq!(mean_and_std([1.0, 1.0, 3.0, 3.0].into_iter()), (2.0, 1.0));
        assert_eq!(mean_and_std([5.0].into_iter()), (5.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "Norm is no matrix of an MLP")]
    fn only_matrices_of_an_mlp_have_intermediate_dimensions() {
        Block::of(TensorId::Norm, &[4], 1, DIMENSIONS);
    }
}
