//! Blocks of 256 numbers: runs of them have scales of a few bits, which share one or two scales in half precision.

use half::f16;

use super::fit::{Fit, Search, affine, largest, nearest, symmetric};

/// Numbers of a block.
const BLOCK: usize = 256;

/// Runs of 16: codes of 2 bits, scale and minimum of 4 bits each. `None` if half precision cannot hold a scale, here and
/// below.
pub(super) fn q2_k(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let search = Search { most: 3, first: -0.5, steps: 15, absolute: true };
    let fits: [Fit; 16] = std::array::from_fn(|run| {
        let run = &values[16 * run..][..16];
        let weights: Vec<f32> = run.iter().map(|x| x.abs()).collect();
        affine(run, &weights, search)
    });
    let (scales, d) = shared(fits.map(|fit| fit.scale), 15.0)?;
    let (minima, m) = shared(fits.map(|fit| fit.minimum), 15.0)?;
    for run in 0..16 {
        bytes[run] = scales[run] | minima[run] << 4;
    }
    let codes = affine_codes(values, &scales, &minima, [d, m], 3.0);
    for (place, byte) in bytes[16..80].iter_mut().enumerate() {
        let first = place / 32 * 128 + place % 32;
        *byte = (0..4).fold(0, |byte, part| byte | codes[first + 32 * part] << (2 * part));
    }
    bytes[80..82].copy_from_slice(&d.to_le_bytes());
    bytes[82..84].copy_from_slice(&m.to_le_bytes());
    Some(())
}

/// Runs of 32: codes of 4 bits, scale and minimum of 6 bits each.
pub(super) fn q4_k(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let search = Search { most: 15, first: -1.0, steps: 20, absolute: false };
    let fits: [Fit; 8] = std::array::from_fn(|run| {
        let run = &values[32 * run..][..32];
        let mut sum = 0.0;
        run.iter().for_each(|x| sum += x * x);
        let size = (sum / 32.0f32).sqrt();
        let weights: Vec<f32> = run.iter().map(|x| size + x.abs()).collect();
        affine(run, &weights, search)
    });
    let (scales, d) = shared(fits.map(|fit| fit.scale), 63.0)?;
    let (minima, m) = shared(fits.map(|fit| fit.minimum), 63.0)?;
    bytes[..2].copy_from_slice(&d.to_le_bytes());
    bytes[2..4].copy_from_slice(&m.to_le_bytes());
    // The upper two bits of the last four stand beside the first four.
    for run in 0..4 {
        bytes[4 + run] = scales[run] | scales[run + 4] >> 4 << 6;
        bytes[8 + run] = minima[run] | minima[run + 4] >> 4 << 6;
        bytes[12 + run] = scales[run + 4] & 15 | minima[run + 4] << 4;
    }
    let codes = affine_codes(values, &scales, &minima, [d, m], 15.0);
    for (place, byte) in bytes[16..].iter_mut().enumerate() {
        let first = place / 32 * 64 + place % 32;
        *byte = codes[first] | codes[first + 32] << 4;
    }
    Some(())
}

/// Runs of 16: codes of 6 bits with a sign, scales of 8 bits with a sign.
pub(super) fn q6_k(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let scales: [f32; 16] = std::array::from_fn(|run| symmetric(&values[16 * run..][..16], 32.0));
    if scales.iter().any(|scale| !scale.is_finite()) {
        return None;
    }
    let far = largest(&scales);
    if far.abs() < 1e-15 {
        bytes.fill(0);
        return Some(());
    }
    let inverse = -128.0 / far;
    let d = f16::from_f32(1.0 / inverse);
    let scales = scales.map(|scale| nearest(inverse * scale).min(127.0));
    let mut codes = [32u8; BLOCK];
    for (run, scale) in scales.iter().enumerate() {
        bytes[192 + run] = *scale as i8 as u8;
        let scale = d.to_f32() * scale;
        if scale != 0.0 {
            for (code, x) in codes[16 * run..][..16].iter_mut().zip(&values[16 * run..]) {
                *code = (nearest(x / scale).clamp(-32.0, 31.0) + 32.0) as u8;
            }
        }
    }
    for half in 0..2 {
        let codes = &codes[128 * half..][..128];
        for place in 0..32 {
            let part = |part: usize| codes[32 * part + place];
            bytes[64 * half + place] = part(0) & 15 | part(2) << 4;
            bytes[64 * half + 32 + place] = part(1) & 15 | part(3) << 4;
            bytes[128 + 32 * half + place] = (0..4).fold(0, |byte, index| byte | part(index) >> 4 << (2 * index));
        }
    }
    bytes[208..210].copy_from_slice(&d.to_le_bytes());
    d.is_finite().then_some(())
}

/// Numbers that are not negative as codes `0..=most` with one scale.
fn shared<const N: usize>(numbers: [f32; N], most: f32) -> Option<([u8; N], f16)> {
    // Squares of numbers beyond 1e19 are infinite.
    if numbers.iter().any(|number| !number.is_finite()) {
        return None;
    }
    let largest = numbers.iter().copied().fold(0.0, f32::max);
    if largest == 0.0 {
        return Some(([0; N], f16::ZERO));
    }
    let d = f16::from_f32(largest / most);
    let codes = numbers.map(|number| nearest(most / largest * number).clamp(0.0, most) as u8);
    d.is_finite().then_some((codes, d))
}

/// Codes under the scales and minima as they are stored.
fn affine_codes(values: &[f32], scales: &[u8], minima: &[u8], [d, m]: [f16; 2], most: f32) -> [u8; BLOCK] {
    let run_len = BLOCK / scales.len();
    let mut codes = [0; BLOCK];
    for (run, (scale, minimum)) in scales.iter().zip(minima).enumerate() {
        let (scale, minimum) = (d.to_f32() * f32::from(*scale), m.to_f32() * f32::from(*minimum));
        if scale != 0.0 {
            let run = run * run_len..(run + 1) * run_len;
            for (code, x) in codes[run.clone()].iter_mut().zip(&values[run]) {
                *code = nearest((x + minimum) / scale).clamp(0.0, most) as u8;
            }
        }
    }
    codes
}
