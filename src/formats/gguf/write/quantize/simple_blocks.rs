//! Blocks of 32 numbers with one scale `d` in half precision: `value = d·(code − offset)`.

use half::f16;

use super::fit::largest;

/// `d = max |x| / 127`, each `x / d` rounded to nearest, ties away from zero. `None` if half precision cannot hold `d`, here
/// and below.
pub(super) fn q8_0(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let inverse = store_scale(largest(values).abs() / 127.0, bytes)?;
    for (byte, value) in bytes[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    Some(())
}

/// Codes of 4 bits: the number of the largest magnitude maps to −8.
pub(super) fn q4_0(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let inverse = store_scale(largest(values) / -8.0, bytes)?;
    let code = |value: f32| ((value * inverse + 8.5) as i8).clamp(0, 15) as u8;
    for (byte, (low, high)) in bytes[2..].iter_mut().zip(values[..16].iter().zip(&values[16..])) {
        *byte = code(*low) | code(*high) << 4;
    }
    Some(())
}

/// Codes of 5 bits, whose highest bits lie apart: the number of the largest magnitude maps to −16.
pub(super) fn q5_0(values: &[f32], bytes: &mut [u8]) -> Option<()> {
    let inverse = store_scale(largest(values) / -16.0, bytes)?;
    let code = |value: f32| ((value * inverse + 16.5) as i8).clamp(0, 31) as u8;
    let mut fifth_bits = 0;
    for (place, (low, high)) in values[..16].iter().zip(&values[16..]).enumerate() {
        let (low, high) = (code(*low), code(*high));
        bytes[6 + place] = low & 15 | high << 4;
        fifth_bits |= u32::from(low >> 4) << place | u32::from(high >> 4) << (place + 16);
    }
    bytes[2..6].copy_from_slice(&fifth_bits.to_le_bytes());
    Some(())
}

/// Stores the scale, and returns its inverse.
fn store_scale(scale: f32, bytes: &mut [u8]) -> Option<f32> {
    let stored = f16::from_f32(scale);
    bytes[..2].copy_from_slice(&stored.to_le_bytes());
    // Of the smallest numbers the inverse is infinite; their scale is stored as 0, whatever stands beside it.
    let inverse = if scale == 0.0 || (1.0 / scale).is_infinite() { 0.0 } else { 1.0 / scale };
    stored.is_finite().then_some(inverse)
}
