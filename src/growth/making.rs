//! Executing a recipe: a weight in the making, streamed piece by piece.

use super::drawing::{self, Block};
use super::statistics::{Deviations, mean_and_std};
use crate::weights::{
    Chunks, Dtype, Like, PIECE_NUMBERS, Projection, Sink, Step, TensorId, WeightError, WeightSource, cast_bytes,
    round_f32, widen_to_f32,
};

/// A weight of a source after some steps; a created weight has no `id`. Memory is bounded by pieces, whatever the weight.
pub(super) struct Making<'a, S> {
    pub source: &'a S,
    pub id: Option<TensorId>,
    pub steps: &'a [Step],
    /// Standard deviations of weights of `source` that were measured.
    pub deviations: &'a Deviations,
}

impl<S: WeightSource> Making<'_, S> {
    pub fn dtype(&self) -> Dtype {
        // The first step of a created weight decides.
        let stored = self.id.map_or(Dtype::Float32, |id| self.source.dtype(id));
        self.steps.iter().fold(stored, |dtype, step| step.dtype(dtype))
    }

    pub fn shape(&self) -> Vec<usize> {
        let stored = self.id.map_or_else(Vec::new, |id| id.shape(self.source.config()));
        self.steps.iter().fold(stored, |shape, step| step.shape(shape))
    }

    /// Checks, from types alone, that each step can compute with what it gets.
    pub fn check(&self) -> Result<(), WeightError> {
        let Some((last, steps)) = self.steps.split_last() else { return Ok(()) };
        let before = Self { steps, ..*self };
        before.check()?;
        match last {
            Step::Scale { .. }
            | Step::Noise { .. }
            | Step::RelativeNoise { .. }
            | Step::Drop { .. }
            | Step::LowRank { .. } => before.computable().map(drop),
            Step::Part { projection: Projection::Down, .. } => before.computable().map(drop),
            Step::Cast { .. } => before.castable(),
            Step::Router { like, .. } | Step::GivenRouter { like, .. } => computable(like.id, like.dtype).map(drop),
            _ => Ok(()),
        }
    }

    /// Hands the bytes to `sink`, in pieces as [`WeightSource::stream`] does; without a step, untouched.
    pub fn stream(&self, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let Some((last, steps)) = self.steps.split_last() else {
            return self.source.stream(self.id.expect("a created weight has a step"), sink);
        };
        let before = Self { steps, ..*self };
        match last {
            step if step.keeps_bytes() => before.stream(sink),
            Step::Cast { dtype } => before.cast(*dtype, sink),
            Step::Scale { factor } => {
                let factor = *factor as f32;
                before.map(sink, |_, values| values.iter_mut().for_each(|w| *w *= factor))
            }
            Step::LowRank { update, .. } => before.map(sink, |first, values| update.add_to(first, values)),
            Step::Noise { std, values } => before.map(sink, |first, weight| {
                values.map_normal(first, weight, |w, z| (f64::from(w) + std * z) as f32);
            }),
            Step::RelativeNoise { relative_std, values } => {
                let std = before.std()?;
                before.map(sink, |first, weight| {
                    values.map_normal(first, weight, |w, z| (f64::from(w) + relative_std * std * z) as f32);
                })
            }
            Step::Drop { num_dimensions, projection, dimensions, values } => {
                let block = Block::new(*projection, &before.shape(), *num_dimensions, *dimensions);
                let (mean, std) = before.mean_and_std(|place| block.contains(place))?;
                let mut drawn = 0;
                before.map(sink, |first, weight| {
                    let places: Vec<usize> = (0..weight.len()).filter(|&i| block.contains(first + i)).collect();
                    let mut redrawn = vec![0.0; places.len()];
                    values.map_normal(drawn, &mut redrawn, |_, z| (mean + std * z) as f32);
                    drawn += places.len();
                    places.into_iter().zip(redrawn).for_each(|(i, value)| weight[i] = value);
                })
            }
            Step::Part { part, num_parts, projection } => before.part(*part, *num_parts, *projection, sink),
            Step::RepeatRows { times } => before.repeat_rows(*times, sink),
            Step::Zeros { shape, like } => zeros(like.dtype, shape.iter().product(), sink),
            Step::Router { init, shape, like, values } => {
                created(&drawing::router(*init, *shape, *values), *like, sink)
            }
            Step::GivenRouter { rows, like, .. } => created(rows, *like, sink),
            step => unreachable!("{step} is executed above"),
        }
    }

    /// Streams the weight through `change`, which takes the index of the first of some numbers, and the numbers.
    fn map(&self, sink: &mut Sink<'_>, mut change: impl FnMut(usize, &mut [f32])) -> Result<(), WeightError> {
        let dtype = self.computable()?;
        let (mut first, mut values, mut changed) = (0, Vec::new(), Vec::new());
        self.stream(&mut |piece| {
            values.clear();
            changed.clear();
            widen_to_f32(piece, dtype, &mut values);
            change(first, &mut values);
            first += values.len();
            round_f32(&values, dtype, &mut changed);
            sink(&changed)
        })
    }

    /// Rounds to another type; refuses to make a finite number infinite.
    fn cast(&self, to: Dtype, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let (from, id) = (self.dtype(), self.named());
        self.castable()?;
        let (mut first, mut rounded) = (0, Vec::new());
        self.stream(&mut |piece| {
            rounded.clear();
            cast_bytes(piece, from, to, &mut rounded);
            refuse_overflow(id, first, (from, piece), (to, &rounded))?;
            first += piece.len() / from.size_bytes();
            sink(&rounded)
        })
    }

    /// The rows, or for down the columns, of one part of the intermediate dimensions.
    fn part(&self, part: usize, parts: usize, projection: Projection, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let is_down = projection == Projection::Down;
        let dtype = if is_down { self.computable()? } else { self.dtype() };
        let (shape, size) = (self.shape(), dtype.size_bytes());
        let width = shape[1];
        let inner = shape[usize::from(is_down)] / parts;
        let is_inside = |place: usize| (if is_down { place % width } else { place / width }) / inner == part;
        let mut pieces = Chunks::new(dtype, sink);
        let (mut place, mut inside) = (0, Vec::new());
        self.stream(&mut |piece| {
            inside.clear();
            // Runs of numbers of one part: a stretch of a row of down, or a row.
            let count = piece.len() / size;
            let mut i = 0;
            while i < count {
                let left = width - (place + i) % width;
                let run = if is_down { (inner - (place + i) % inner).min(left) } else { left }.min(count - i);
                if is_inside(place + i) {
                    inside.extend_from_slice(&piece[i * size..(i + run) * size]);
                }
                i += run;
            }
            place += count;
            if is_down { pieces.push(&times(&inside, dtype, parts)) } else { pieces.push(&inside) }
        })?;
        pieces.finish()
    }

    fn repeat_rows(&self, times: usize, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let (dtype, width) = (self.dtype(), self.shape()[1]);
        let mut bytes = Vec::new();
        self.stream(&mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let mut pieces = Chunks::new(dtype, sink);
        for row in bytes.chunks(width * dtype.size_bytes()) {
            (0..times).try_for_each(|_| pieces.push(row))?;
        }
        pieces.finish()
    }

    /// Mean and population standard deviation of the numbers whose index is `counted`.
    fn mean_and_std(&self, counted: impl Fn(usize) -> bool + Sync) -> Result<(f64, f64), WeightError> {
        mean_and_std(self.computable()?, |sink| self.stream(sink), counted)
    }

    /// Population standard deviation of all numbers.
    fn std(&self) -> Result<f64, WeightError> {
        self.deviations.of(self.named(), self.steps, || Ok(self.mean_and_std(|_| true)?.1))
    }

    /// The type, if decoders compute in it.
    fn computable(&self) -> Result<Dtype, WeightError> {
        computable(self.named(), self.dtype())
    }

    fn castable(&self) -> Result<(), WeightError> {
        let (id, found, expected) = (self.named(), self.dtype(), "floating-point numbers to round");
        if found.is_float() { Ok(()) } else { Err(WeightError::NotComputable { id, found, expected }) }
    }

    /// The weight that an error names: as its file knows it.
    fn named(&self) -> TensorId {
        let created = self.steps.iter().find_map(|step| match step {
            Step::Zeros { like, .. } | Step::Router { like, .. } | Step::GivenRouter { like, .. } => Some(like.id),
            _ => None,
        });
        self.id.or(created).expect("a created weight has a step that says like what")
    }
}

