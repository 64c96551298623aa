//! Numbers to blocks of integers: the algorithms, and up to the order of sums the bytes, of ggml's reference quantizers
//! (`quantize_row_*_ref` in `ggml-quants.c`).

mod fit;
mod k_blocks;
mod simple_blocks;

use rayon::prelude::*;

use crate::weights::{GgmlKind, GgmlType};

/// Appends whole blocks of `ty` to `bytes`.
///
/// # Errors
/// The first number that is not finite, or the largest number of a block whose scale half precision cannot hold.
///
/// # Panics
/// If `values` are no whole blocks, or numbers are not written as `ty`.
pub(super) fn quantize(ty: GgmlType, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
    assert!(values.len().is_multiple_of(ty.block_numbers), "{} numbers in blocks of {ty}", values.len());
    if let Some(found) = values.iter().find(|value| !value.is_finite()) {
        return Err(*found);
    }
    let block: fn(&[f32], &mut [u8]) -> Option<()> = match ty.kind {
        GgmlKind::Q8_0 => simple_blocks::q8_0,
        GgmlKind::Q4_0 => simple_blocks::q4_0,
        GgmlKind::Q5_0 => simple_blocks::q5_0,
        GgmlKind::Q2_K => k_blocks::q2_k,
        GgmlKind::Q4_K => k_blocks::q4_k,
        GgmlKind::Q6_K => k_blocks::q6_k,
        _ => panic!("numbers are not written as {ty}"),
    };
    let start = bytes.len();
    bytes.resize(start + values.len() / ty.block_numbers * ty.block_bytes, 0);
    let blocks = bytes[start..].par_chunks_exact_mut(ty.block_bytes).zip(values.par_chunks_exact(ty.block_numbers));
    // The first of them, so that the message does not depend on the threads.
    let refused = blocks.find_map_first(|(bytes, values)| match block(values, bytes) {
        Some(()) => None,
        None => Some(fit::largest(values)),
    });
    refused.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::formats::gguf::dequantize::dequantize;

    fn golden(file: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantize").join(file)).unwrap()
    }

    fn values(file: &str) -> Vec<f32> {
        golden(file).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn ty(name: &str) -> GgmlType {
        GgmlType::ALL.into_iter().find(|ty| ty.name == name).unwrap()
    }

    fn errors(ty: GgmlType, bytes: &[u8], values: &[f32]) -> Vec<f64> {
        let mut read = Vec::new();
        dequantize(ty, bytes, &mut read);
        let error = |(read, values): (&[f32], &[f32])| {
            read.iter().zip(values).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        read.chunks(ty.block_numbers).zip(values.chunks(ty.block_numbers)).map(error).collect()
    }

    /// `make_quantize_golden.py` made the files. Blocks in which sums were rounded otherwise may differ, and must be as good.
    #[test]
    fn blocks_are_those_of_ggml() {
        for (name, file, input) in [
            ("Q8_0", "q8_0.blocks", "values.f32"),
            ("Q4_0", "q4_0.blocks", "values.f32"),
            ("Q5_0", "q5_0.blocks", "values.f32"),
            ("Q2_K", "q2_k.blocks", "k_values.f32"),
            ("Q4_K", "q4_k.blocks", "k_values.f32"),
            ("Q6_K", "q6_k.blocks", "k_values.f32"),
        ] {
            let (ty, mut values, mut expected) = (ty(name), values(input), golden(file));
            // ggml writes an infinite scale where we refuse the block.
            let is_held = |block: &[f32]| quantize(ty, block, &mut Vec::new()).is_ok();
            let held: Vec<bool> = values.chunks(ty.block_numbers).map(is_held).collect();
            assert!(held.iter().filter(|held| !**held).count() <= 1, "{name}");
            values = values
                .chunks(ty.block_numbers)
                .zip(&held)
                .filter(|(_, held)| **held)
                .flat_map(|(x, _)| x.to_vec())
                .collect();
            expected = expected
                .chunks(ty.block_bytes)
                .zip(&held)
                .filter(|(_, held)| **held)
                .flat_map(|(x, _)| x.to_vec())
                .collect();
            let mut found = Vec::new();
            quantize(ty, &values, &mut found).unwrap();
            let blocks = found.chunks(ty.block_bytes).zip(expected.chunks(ty.block_bytes));
            let differing = blocks.filter(|(found, expected)| found != expected).count();
            let most = if name.ends_with("_K") { values.len() / ty.block_numbers / 10 } else { 0 };
            assert!(differing <= most, "{name}: {differing} blocks differ");
            for (found, expected) in errors(ty, &found, &values).iter().zip(errors(ty, &expected, &values)) {
                assert!(*found <= 1.05 * expected + 1e-12, "{name}: {found:e} instead of {expected:e}");
            }
        }
    }

    #[test]
    fn numbers_that_blocks_cannot_hold_are_named() {
        for name in ["Q8_0", "Q4_0", "Q5_0", "Q2_K", "Q4_K", "Q6_K"] {
            let ty = ty(name);
            let with = |value: f32| {
                let mut values = vec![0.5; 2 * ty.block_numbers];
                values[ty.block_numbers + 3] = value;
                quantize(ty, &values, &mut Vec::new())
            };
            assert!(with(f32::NAN).unwrap_err().is_nan(), "{name}");
            assert_eq!(with(f32::INFINITY), Err(f32::INFINITY), "{name}");
            assert_eq!(with(-1e30), Err(-1e30), "{name}");
            assert_eq!(with(1.0), Ok(()), "{name}");
        }
    }
}
