//! How one weight of a grown decoder comes from its source.

use std::fmt;

use serde::Serialize;

use super::RouterInit;
use super::random_stream::RandomStream;
use super::step::{Step, computable, stream_through};
use crate::weights::{
    Change, Chunks, Dtype, LayerTensor, PIECE_NUMBERS, Projection, Sink, TensorId, WeightError, WeightSource,
    round_f32, widen_to_f32,
};

/// How one weight of a grown decoder comes from its source: what a plan decides, before a weight is read.
///
/// Arithmetic is in `f64`, but for [`Recipe::Scale`]; the result is rounded to the type of the source's weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Recipe {
    /// The weight of the source, byte for byte.
    Copy {
        /// Which weight.
        source: TensorId,
    },
    /// `factor · w` as PyTorch computes it: both in single precision, the product rounded to the type of `w`.
    Scale {
        /// Which weight is `w`.
        source: TensorId,
        /// What every entry is multiplied by.
        factor: f64,
    },
    /// Zeros.
    Zero {
        /// The weight in whose place they stand, and whose number format they take.
        like: TensorId,
    },
    /// `w + relative_std · std(w) · N(0, 1)`.
    Noise {
        /// Which weight is `w`.
        source: TensorId,
        /// Size of the noise beside the weight's entries.
        relative_std: f64,
        /// Where the normal numbers come from.
        values: RandomStream,
    },
    /// `count` intermediate dimensions are re-drawn from `N(mean, std)` of what they hold.
    Drop {
        /// Which matrix of a dense MLP.
        source: TensorId,
        /// How many intermediate dimensions.
        count: usize,
        /// Where their choice comes from.
        dimensions: RandomStream,
        /// Where the normal numbers come from.
        values: RandomStream,
    },
    /// A fresh router.
    Router {
        /// The weight whose number format the router takes.
        like: TensorId,
        /// How it starts.
        init: RouterInit,
        /// Where the random numbers come from.
        values: RandomStream,
    },
}

impl Recipe {
    /// The weight of the source that this one starts as; `None` if it is drawn afresh.
    pub fn source(&self) -> Option<TensorId> {
        match *self {
            Self::Copy { source }
            | Self::Scale { source, .. }
            | Self::Noise { source, .. }
            | Self::Drop { source, .. } => Some(source),
            Self::Zero { .. } | Self::Router { .. } => None,
        }
    }

    /// The same for a record.
    pub(super) fn change(&self) -> Change {
        match *self {
            Self::Copy { .. } => Change::Copy,
            Self::Scale { factor, .. } => Change::Scale { factor },
            Self::Zero { .. } => Change::Zeros,
            Self::Noise { relative_std, .. } => Change::RelativeNoise { relative_std },
            Self::Drop { count, .. } => Change::Drop { num_dimensions: count },
            Self::Router { init, .. } => init.change(),
        }
    }

    pub(super) fn dtype(&self, source: &impl WeightSource) -> Dtype {
        match *self {
            Self::Copy { source: id }
            | Self::Scale { source: id, .. }
            | Self::Noise { source: id, .. }
            | Self::Drop { source: id, .. } => source.dtype(id),
            Self::Zero { like } | Self::Router { like, .. } => source.dtype(like),
        }
    }

