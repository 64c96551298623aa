//! Values and blocks for tests.

use half::f16;

use super::BlockFormat;

fn noise(salt: u64) -> impl FnMut() -> u32 {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    }
}

/// Values in `[−1, 1]`; each block of 32 has a magnitude of its own, and one is all zero.
pub fn numbers(len: usize, salt: u64) -> Vec<f32> {
    let mut next = noise(salt);
    let size = |i: usize| if i / 32 == 3 { 0.0 } else { 0.1 + (i / 32 % 7) as f32 / 10.0 };
    (0..len).map(|i| (next() as f32 / (1u32 << 30) as f32 - 1.0) * size(i)).collect()
}

/// Blocks of random codes, with random scales of moderate magnitude.
pub fn blocks(format: BlockFormat, numbers: usize, salt: u64) -> Vec<u8> {
    let mut next = noise(salt);
    let count = numbers / format.block_len();
    let mut bytes: Vec<u8> = (0..count * format.block_bytes()).map(|_| next() as u8).collect();
    let halves: &[usize] = match format {
        BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q5_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
        BlockFormat::Q2_K => &[80, 82],
        BlockFormat::Q3_K => &[108],
        BlockFormat::Q6_K => &[208],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in halves {
            let scale = f16::from_f32(next() as f32 / (1u32 << 31) as f32 * 0.02 - 0.007);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}
