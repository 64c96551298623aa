//! Blocks of quantized numbers to single precision, operation by operation as ggml's Python package does it, so that
//! both agree in every bit.
//!
//! In a block of the `K` types, 256 numbers share one or two half-precision scales, and runs of 16 or 32 among them have
//! small integer scales of their own. Low and high bits of the integers lie apart.

use half::{bf16, f16};

use crate::weights::{GgmlKind, GgmlType};

/// Appends the numbers of whole blocks to `values`.
///
/// # Panics
/// If `bytes` are no whole blocks of `ty`.
pub fn dequantize(ty: GgmlType, bytes: &[u8], values: &mut Vec<f32>) {
    assert!(bytes.len().is_multiple_of(ty.block_bytes), "{} bytes in blocks of {ty:?}", bytes.len());
    values.reserve(bytes.len() / ty.block_bytes * ty.block_numbers);
    let block: fn(&[u8], &mut Vec<f32>) = match ty.kind {
        GgmlKind::F32 => |b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        GgmlKind::F16 => |b, out| out.push(half(b)),
        GgmlKind::BF16 => |b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        // A scale is widened once a block and not once a number: that takes half the time.
        GgmlKind::Q4_0 => |b, out| {
            let d = half(b);
            out.extend(nibbles(&b[2..18]).map(|q| d * (f32::from(q) - 8.0)));
        },
        GgmlKind::Q4_1 => |b, out| {
            let (d, m) = (half(b), half(&b[2..]));
            out.extend(nibbles(&b[4..20]).map(|q| d * f32::from(q) + m));
        },
        GgmlKind::Q5_0 => |b, out| {
            let d = half(b);
            out.extend(five_bits(&b[6..22], &b[2..6]).map(|q| d * (f32::from(q) - 16.0)));
        },
        GgmlKind::Q5_1 => |b, out| {
            let (d, m) = (half(b), half(&b[2..]));
            out.extend(five_bits(&b[8..24], &b[4..8]).map(|q| d * f32::from(q) + m));
        },
        GgmlKind::Q8_0 => |b, out| {
            let d = half(b);
            out.extend(b[2..34].iter().map(|&q| f32::from(q as i8) * d));
        },
        GgmlKind::Q2_K => q2_k,
        GgmlKind::Q3_K => q3_k,
        GgmlKind::Q4_K => q4_k,
        GgmlKind::Q5_K => q5_k,
        GgmlKind::Q6_K => q6_k,
        GgmlKind::IQ4_NL => |b, out| {
            let d = half(b);
            out.extend(nibbles(&b[2..18]).map(|q| d * nonlinear(q)));
        },
        GgmlKind::IQ4_XS => iq4_xs,
    };
    bytes.chunks_exact(ty.block_bytes).for_each(|bytes| block(bytes, values));
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// The same with a fifth bit each from 32 bits.
fn five_bits(low: &[u8], high: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(low).zip(0..).map(move |(q, place)| q | ((high >> place & 1) as u8) << 4)
}

/// The sixteen levels of IQ4, denser about zero.
fn nonlinear(q: u8) -> f32 {
    const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    f32::from(LEVELS[usize::from(q)])
}

/// `d·s·q - dmin·m`; scales and minima are 4 bits each, a pair for every 16 numbers.
fn q2_k(block: &[u8], values: &mut Vec<f32>) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(&block[80..]), half(&block[82..]));
    for (run, scale) in scales.iter().enumerate() {
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        let bytes = &quants[run / 8 * 32 + run % 2 * 16..][..16];
        values.extend(bytes.iter().map(|byte| dl * f32::from(byte >> (run / 2 % 4 * 2) & 3) - ml));
    }
}

/// `d·(s - 32)·(q - 4)`; a scale of 6 bits for every 16 numbers, quants of 2 bits and 1.
fn q3_k(block: &[u8], values: &mut Vec<f32>) {
    let (high, low, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(&block[108..]));
    for run in 0..16 {
        let scale = (scales[run % 8] >> (run / 8 * 4) & 15) | (scales[8 + run % 4] >> (run / 4 * 2) & 3) << 4;
        let dl = d * (f32::from(scale) - 32.0);
        let first = run % 2 * 16;
        let (low, high) = (&low[run / 8 * 32 + first..][..16], &high[first..][..16]);
        values.extend(low.iter().zip(high).map(|(low, high)| {
            let q = (low >> (run / 2 % 4 * 2) & 3) | (high >> (run / 2) & 1) << 2;
            dl * (f32::from(q) - 4.0)
        }));
    }
}