fn computable(id: TensorId, found: Dtype) -> Result<Dtype, WeightError> {
    let expected = "float32, float16 or bfloat16 to compute with";
    if found.is_computed_with() { Ok(found) } else { Err(WeightError::NotComputable { id, found, expected }) }
}

/// Numbers rounded to the type of `like`.
fn created(values: &[f32], like: Like, sink: &mut Sink<'_>) -> Result<(), WeightError> {
    let dtype = computable(like.id, like.dtype)?;
    let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
    round_f32(values, dtype, &mut bytes);
    bytes.chunks(PIECE_NUMBERS * dtype.size_bytes()).try_for_each(sink)
}

/// `count` zeros: in every type, bytes that are 0.
fn zeros(dtype: Dtype, count: usize, sink: &mut Sink<'_>) -> Result<(), WeightError> {
    let piece = vec![0; count.min(PIECE_NUMBERS) * dtype.size_bytes()];
    (0..count)
        .step_by(PIECE_NUMBERS)
        .try_for_each(|first| sink(&piece[..(count - first).min(PIECE_NUMBERS) * dtype.size_bytes()]))
}

/// Numbers times a count, rounded once.
fn times(bytes: &[u8], dtype: Dtype, factor: usize) -> Vec<u8> {
    let (mut values, mut product) = (Vec::new(), Vec::new());
    widen_to_f32(bytes, dtype, &mut values);
    values.iter_mut().for_each(|w| *w *= factor as f32);
    round_f32(&values, dtype, &mut product);
    product
}

