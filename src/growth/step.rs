//! What is done to a weight on its way out of a source, piece by piece.

use super::random_stream::RandomStream;
use crate::weights::{Change, Dtype, Sink, TensorId, WeightError, WeightSource, cast_bytes, round_f32, widen_to_f32};

/// One thing done to every number of a weight. Like PyTorch, each step gives numbers of the type it is done in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// Rounded to this type, to nearest, ties to even.
    Cast(Dtype),
    /// `factor · w`, in single precision: `torch.Tensor * float` of a type of at most four bytes.
    Scale(f64),
    /// `w + std · N(0, 1)`.
    Noise {
        /// Standard deviation of what is added.
        std: f64,
        /// Where the normal numbers come from.
        values: RandomStream,
    },
}

impl Step {
    /// The type of the result, for a weight of type `dtype`.
    pub fn dtype(self, dtype: Dtype) -> Dtype {
        if let Self::Cast(to) = self { to } else { dtype }
    }

    /// The same for a record.
    pub fn change(&self) -> Change {
        match *self {
            Self::Cast(dtype) => Change::Cast { dtype },
            Self::Scale(factor) => Change::Scale { factor },
            Self::Noise { std, .. } => Change::Noise { std },
        }
    }

    fn check(self, id: TensorId, found: Dtype) -> Result<(), WeightError> {
        match self {
            Self::Cast(to) if to == found => Ok(()),
            Self::Cast(_) if found.is_float() => Ok(()),
            Self::Cast(_) => Err(WeightError::NotComputable { id, found, expected: "floating-point numbers to round" }),
            Self::Scale(_) | Self::Noise { .. } => computable(found, id).map(drop),
        }
    }

    /// Appends what becomes of `bytes`, numbers of type `dtype` from the place `first` on.
    fn apply(self, first: usize, dtype: Dtype, bytes: &[u8], out: &mut Vec<u8>) {
        let change = |change: &dyn Fn(&mut [f32]), out: &mut Vec<u8>| {
            let mut values = Vec::with_capacity(bytes.len() / dtype.size_bytes());
            widen_to_f32(bytes, dtype, &mut values);
            change(&mut values);
            round_f32(&values, dtype, out);
        };
        match self {
            Self::Cast(to) => cast_bytes(bytes, dtype, to, out),
            Self::Scale(factor) => {
                let factor = factor as f32;
                change(&|values| values.iter_mut().for_each(|w| *w *= factor), out);
            }
            Self::Noise { std, values: draws } => {
                let noisy = |w, z| (f64::from(w) + std * z) as f32;
                change(&|values| draws.map_normal(first, values, noisy), out);
            }
        }
    }
}

/// The type of a weight after these steps.
pub(super) fn dtype_after(dtype: Dtype, steps: &[Step]) -> Dtype {
    steps.iter().fold(dtype, |dtype, step| step.dtype(dtype))
}

/// Streams a weight of `source` through `steps`, one after the other; without a step, its bytes untouched.
///
/// A cast that would make a finite number infinite is refused.
pub(super) fn stream_through(
    source: &impl WeightSource,
    id: TensorId,
    steps: &[Step],
    sink: &mut Sink<'_>,
) -> Result<(), WeightError> {
    let mut dtype = source.dtype(id);
    for step in steps {
        step.check(id, dtype)?;
        dtype = step.dtype(dtype);
    }
    if steps.is_empty() {
        return source.stream(id, sink);
    }
    let (mut first, mut before, mut after) = (0, Vec::new(), Vec::new());
    let from = source.dtype(id);
    source.stream(id, &mut |piece| {
        let mut dtype = from;
        before.clear();
        before.extend_from_slice(piece);
        for step in steps {
            after.clear();
            step.apply(first, dtype, &before, &mut after);
            if matches!(step, Step::Cast(to) if *to != dtype) {
                refuse_overflow(id, first, (dtype, &before), (step.dtype(dtype), &after))?;
            }
            dtype = step.dtype(dtype);
            std::mem::swap(&mut before, &mut after);
        }
        first += piece.len() / from.size_bytes();
        sink(&before)
    })
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
        Some(place) => Err(WeightError::Overflow { id, place: first + place, value: wide[place], dtype: to }),
        None => Ok(()),
    }
}

/// The type itself, if decoders compute with it.
pub(super) fn computable(dtype: Dtype, id: TensorId) -> Result<Dtype, WeightError> {
    let expected = "float32, float16 or bfloat16 to compute with";
    if dtype.is_computed_with() { Ok(dtype) } else { Err(WeightError::NotComputable { id, found: dtype, expected }) }
}

