//! What llama.cpp divides each rotary frequency by, where Llama 3 stretches them.

use std::f32::consts::PI;

use crate::config::{DecoderConfig, RopeScaling};

/// One factor for each pair of coordinates of a head, in single precision step by step, as llama.cpp's converter computes
/// them: 1 for short waves, `factor` for long ones, a ramp of the inverse between.
///
/// # Panics
/// If the rotary frequencies are not scaled as in Llama 3.
pub(in crate::formats::gguf) fn rope_factors(config: &DecoderConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        config.rope_scaling
    else {
        panic!("{:?} has no factors", config.rope_scaling)
    };
    let context = original_max_position_embeddings as f64;
    let (longest_kept, shortest_divided) = ((context / high_freq_factor) as f32, (context / low_freq_factor) as f32);
    let of_pair = |pair: usize| {
        let exponent = (2 * pair) as f32 / config.head_dim as f32;
        let frequency = 1.0 / (config.rope_theta.powf(f64::from(exponent)) as f32);
        let wavelength = 2.0 * PI / frequency;
        if wavelength < longest_kept {
            1.0
        } else if wavelength > shortest_divided {
            factor as f32
        } else {
            let smooth =
                (context as f32 / wavelength - low_freq_factor as f32) / ((high_freq_factor - low_freq_factor) as f32);
            1.0 / ((1.0 - smooth) / factor as f32 + smooth)
        }
    };
    (0..config.head_dim / 2).map(of_pair).collect()
}