    /// Makes the weight, of the given shape, piece by piece.
    pub(super) fn stream(
        &self,
        source: &impl WeightSource,
        shape: &[usize],
        sink: &mut Sink<'_>,
    ) -> Result<(), WeightError> {
        match *self {
            Self::Copy { source: id } => source.stream(id, sink),
            Self::Scale { source: id, factor } => stream_through(source, id, &[Step::Scale(factor)], sink),
            Self::Zero { like } => zeros(source.dtype(like), shape.iter().product(), sink),
            Self::Noise { source: id, relative_std, values } => {
                let (_, std) = mean_and_std(source, id, |_| true)?;
                map(source, id, sink, |first, weight| {
                    values.map_normal(first, weight, |w, z| (f64::from(w) + relative_std * std * z) as f32);
                })
            }
            Self::Drop { source: id, count, dimensions, values } => {
                let block = Block::of(id, shape, count, dimensions);
                let (mean, std) = mean_and_std(source, id, |position| block.contains(position))?;
                let mut drawn = 0;
                map(source, id, sink, |first, weight| {
                    let positions: Vec<usize> = (0..weight.len()).filter(|&i| block.contains(first + i)).collect();
                    let mut redrawn = vec![0.0; positions.len()];
                    values.map_normal(drawn, &mut redrawn, |_, z| (mean + std * z) as f32);
                    drawn += positions.len();
                    positions.into_iter().zip(redrawn).for_each(|(i, value)| weight[i] = value);
                })
            }
            Self::Router { like, init, values } => {
                Self::stream_router(init, computable(source.dtype(like), like)?, shape, values, sink)
            }
        }
    }

    /// A fresh router of type `dtype` and shape `[experts, hidden]`, to `sink`.
    pub(super) fn stream_router(
        init: RouterInit,
        dtype: Dtype,
        shape: &[usize],
        values: RandomStream,
        sink: &mut Sink<'_>,
    ) -> Result<(), WeightError> {
        let rows = router(init, [shape[0], shape[1]], values);
        let mut bytes = Vec::with_capacity(rows.len() * dtype.size_bytes());
        round_f32(&rows, dtype, &mut bytes);
        let mut pieces = Chunks::new(dtype, sink);
        pieces.push(&bytes)?;
        pieces.finish()
    }
}

/// Streams a weight of `source` through `change`, which gets the place of the first of some numbers, and the numbers.
fn map(
    source: &impl WeightSource,
    id: TensorId,
    sink: &mut Sink<'_>,
    mut change: impl FnMut(usize, &mut [f32]),
) -> Result<(), WeightError> {
    let dtype = computable(source.dtype(id), id)?;
    let (mut first, mut values, mut changed) = (0, Vec::new(), Vec::new());
    source.stream(id, &mut |piece| {
        values.clear();
        changed.clear();
        widen_to_f32(piece, dtype, &mut values);
        change(first, &mut values);
        first += values.len();
        round_f32(&values, dtype, &mut changed);
        sink(&changed)
    })
}

/// `count` zeros: in every type, bytes that are all 0.
fn zeros(dtype: Dtype, count: usize, sink: &mut Sink<'_>) -> Result<(), WeightError> {
    let piece = vec![0; count.min(PIECE_NUMBERS) * dtype.size_bytes()];
    (0..count)
        .step_by(PIECE_NUMBERS)
        .try_for_each(|first| sink(&piece[..(count - first).min(PIECE_NUMBERS) * dtype.size_bytes()]))
}

/// Mean and standard deviation, in `f64`, of the numbers of a weight whose places are `counted`.
fn mean_and_std(
    source: &impl WeightSource,
    id: TensorId,
    counted: impl Fn(usize) -> bool,
) -> Result<(f64, f64), WeightError> {
    let dtype = computable(source.dtype(id), id)?;
    let mut values = Vec::new();
    let mut sum = |of: &dyn Fn(f64) -> f64| -> Result<(f64, usize), WeightError> {
        let (mut sum, mut count, mut place) = (0.0, 0, 0);
        source.stream(id, &mut |piece| {
            values.clear();
            widen_to_f32(piece, dtype, &mut values);
            for &value in &values {
                if counted(place) {
                    sum += of(f64::from(value));
                    count += 1;
                }
                place += 1;
            }
            Ok(())
        })?;
        Ok((sum, count))
    };
    let (total, count) = sum(&|v| v)?;
    let mean = total / count as f64;
    let (squares, _) = sum(&|v| (v - mean).powi(2))?;
    Ok((mean, (squares / count as f64).sqrt()))
}

