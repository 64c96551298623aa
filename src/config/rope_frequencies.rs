//! The frequencies of rotary position embedding.

use std::f64::consts::TAU;

use super::{DecoderConfig, RopeScaling};

/// `rope_theta^(−2i/head_dim)` for `i < head_dim/2`, scaled as the config says (Su et al., 2021, arXiv:2104.09864,
/// §3.2.2; scaling `linear`: Chen et al., 2023, arXiv:2306.15595, §2.3; `llama3`: Llama Team, 2024, arXiv:2407.21783).
pub fn inverse_frequencies(config: &DecoderConfig) -> Vec<f64> {
    let pairs = config.head_dim / 2;
    let plain = (0..pairs).map(|i| config.rope_theta.powf(-2.0 * i as f64 / config.head_dim as f64));
    match config.rope_scaling {
        // Dynamic scaling only applies beyond `max_position_embeddings`.
        RopeScaling::Default | RopeScaling::Dynamic { .. } => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let rotations = original * frequency / TAU;
                    let keep = ((rotations - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    frequency * (keep + (1.0 - keep) / factor)
                })
                .collect()
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
            let original = original_max_position_embeddings as f64;
            // The pair that rotates this often in the original context.
            let pair = |rotations: f64| {
                config.head_dim as f64 * (original / (rotations * TAU)).ln() / (2.0 * config.rope_theta.ln())
            };
            let (low, high) = (pair(beta_fast), pair(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(config.head_dim as f64 - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let scaled = |(i, frequency): (usize, f64)| {
                let divided = ((i as f64 - low) / width).clamp(0.0, 1.0);
                frequency * (1.0 - divided + divided / factor)
            };
            plain.enumerate().map(scaled).collect()
        }
    }
}

/// The factor of rotated queries and keys: YaRN's `attention_factor`, else 1.
pub fn attention_factor(config: &DecoderConfig) -> f64 {
    match config.rope_scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = inverse_frequencies(&DecoderConfig::pico());
        let config = DecoderConfig::pico().with(|f| f.rope_scaling = RopeScaling::Linear { factor: 4.0 }).unwrap();
        assert!(inverse_frequencies(&config).iter().zip(&plain).all(|(scaled, plain)| scaled * 4.0 == *plain));
    }

    /// The values of transformers 5.23, in single precision.
    #[test]
    fn yarn_scales_as_in_transformers() {
        let scaling = |beta_fast, beta_slow, attention_factor, truncate| RopeScaling::Yarn {
            factor: 16.0,
            original_max_position_embeddings: 4096,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        };
        let cases = [
            (
                scaling(32.0, 1.0, 1.277_258_9, true),
                [0.039_163_4, 0.014_811_738, 0.005_312_5, 0.001_740_596_1, 0.000_471_282_55],
            ),
            (
                scaling(16.0, 2.0, 1.050_405, false),
                [0.046_415_884, 0.020_278_329, 0.005_952_023_4, 0.001_156_536_4, 0.000_134_652_15],
            ),
        ];
        for (scaling, ramp) in cases {
            let config = DecoderConfig::pico().with(|f| f.rope_scaling = scaling).unwrap();
            let kept = [1.0, 0.464_158_9, 0.215_443_45, 0.1];
            let divided = [6.25e-5, 2.900_993_4e-5, 1.346_521_4e-5];
            let expected = [&kept[..], &ramp, &divided].concat();
            for (found, expected) in inverse_frequencies(&config).iter().zip(&expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
            }
        }
    }

    #[test]
    fn dynamic_scaling_changes_nothing_within_the_context() {
        let config = DecoderConfig::pico().with(|f| f.rope_scaling = RopeScaling::Dynamic { factor: 2.0 }).unwrap();
        assert_eq!(inverse_frequencies(&config), inverse_frequencies(&DecoderConfig::pico()));
    }

    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let config = DecoderConfig::mistral_7b()
            .with(|f| {
                f.rope_theta = 500_000.0;
                f.rope_scaling = scaling;
            })
            .unwrap();
        let plain = inverse_frequencies(&config.with(|f| f.rope_scaling = RopeScaling::Default).unwrap());
        let scaled = inverse_frequencies(&config);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-12);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]), "the ramp keeps their order");
    }
}