#[cfg(test)]
mod tests {
    use super::super::random_stream::Purpose;
    use super::*;
    use crate::config::DecoderConfig;
    use crate::weights::{MemoryWeights, PIECE_NUMBERS, Projection, RawTensor};

    const ID: TensorId = TensorId::EmbedTokens;

    /// A decoder whose embeddings, of several pieces, are `values`, rounded to `dtype`.
    fn source(dtype: Dtype, values: impl Fn(usize) -> f32) -> MemoryWeights {
        let config = DecoderConfig::pico().with(|f| (f.num_hidden_layers, f.vocab_size) = (1, 6000)).unwrap();
        let shapes = config.clone();
        MemoryWeights::new(config, |id| {
            let shape = id.shape(&shapes);
            let values: Vec<f32> = (0..shape.iter().product()).map(&values).collect();
            RawTensor::from_f32(dtype, shape, &values)
        })
    }

    fn through(source: &MemoryWeights, steps: &[Step]) -> Result<RawTensor, WeightError> {
        let (mut bytes, mut pieces) = (Vec::new(), 0);
        stream_through(source, ID, steps, &mut |piece| {
            pieces += 1;
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        assert!(pieces > 1, "one piece would prove little");
        Ok(RawTensor::new(dtype_after(source.dtype(ID), steps), ID.shape(source.config()), bytes))
    }

    #[test]
    fn a_factor_is_rounded_before_it_multiplies_as_in_pytorch() {
        let made = through(&source(Dtype::Float32, |i| i as f32), &[Step::Scale(0.1)]).unwrap().to_f32();
        assert!(made.iter().enumerate().all(|(i, &w)| w == i as f32 * 0.1f32));
        let differs = |(i, &w): (usize, &f32)| w != (i as f64 * 0.1) as f32;
        assert!(made.iter().enumerate().any(differs), "a product in double precision would be the same");
    }

    #[test]
    fn each_step_is_done_in_the_type_that_the_one_before_it_gave() {
        let halves = source(Dtype::Float32, |i| 1.0 + i as f32 / 4096.0);
        let cast_first = through(&halves, &[Step::Cast(Dtype::Bfloat16), Step::Scale(3.0)]).unwrap();
        let scale_first = through(&halves, &[Step::Scale(3.0), Step::Cast(Dtype::Bfloat16)]).unwrap();
        assert_eq!((cast_first.dtype(), scale_first.dtype()), (Dtype::Bfloat16, Dtype::Bfloat16));
        assert_ne!(cast_first.bytes(), scale_first.bytes());
    }

    #[test]
    fn noise_has_the_deviation_that_it_is_given_and_no_memory_of_pieces() {
        let values = RandomStream { seed: 3, layer: 0, purpose: Purpose::Values(0, Projection::Gate) };
        let made = through(&source(Dtype::Float32, |_| 2.0), &[Step::Noise { std: 0.5, values }]).unwrap().to_f32();
        let n = made.len() as f64;
        let mean = made.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        let std = (made.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((mean - 2.0).abs() < 5.0 * 0.5 / n.sqrt(), "mean {mean}");
        assert!((std - 0.5).abs() < 5.0 * 0.5 / (2.0 * n).sqrt(), "std {std}");
        assert_ne!(made[..1000], made[PIECE_NUMBERS..PIECE_NUMBERS + 1000]);
    }

    #[test]
    fn a_finite_number_does_not_become_infinite_and_an_infinite_one_stays() {
        let big = |i| if i == PIECE_NUMBERS + 7 { 70_000.0 } else { 1.0 };
        let error = through(&source(Dtype::Bfloat16, big), &[Step::Cast(Dtype::Float16)]).unwrap_err();
        let message = "EmbedTokens holds 70144 at place 262151, beyond the range of float16";
        assert!(error.to_string().starts_with(message), "{error}");
        let infinite = source(Dtype::Bfloat16, |i| if i == 7 { f32::INFINITY } else { 1.0 });
        assert!(through(&infinite, &[Step::Cast(Dtype::Float16)]).is_ok());
    }

    #[test]
    fn integers_are_copied_but_neither_rounded_nor_multiplied() {
        let config = DecoderConfig::pico();
        let integers = MemoryWeights::new(config.clone(), |id| {
            let shape = id.shape(&config);
            RawTensor::new(Dtype::Int8, shape.clone(), vec![1; shape.iter().product()])
        });
        for step in [Step::Cast(Dtype::Float32), Step::Scale(2.0)] {
            let error = stream_through(&integers, ID, &[step], &mut |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains("EmbedTokens holds int8, expected float"), "{error}");
        }
        assert!(stream_through(&integers, ID, &[], &mut |_| Ok(())).is_ok());
    }
}
