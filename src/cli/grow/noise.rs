//! Noise that rounding undoes: numbers that are what they were once they are written.

use std::io;

use super::args::{GgufArg, GrowArgs, OutType};
use crate::error::{FileError, FileFault};
use crate::weights::{Dtype, RawTensor, TensorId, WeightError, WeightSource};

/// Numbers that are looked at.
const SAMPLE: usize = 1 << 16;

/// Numbers in a block of Q8_0, which share a scale.
const BLOCK: usize = 32;

/// Share of numbers that stay what they were beyond which noise is taken for a mistake.
const MOST_UNCHANGED: f64 = 0.5;

/// The first numbers of a weight without and with noise.
pub(in crate::cli) struct Noise {
    what: String,
    before: RawTensor,
    after: RawTensor,
}

impl Noise {
    /// Reads them: `still` has the weight without noise, `noisy` with it. `what` says how much noise, and where.
    pub fn sample(
        what: String,
        (still, still_id): (&dyn WeightSource, TensorId),
        (noisy, noisy_id): (&dyn WeightSource, TensorId),
    ) -> Result<Self, WeightError> {
        Ok(Self { what, before: first_numbers(still, still_id)?, after: first_numbers(noisy, noisy_id)? })
    }

    /// The warning, if most of the numbers are written as they would be without noise.
    pub fn warning(&self, args: &GrowArgs) -> Option<String> {
        let dtype = self.after.dtype();
        let (unchanged, written) = match args.out_type {
            OutType::Gguf(GgufArg::Q8_0) => (self.same_codes(), "Q8_0".to_owned()),
            OutType::Gguf(GgufArg::F32) => self.same_numbers(Dtype::Float32),
            OutType::Gguf(GgufArg::F16) => self.same_numbers(Dtype::Float16),
            OutType::Gguf(GgufArg::Bf16) => self.same_numbers(Dtype::Bfloat16),
            OutType::Hf => self.same_numbers(args.dtype.map_or(dtype, |dtype| dtype.dtype())),
        };
        let count = self.after.shape()[0];
        let share = unchanged as f64 / count as f64;
        (share > MOST_UNCHANGED).then(|| {
            format!(
                "{} is lost in rounding to {written}: {:.1} % of the first {count} numbers stay what they were",
                self.what,
                100.0 * share
            )
        })
    }

    /// How many are the same in this type.
    fn same_numbers(&self, dtype: Dtype) -> (usize, String) {
        let [before, after] = [&self.before, &self.after].map(|numbers| numbers.clone().cast(dtype).into_bytes());
        let pairs = before.chunks(dtype.size_bytes()).zip(after.chunks(dtype.size_bytes()));
        (pairs.filter(|(before, after)| before == after).count(), dtype.to_string())
    }

    /// How many have the same 8 bits beside the scale of their block.
    fn same_codes(&self) -> usize {
        let codes = |numbers: &RawTensor| -> Vec<i32> {
            let code = |block: &[f32]| {
                let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                block.iter().map(|value| (value * inverse).round() as i32).collect::<Vec<_>>()
            };
            numbers.to_f32().chunks(BLOCK).flat_map(code).collect()
        };
        codes(&self.before).iter().zip(codes(&self.after)).filter(|(before, after)| *before == after).count()
    }
}

fn first_numbers(source: &dyn WeightSource, id: TensorId) -> Result<RawTensor, WeightError> {
    let dtype = source.dtype(id);
    let count = id.shape(source.config()).iter().product::<usize>().min(SAMPLE);
    let wanted = count * dtype.size_bytes();
    let mut bytes = Vec::with_capacity(wanted);
    let streamed = source.stream(id, &mut |piece| {
        bytes.extend_from_slice(&piece[..piece.len().min(wanted - bytes.len())]);
        // An error ends the stream: the rest is not needed.
        let enough = || FileError::new("", FileFault::Io(io::ErrorKind::Interrupted.into())).into();
        if bytes.len() < wanted { Ok(()) } else { Err(enough()) }
    });
    match streamed {
        Err(error) if bytes.len() < wanted => Err(error),
        _ => Ok(RawTensor::new(dtype, vec![count], bytes)),
    }
}