/// In words: `copy`, `scale 0.5`, `zeros`, `noise 0.01`, `drop 168 dimensions`, `router normal(0.02)`.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.change().fmt(f)
    }
}

/// Some intermediate dimensions of one matrix of an MLP: whole rows of gate and up, whole columns of down.
struct Block {
    is_in: Vec<bool>,
    width: usize,
    by_row: bool,
}

impl Block {
    fn of(id: TensorId, shape: &[usize], count: usize, dimensions: RandomStream) -> Self {
        let TensorId::Layer(_, LayerTensor::Mlp(projection)) = id else { panic!("{id:?} is no matrix of an MLP") };
        let by_row = projection != Projection::Down;
        let mut is_in = vec![false; shape[usize::from(!by_row)]];
        dimensions.choose(is_in.len(), count).into_iter().for_each(|dimension| is_in[dimension] = true);
        Self { is_in, width: shape[1], by_row }
    }

    /// Whether the entry at this place of the row-major matrix is of one of the dimensions.
    fn contains(&self, position: usize) -> bool {
        self.is_in[if self.by_row { position / self.width } else { position % self.width }]
    }
}

fn router(init: RouterInit, [rows, columns]: [usize; 2], values: RandomStream) -> Vec<f32> {
    let mut weight = vec![0.0; rows * columns];
    match init {
        RouterInit::Zero => {}
        RouterInit::Normal { std } => values.map_normal(0, &mut weight, |_, z| (std * z) as f32),
        RouterInit::Uniform => {
            let bound = 1.0 / (columns as f64).sqrt();
            values.map_uniform(&mut weight, |u| (bound * (2.0 * u - 1.0)) as f32);
        }
        RouterInit::Orthogonal => {
            let norm = RouterInit::orthogonal_norm(columns);
            let entries = values.orthonormal_rows(rows, columns).into_iter().flatten();
            weight.iter_mut().zip(entries).for_each(|(w, x)| *w = (norm * x) as f32);
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::super::random_stream::Purpose;
    use super::*;

    use crate::config::DecoderConfig;
    use crate::weights::{MemoryWeights, PIECE_NUMBERS, RawTensor};

    const VALUES: RandomStream = RandomStream { seed: 3, layer: 0, purpose: Purpose::Values(0, Projection::Gate) };
    const DIMENSIONS: RandomStream = RandomStream { seed: 3, layer: 0, purpose: Purpose::Dropped(0) };

    fn block(projection: Projection, shape: [usize; 2], count: usize) -> Block {
        Block::of(TensorId::Layer(0, LayerTensor::Mlp(projection)), &shape, count, DIMENSIONS)
    }

    fn positions(block: &Block, shape: [usize; 2]) -> Vec<usize> {
        (0..shape[0] * shape[1]).filter(|&position| block.contains(position)).collect()
    }

    /// A decoder with one layer whose gate, up and down are `values`, of several pieces.
    fn source(values: impl Fn(usize) -> f32) -> MemoryWeights {
        let config = DecoderConfig::pico().with(|f| (f.num_hidden_layers, f.intermediate_size) = (1, 4096)).unwrap();
        let shapes = config.clone();
        MemoryWeights::new(config, |id| {
            let shape = id.shape(&shapes);
            let values: Vec<f32> = (0..shape.iter().product()).map(&values).collect();
            RawTensor::from_f32(Dtype::Float32, shape, &values)
        })
    }

    fn made(recipe: Recipe, source: &MemoryWeights) -> Vec<f32> {
        let id = recipe.source().unwrap();
        let shape = id.shape(source.config());
        let mut bytes = Vec::new();
        let mut take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        recipe.stream(source, &shape, &mut take).unwrap();
        RawTensor::new(Dtype::Float32, shape, bytes).to_f32()
    }

    #[test]
    fn the_block_of_gate_and_up_is_the_transpose_of_the_block_of_down() {
        let (f, h, count) = (7, 5, 3);
        let down = positions(&block(Projection::Down, [h, f], count), [h, f]);
        let mut transposed: Vec<_> = down.into_iter().map(|p| (p % f) * h + p / f).collect();
        transposed.sort_unstable();
        for projection in [Projection::Gate, Projection::Up] {
            assert_eq!(positions(&block(projection, [f, h], count), [f, h]), transposed);
        }
        assert_eq!(transposed.len(), count * h);
    }

    #[test]
    fn re_drawn_values_have_the_mean_and_deviation_of_what_they_replace() {
        let source = source(|i| if (i + i / 4096) % 2 == 0 { 2.0 } else { 4.0 });
        for projection in Projection::ALL {
            let id = TensorId::Layer(0, LayerTensor::Mlp(projection));
            let shape: [usize; 2] = id.shape(source.config()).try_into().unwrap();
            assert!(shape[0] * shape[1] > PIECE_NUMBERS, "one piece would prove little");
            let recipe = Recipe::Drop { source: id, count: 1000, dimensions: DIMENSIONS, values: VALUES };
            let (before, after) = (source.read(id).unwrap().to_f32(), made(recipe, &source));
            let inside = positions(&Block::of(id, &shape, 1000, DIMENSIONS), shape);
            let n = inside.len() as f64;
            let values = || inside.iter().map(|&p| f64::from(after[p]));
            let mean = values().sum::<f64>() / n;
            let std = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((mean - 3.0).abs() < 5.0 / n.sqrt(), "mean {mean}");
            assert!((std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "std {std}");
            let kept = before.iter().zip(&after).filter(|(b, a)| b == a).count();
            assert_eq!(kept, before.len() - inside.len());
        }
    }

    #[test]
    fn scaling_multiplies_in_single_precision() {
        let source = source(|i| i as f32);
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));
        let scaled = made(Recipe::Scale { source: id, factor: 0.1 }, &source);
        assert!(scaled.iter().enumerate().all(|(i, &w)| w == i as f32 * 0.1f32));
    }

    #[test]
    fn zeros_come_in_pieces_of_the_type_they_stand_for() {
        let source = source(|_| 1.0);
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));
        let mut lengths = Vec::new();
        let zero = Recipe::Zero { like: id };
        zero.stream(&source, &[PIECE_NUMBERS + 5, 2], &mut |piece| {
            assert!(piece.iter().all(|&byte| byte == 0));
            lengths.push(piece.len());
            Ok(())
        })
        .unwrap();
        assert_eq!(lengths, [4 * PIECE_NUMBERS, 4 * PIECE_NUMBERS, 40]);
    }

    #[test]
    fn the_deviation_divides_by_the_number_of_values() {
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Gate));
        let found = mean_and_std(&source(|i| [1.0, 1.0, 3.0, 3.0][i % 4]), id, |_| true).unwrap();
        assert_eq!(found, (2.0, 1.0));
        assert_eq!(mean_and_std(&source(|i| i as f32), id, |place| place == 5).unwrap(), (5.0, 0.0));
    }

    #[test]
    fn what_is_no_floating_point_number_is_copied_and_not_computed_with() {
        let floats = source(|_| 1.0);
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));
        let integers = MemoryWeights::new(floats.config().clone(), |id| {
            let shape = id.shape(floats.config());
            RawTensor::new(Dtype::Int8, shape.clone(), vec![1; shape.iter().product()])
        });
        let shape = id.shape(floats.config());
        Recipe::Copy { source: id }.stream(&integers, &shape, &mut |_| Ok(())).unwrap();
        let noise = Recipe::Noise { source: id, relative_std: 0.1, values: VALUES };
        let error = noise.stream(&integers, &shape, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("holds int8, expected float32, float16 or bfloat16"), "{error}");
    }

    #[test]
    #[should_panic(expected = "Norm is no matrix of an MLP")]
    fn only_matrices_of_an_mlp_have_intermediate_dimensions() {
        Block::of(TensorId::Norm, &[4], 1, DIMENSIONS);
    }
}
