//! Mean and standard deviation of weights.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::weights::{Dtype, Sink, Step, TensorId, WeightError, widen_to_f32};

/// Numbers that are added one by one. The sums of blocks are added in order, so that the result does not depend on the
/// number of threads. Pieces of a stream consist of whole blocks.
const BLOCK: usize = 1 << 16;

/// Mean and population standard deviation, in `f64`, of the numbers whose index is `counted`. `stream` hands over all numbers
/// in order, in pieces as [`WeightSource::stream`](crate::weights::WeightSource::stream) does; it is called twice.
pub(super) fn mean_and_std(
    dtype: Dtype,
    stream: impl Fn(&mut Sink<'_>) -> Result<(), WeightError>,
    counted: impl Fn(usize) -> bool + Sync,
) -> Result<(f64, f64), WeightError> {
    let (total, count) = sum(dtype, &stream, &counted, |value| value)?;
    let mean = total / count as f64;
    let (squares, _) = sum(dtype, &stream, &counted, |value| (value - mean).powi(2))?;
    Ok((mean, (squares / count as f64).sqrt()))
}

/// The sum of a function of the counted numbers, and their count.
fn sum(
    dtype: Dtype,
    stream: &impl Fn(&mut Sink<'_>) -> Result<(), WeightError>,
    counted: &(impl Fn(usize) -> bool + Sync),
    of: impl Fn(f64) -> f64 + Sync,
) -> Result<(f64, usize), WeightError> {
    let (mut sum, mut count, mut first) = (0.0, 0, 0);
    stream(&mut |piece| {
        let sum_of_block = |(block, bytes): (usize, &[u8])| {
            let mut values = Vec::with_capacity(BLOCK);
            widen_to_f32(bytes, dtype, &mut values);
            let places = first + block * BLOCK..;
            let values = places.zip(values).filter(|(place, _)| counted(*place)).map(|(_, value)| of(f64::from(value)));
            values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1))
        };
        let blocks: Vec<(f64, usize)> =
            piece.par_chunks(BLOCK * dtype.size_bytes()).enumerate().map(sum_of_block).collect();
        for (block_sum, block_count) in blocks {
            sum += block_sum;
            count += block_count;
        }
        first += piece.len() / dtype.size_bytes();
        Ok(())
    })?;
    Ok((sum, count))
}

/// A weight of a source after some steps, and its standard deviation.
type Deviation = ((TensorId, Vec<Step>), f64);

/// Standard deviations of weights of one source. Each is measured once, though many experts are made of one weight.
#[derive(Debug, Clone, Default)]
pub(super) struct Deviations(Arc<Mutex<Vec<Deviation>>>);

impl Deviations {
    /// That of a weight after some steps; `measure` is called if it is not known yet.
    pub fn of(
        &self,
        id: TensorId,
        steps: &[Step],
        measure: impl FnOnce() -> Result<f64, WeightError>,
    ) -> Result<f64, WeightError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, std)) = known().iter().find(|(weight, _)| weight.0 == id && weight.1 == steps) {
            return Ok(*std);
        }
        // Without the lock: measuring runs on several threads.
        let std = measure()?;
        known().push(((id, steps.to_vec()), std));
        Ok(std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{PIECE_NUMBERS, round_f32};

    /// Measures numbers that arrive in pieces.
    fn measured(values: &[f32], counted: impl Fn(usize) -> bool + Sync) -> (f64, f64) {
        let mut bytes = Vec::new();
        round_f32(values, Dtype::Float32, &mut bytes);
        mean_and_std(Dtype::Float32, |sink| bytes.chunks(4 * PIECE_NUMBERS).try_for_each(&mut *sink), counted).unwrap()
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7).sin() + 0.1).collect()
    }

    #[test]
    fn the_deviation_divides_by_the_number_of_values() {
        let alternating: Vec<f32> = (0..2 * PIECE_NUMBERS).map(|i| [1.0, 1.0, 3.0, 3.0][i % 4]).collect();
        assert_eq!(measured(&alternating, |_| true), (2.0, 1.0));
        assert_eq!(measured(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], |place| place == 5), (5.0, 0.0));
    }

    #[test]
    fn the_numbers_of_a_block_are_added_one_by_one() {
        let values = values(BLOCK);
        let mean = values.iter().fold(0.0, |sum, &value| sum + f64::from(value)) / BLOCK as f64;
        let squares = values.iter().fold(0.0, |sum, &value| sum + (f64::from(value) - mean).powi(2));
        assert_eq!(measured(&values, |_| true), (mean, (squares / BLOCK as f64).sqrt()));
    }

    #[test]
    fn the_result_is_the_same_on_any_number_of_threads() {
        let values = values(2 * PIECE_NUMBERS + BLOCK + 7);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| measured(&values, |place| place % 3 != 0))
        };
        assert_eq!(on(1), on(2));
        assert_eq!(on(1), on(5));
        let counted: Vec<f64> =
            values.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, &value)| f64::from(value)).collect();
        let mean = counted.iter().sum::<f64>() / counted.len() as f64;
        assert!((on(1).0 - mean).abs() < 1e-12, "{} is not {mean}", on(1).0);
    }

    #[test]
    fn a_deviation_is_measured_once_for_each_weight_and_its_steps() {
        let deviations = Deviations::default();
        let scaled = [Step::Scale { factor: 2.0 }];
        let of = |id, steps: &[Step], std| deviations.of(id, steps, || Ok(std)).unwrap();
        assert_eq!((of(TensorId::Norm, &[], 1.0), of(TensorId::Norm, &[], 2.0)), (1.0, 1.0));
        assert_eq!((of(TensorId::Norm, &scaled, 3.0), of(TensorId::LmHead, &[], 4.0)), (3.0, 4.0));
    }
}
