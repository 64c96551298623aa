//! The angles of rotary position embedding, with the scalings that checkpoints ask for.

use std::f64::consts::TAU;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{DecoderConfig, RopeScaling};
use crate::kernel::rope::rope;

/// Cosines and sines of `position · inverse_frequency` for every position that the model was made for.
#[derive(Module, Debug)]
pub struct RotaryEmbedding {
    /// `[max_position_embeddings, head_dim / 2]`.
    cos: Tensor<2>,
    /// `[max_position_embeddings, head_dim / 2]`.
    sin: Tensor<2>,
}

impl RotaryEmbedding {
    /// The table of a config; angles are computed in float64 and rounded once.
    pub fn init(config: &DecoderConfig, device: &Device) -> Self {
        let frequencies = inverse_frequencies(config);
        let table = |f: fn(f64) -> f64| {
            let angles = (0..config.max_position_embeddings)
                .flat_map(|position| frequencies.iter().map(move |frequency| f(position as f64 * frequency) as f32));
            let shape = [config.max_position_embeddings, frequencies.len()];
            Tensor::from_data(TensorData::new(angles.collect(), shape), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Turns queries or keys that stand at `start, start + 1, …`: `[batch_size, seq_length, num_heads, head_dim]`.
    ///
    /// # Panics
    /// If the last position is not below `max_position_embeddings`.
    pub fn forward(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        let [max, _] = self.cos.dims();
        let end = start + x.dims()[1];
        assert!(end <= max, "position {} is not below max_position_embeddings {max}", end - 1);
        let rows = |table: &Tensor<2>| table.clone().narrow(0, start, end - start);
        rope(x, rows(&self.cos), rows(&self.sin))
    }
}

/// `rope_theta^(−2i/head_dim)` for `i < head_dim/2`, scaled as the config says (Su et al., 2021, arXiv:2104.09864,
/// §3.2.2; scaling `linear`: Chen et al., 2023, arXiv:2306.15595, §2.3; `llama3`: Llama Team, 2024, arXiv:2407.21783).
pub fn inverse_frequencies(config: &DecoderConfig) -> Vec<f64> {
    let pairs = config.head_dim / 2;
    let plain = (0..pairs).map(|i| config.rope_theta.powf(-2.0 * i as f64 / config.head_dim as f64));
    match config.rope_scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let turns = original * frequency / TAU;
                    let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    frequency * (keep + (1.0 - keep) / factor)
                })
                .collect()
        }
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