/// Scale and minimum, 6 bits each, of the eight runs of 32 numbers in Q4_K and Q5_K.
fn scale_and_minimum(packed: &[u8], run: usize) -> (f32, f32) {
    let (scale, minimum) = match run {
        0..4 => (packed[run] & 63, packed[run + 4] & 63),
        _ => {
            let low = packed[run + 4];
            (low & 15 | packed[run - 4] >> 2 & 48, low >> 4 | packed[run] >> 2 & 48)
        }
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d·s·q - dmin·m`.
fn q4_k(block: &[u8], values: &mut Vec<f32>) {
    let (d, dmin) = (half(block), half(&block[2..]));
    for run in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], run);
        let (dl, ml) = (d * scale, dmin * minimum);
        let bytes = &block[16 + run / 2 * 32..][..32];
        values.extend(bytes.iter().map(|byte| dl * f32::from(byte >> (run % 2 * 4) & 15) - ml));
    }
}

/// `d·s·q - dmin·m`.
fn q5_k(block: &[u8], values: &mut Vec<f32>) {
    let (d, dmin, high) = (half(block), half(&block[2..]), &block[16..48]);
    for run in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], run);
        let (dl, ml) = (d * scale, dmin * minimum);
        let low = &block[48 + run / 2 * 32..][..32];
        values.extend(low.iter().zip(high).map(|(low, high)| {
            let q = low >> (run % 2 * 4) & 15 | (high >> run & 1) << 4;
            dl * f32::from(q) - ml
        }));
    }
}

/// `d·s·(q - 32)`; a scale of 8 bits for every 16 numbers, quants of 4 bits and 2.
fn q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (run, scale) in scales.iter().enumerate() {
        let dl = d * f32::from(*scale as i8);
        let low = &low[run / 8 * 64 + run % 4 * 16..][..16];
        let high = &high[run / 8 * 32 + run % 2 * 16..][..16];
        values.extend(low.iter().zip(high).map(|(low, high)| {
            let q = low >> (run / 4 % 2 * 4) & 15 | (high >> (run / 2 % 4 * 2) & 3) << 4;
            dl * (f32::from(q) - 32.0)
        }));
    }
}

/// `d·(s - 32)·level(q)`; a scale of 6 bits for every 32 numbers.
fn iq4_xs(block: &[u8], values: &mut Vec<f32>) {
    let (d, high) = (half(block), u16::from_le_bytes([block[2], block[3]]));
    for run in 0..8 {
        let low = block[4 + run / 2] >> (run % 2 * 4) & 15;
        let scale = low | ((high >> (2 * run) & 3) as u8) << 4;
        let dl = d * (f32::from(scale) - 32.0);
        values.extend(nibbles(&block[8 + run * 16..][..16]).map(|q| dl * nonlinear(q)));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::formats::safetensors::SafetensorsFile;

    #[test]
    fn every_quantized_type_agrees_with_ggml_s_python_package_in_every_bit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/blocks.safetensors");
        let golden = SafetensorsFile::open(&path).unwrap();
        let quantized: Vec<GgmlType> = GgmlType::ALL.into_iter().filter(|ty| ty.block_numbers > 1).collect();
        assert_eq!(quantized.len(), 12);
        for ty in quantized {
            let mut values = Vec::new();
            dequantize(ty, &golden.read(&format!("{ty}.blocks")).unwrap(), &mut values);
            let bytes = golden.read(&format!("{ty}.numbers")).unwrap();
            let expected = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
            assert_eq!(values.len() * 4, bytes.len(), "{ty}");
            let differing = values.iter().zip(expected).position(|(value, bits)| value.to_bits() != bits);
            assert_eq!(differing, None, "{ty}: the first place that differs");
        }
    }
}