fn refuse_overflow(
    id: TensorId,
    first: usize,
    (from, before): (Dtype, &[u8]),
    (to, after): (Dtype, &[u8]),
) -> Result<(), WeightError> {
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    widen_to_f32(after, to, &mut narrow);
    if narrow.iter().all(|w| !w.is_infinite()) {
        return Ok(());
    }
    match from {
        Dtype::Float64 => wide.extend(before.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b))),
        _ => {
            let mut single = Vec::new();
            widen_to_f32(before, from, &mut single);
            wide.extend(single.into_iter().map(f64::from));
        }
    }
    match wide.iter().zip(&narrow).position(|(w, n)| n.is_infinite() && w.is_finite()) {
        Some(place) => Err(WeightError::Overflow { id, index: first + place, value: wide[place], dtype: to }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::weights::{LayerTensor, MemoryWeights, Purpose, RandomStream, RawTensor};

    const VALUES: RandomStream = RandomStream { seed: 3, layer: 0, purpose: Purpose::Values(0, Projection::Gate) };
    const DIMENSIONS: RandomStream = RandomStream { seed: 3, layer: 0, purpose: Purpose::Dropped(0) };
    const UP: TensorId = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));

    /// A decoder of one layer whose matrices, several pieces long, hold `values` rounded to `dtype`.
    fn source_in(dtype: Dtype, values: impl Fn(usize) -> f32) -> MemoryWeights {
        let config = DecoderConfig::pico().with(|f| (f.num_hidden_layers, f.intermediate_size) = (1, 4096)).unwrap();
        let shapes = config.clone();
        MemoryWeights::new(config, |id| {
            let shape = id.shape(&shapes);
            let values: Vec<f32> = (0..shape.iter().product()).map(&values).collect();
            RawTensor::from_f32(dtype, shape, &values)
        })
    }

    fn source(values: impl Fn(usize) -> f32) -> MemoryWeights {
        source_in(Dtype::Float32, values)
    }

    fn made_of(source: &MemoryWeights, id: TensorId, steps: &[Step]) -> Result<RawTensor, WeightError> {
        let making = Making { source, id: Some(id), steps, deviations: &Deviations::default() };
        let (mut bytes, mut pieces) = (Vec::new(), 0);
        making.stream(&mut |piece| {
            pieces += 1;
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        assert!(pieces > 1, "one piece would prove little");
        Ok(RawTensor::new(making.dtype(), making.shape(), bytes))
    }

    fn made(source: &MemoryWeights, steps: &[Step]) -> Result<RawTensor, WeightError> {
        made_of(source, UP, steps)
    }

    #[test]
    fn re_drawn_values_have_the_mean_and_deviation_of_what_they_replace() {
        let source = source(|i| if (i + i / 4096) % 2 == 0 { 2.0 } else { 4.0 });
        for projection in Projection::ALL {
            let id = TensorId::Layer(0, LayerTensor::Mlp(projection));
            let shape = id.shape(source.config());
            let drop = Step::Drop { num_dimensions: 1000, projection, dimensions: DIMENSIONS, values: VALUES };
            let (before, after) = (source.read(id).unwrap().to_f32(), made_of(&source, id, &[drop]).unwrap().to_f32());
            let block = Block::new(projection, &shape, 1000, DIMENSIONS);
            let inside: Vec<usize> = (0..before.len()).filter(|&place| block.contains(place)).collect();
            let n = inside.len() as f64;
            let values = || inside.iter().map(|&p| f64::from(after[p]));
            let mean = values().sum::<f64>() / n;
            let std = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((mean - 3.0).abs() < 5.0 / n.sqrt(), "mean {mean}");
            assert!((std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "std {std}");
            let unchanged = before.iter().zip(&after).filter(|(b, a)| b == a).count();
            assert_eq!(unchanged, before.len() - inside.len());
        }
    }

    #[test]
    fn a_factor_is_rounded_before_it_multiplies_as_in_pytorch() {
        let scaled = made(&source(|i| i as f32), &[Step::Scale { factor: 0.1 }]).unwrap().to_f32();
        assert!(scaled.iter().enumerate().all(|(i, &w)| w == i as f32 * 0.1f32));
        let differs = |(i, &w): (usize, &f32)| w != (i as f64 * 0.1) as f32;
        assert!(scaled.iter().enumerate().any(differs), "a product in double precision would be the same");
    }

    #[test]
    fn each_step_computes_in_the_type_of_the_one_before() {
        let base = source(|i| 1.0 + (i % 4096) as f32 / 4096.0);
        let (cast, scale) = (Step::Cast { dtype: Dtype::Bfloat16 }, Step::Scale { factor: 3.0 });
        let cast_first = made(&base, &[cast.clone(), scale.clone()]).unwrap();
        let scale_first = made(&base, &[scale, cast]).unwrap();
        assert_eq!((cast_first.dtype(), scale_first.dtype()), (Dtype::Bfloat16, Dtype::Bfloat16));
        assert_ne!(cast_first.bytes(), scale_first.bytes());
    }

    #[test]
    fn noise_has_the_given_deviation_and_does_not_repeat_by_pieces() {
        let noisy = made(&source(|_| 2.0), &[Step::Noise { std: 0.5, values: VALUES }]).unwrap().to_f32();
        let n = noisy.len() as f64;
        let mean = noisy.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        let std = (noisy.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((mean - 2.0).abs() < 5.0 * 0.5 / n.sqrt(), "mean {mean}");
        assert!((std - 0.5).abs() < 5.0 * 0.5 / (2.0 * n).sqrt(), "std {std}");
        assert_ne!(noisy[..1000], noisy[PIECE_NUMBERS..PIECE_NUMBERS + 1000]);
    }

    #[test]
    fn relative_noise_measures_the_weight_after_the_steps_before() {
        let base = source(|i| [1.0, 1.0, 3.0, 3.0][i % 4]);
        let relative = Step::RelativeNoise { relative_std: 0.5, values: VALUES };
        let scaled = [Step::Scale { factor: 4.0 }, relative];
        let absolute = [Step::Scale { factor: 4.0 }, Step::Noise { std: 2.0, values: VALUES }];
        assert_eq!(made(&base, &scaled).unwrap(), made(&base, &absolute).unwrap());
    }

    #[test]
    fn zeros_come_in_pieces_of_their_type() {
        let base = source(|_| 1.0);
        let mut lengths = Vec::new();
        let like = Like { id: UP, dtype: Dtype::Float32 };
        let steps = [Step::Zeros { shape: vec![PIECE_NUMBERS + 5, 2], like }];
        let making = Making { source: &base, id: None, steps: &steps, deviations: &Deviations::default() };
        making
            .stream(&mut |piece| {
                assert!(piece.iter().all(|&byte| byte == 0));
                lengths.push(piece.len());
                Ok(())
            })
            .unwrap();
        assert_eq!(lengths, [4 * PIECE_NUMBERS, 4 * PIECE_NUMBERS, 40]);
    }

    #[test]
    fn a_finite_number_does_not_become_infinite_and_an_infinite_one_stays() {
        let big = |i| if i == PIECE_NUMBERS + 7 { 70_000.0 } else { 1.0 };
        let cast = [Step::Cast { dtype: Dtype::Float16 }];
        let error = made(&source_in(Dtype::Bfloat16, big), &cast).unwrap_err().to_string();
        assert!(error.contains("holds 70144 at index 262151, beyond the range of float16"), "{error}");
        let infinite = source_in(Dtype::Bfloat16, |i| if i == 7 { f32::INFINITY } else { 1.0 });
        assert!(made(&infinite, &cast).is_ok());
    }

    #[test]
    fn integers_are_copied_and_not_computed_with() {
        let floats = source(|_| 1.0);
        let integers = MemoryWeights::new(floats.config().clone(), |id| {
            let shape = id.shape(floats.config());
            RawTensor::new(Dtype::Int8, shape.clone(), vec![1; shape.iter().product()])
        });
        assert!(made(&integers, &[Step::Copy]).is_ok());
        assert!(made(&integers, &[Step::Part { part: 0, num_parts: 1, projection: Projection::Up }]).is_ok());
        let steps = [
            Step::Cast { dtype: Dtype::Float32 },
            Step::Scale { factor: 2.0 },
            Step::RelativeNoise { relative_std: 0.1, values: VALUES },
            Step::Part { part: 1, num_parts: 2, projection: Projection::Down },
        ];
        let deviations = Deviations::default();
        for steps in steps.map(|step| [step]) {
            let error = made(&integers, &steps).unwrap_err().to_string();
            assert!(error.contains("is int8, expected float"), "{error}");
            let checked = Making { source: &integers, id: Some(UP), steps: &steps, deviations: &deviations }.check();
            assert_eq!(checked.unwrap_err().to_string(), error);
        }
        let like = Like { id: UP, dtype: Dtype::Int8 };
        let steps = [Step::GivenRouter { rows: vec![1.0; 4].into(), shape: [2, 2], like }];
        let router = Making { source: &integers, id: None, steps: &steps, deviations: &deviations };
        assert!(router.stream(&mut |_| Ok(())).unwrap_err().to_string().contains("is int8"));
        assert!(router.check().is_err());
        assert!(Making { id: Some(UP), steps: &[Step::Copy], ..router }.check().is_ok());
    }
}
