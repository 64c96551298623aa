//! The rotation of queries and keys.

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{DecoderConfig, attention_factor, inverse_frequencies};
use crate::kernel::rope::rope;

/// The rotation of queries and keys at the positions of a pass.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[batch_size or 1, seq_length, head_dim / 2]`.
    pub cos: Tensor<3>,
    /// The same shape.
    pub sin: Tensor<3>,
}

impl Rotation {
    /// The rotation at the positions of each sequence, or at those of all sequences if there is one list of them. Angles are
    /// `position · inverse frequency` in float64; their cosines and sines are rounded to float32 once.
    ///
    /// # Panics
    /// If a position is not below `max_position_embeddings`, or the lists differ in length.
    pub fn new(config: &DecoderConfig, positions: &[Vec<usize>], device: &Device) -> Self {
        let shape = [positions.len(), positions.first().map_or(0, Vec::len), config.head_dim / 2];
        let all: Vec<usize> = positions.iter().flatten().copied().collect();
        let [cos, sin] =
            Self::tables(config, &all).map(|table| Tensor::from_data(TensorData::new(table, shape), device));
        Self { cos, sin }
    }

    /// Cosines and sines of each position, one after another.
    ///
    /// # Panics
    /// If a position is not below `max_position_embeddings`.
    pub(super) fn tables(config: &DecoderConfig, positions: &[usize]) -> [Vec<f32>; 2] {
        let max = config.max_position_embeddings;
        if let Some(position) = positions.iter().find(|position| **position >= max) {
            panic!("position {position} is not below max_position_embeddings {max}");
        }
        let (frequencies, factor) = (inverse_frequencies(config), attention_factor(config));
        let functions: [fn(f64) -> f64; 2] = [f64::cos, f64::sin];
        functions.map(|f| {
            let row = |position: usize| {
                frequencies.iter().map(move |frequency| (factor * f(position as f64 * frequency)) as f32)
            };
            rows(positions, row)
        })
    }

    /// Rotates queries or keys, `[batch_size, seq_length, num_heads, head_dim]`.
    ///
    /// # Panics
    /// If they are at another number of positions.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        rope(x, self.cos.clone(), self.sin.clone())
    }
}

/// The rows of all positions, one after another. If they repeat, each position in their range is computed once.
fn rows<I: Iterator<Item = f32>>(positions: &[usize], row: impl Fn(usize) -> I) -> Vec<f32> {
    let (Some(&first), Some(&last)) = (positions.iter().min(), positions.iter().max()) else { return Vec::new() };
    if last - first + 1 >= positions.len() {
        return positions.iter().flat_map(|position| row(*position)).collect();
    }
    let range: Vec<f32> = (first..=last).flat_map(&row).collect();
    let width = range.len() / (last - first + 1);
    positions.iter().flat_map(|position| &range[(position - first) * width..][..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    #[test]
    fn angles_are_computed_in_float64_and_rounded_once() {
        let config = DecoderConfig::pico();
        let frequencies = inverse_frequencies(&config);
        // Few in a wide range, and such that repeat.
        for positions in [[vec![3, 4, 511], vec![0, 0, 77]], [vec![9, 7, 8], vec![8, 9, 7]]] {
            let Rotation { cos, sin } = Rotation::new(&config, &positions, &Device::default());
            assert_eq!(cos.dims(), [2, 3, 12]);
            let expected = |f: fn(f64) -> f64| -> Vec<f32> {
                let angles = positions.iter().flatten().flat_map(|&t| frequencies.iter().map(move |w| t as f64 * w));
                angles.map(|angle| f(angle) as f32).collect()
            };
            assert_eq!(cos.into_data().iter::<f32>().collect::<Vec<_>>(), expected(f64::cos));
            assert_eq!(sin.into_data().iter::<f32>().collect::<Vec<_>>(), expected(f64::sin));
        }
    }

    #[test]
    #[should_panic(expected = "position 512 is not below max_position_embeddings 512")]
    fn a_position_beyond_the_config_is_refused() {
        Rotation::new(&DecoderConfig::pico(), &[vec![510, 511, 512]], &Device::default());
    }

    #[test]
    fn the_attention_factor_of_yarn_multiplies_queries_and_keys() {
        let scaling = RopeScaling::Yarn {
            factor: 16.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.277_258_9,
            truncate: true,
        };
        let config = DecoderConfig::pico().with(|f| f.rope_scaling = scaling).unwrap();
        let first = Rotation::new(&config, &[vec![0]], &Device::default()).cos.to_data();
        assert!(first.iter::<f32>().all(|cos| cos == 1.277_258_9));
    }
}
