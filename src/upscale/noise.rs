//! Noise that rounding removes: numbers that are written as they would be without it.

use std::io;

use super::UpscaleError;
use crate::error::{FileError, FileFault};
use crate::formats::gguf::GgufFileType;
use crate::weights::{Dtype, RawTensor, TensorId, WeightError, WeightSource};

/// Numbers in a sample.
const SAMPLE: usize = 1 << 16;

/// Numbers that share a scale, in most blocks.
const BLOCK: usize = 32;

/// Fraction of unchanged numbers above which noise is taken for a mistake.
const MAX_UNCHANGED: f64 = 0.5;

/// How the numbers of a result are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenAs {
    /// In the type of their weight.
    Stored,
    /// In one type.
    Float(Dtype),
    /// As blocks of integers.
    Blocks(GgufFileType),
}

/// The first numbers of a weight without and with noise.
#[derive(Debug, Clone)]
pub struct NoiseSample {
    noise: String,
    before: RawTensor,
    after: RawTensor,
}

impl NoiseSample {
    /// Reads the first numbers of the weight `id` of `still`, without noise, and of `noisy`; `noise` names it in a warning.
    pub(super) fn read(
        noise: String,
        still: &dyn WeightSource,
        noisy: &dyn WeightSource,
        id: TensorId,
    ) -> Result<Self, UpscaleError> {
        Ok(Self { noise, before: first_numbers(still, id)?, after: first_numbers(noisy, id)? })
    }

    /// A warning if most numbers are written as they would be without noise.
    pub fn warning(&self, written: WrittenAs) -> Option<String> {
        let (unchanged, written) = match written {
            WrittenAs::Blocks(file_type) => {
                (self.same_codes(file_type.levels().unwrap_or(127.0)), file_type.name().to_owned())
            }
            WrittenAs::Float(dtype) => (self.same_numbers(dtype), dtype.to_string()),
            WrittenAs::Stored => (self.same_numbers(self.after.dtype()), self.after.dtype().to_string()),
        };
        let count = self.after.shape()[0];
        let share = unchanged as f64 / count as f64;
        (share > MAX_UNCHANGED).then(|| {
            format!(
                "{} is lost in rounding to {written}: {:.1} % of the first {count} numbers stay what they were",
                self.noise,
                100.0 * share
            )
        })
    }

    /// Numbers that are equal in a type.
    fn same_numbers(&self, dtype: Dtype) -> usize {
        let [before, after] = [&self.before, &self.after].map(|numbers| numbers.clone().cast(dtype).into_bytes());
        let pairs = before.chunks(dtype.size_bytes()).zip(after.chunks(dtype.size_bytes()));
        pairs.filter(|(before, after)| before == after).count()
    }

    /// Numbers with equal codes of so many levels, whatever the scale of their block.
    fn same_codes(&self, levels: f32) -> usize {
        let codes = |numbers: &RawTensor| -> Vec<i32> {
            let code = |block: &[f32]| {
                let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let inverse = if largest > 0.0 { levels / largest } else { 0.0 };
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
    let sample_bytes = count * dtype.size_bytes();
    let mut bytes = Vec::with_capacity(sample_bytes);
    let streamed = source.stream(id, &mut |piece| {
        bytes.extend_from_slice(&piece[..piece.len().min(sample_bytes - bytes.len())]);
        // An error ends the stream early.
        let enough = || FileError::new("", FileFault::Io(io::ErrorKind::Interrupted.into())).into();
        if bytes.len() < sample_bytes { Ok(()) } else { Err(enough()) }
    });
    match streamed {
        Err(error) if bytes.len() < sample_bytes => Err(error),
        _ => Ok(RawTensor::new(dtype, vec![count], bytes)),
    }
}
