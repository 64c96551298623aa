//! The angles of rotary position embedding, with the scalings that checkpoints ask for.

use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{DecoderConfig, RopeScaling};
use crate::kernel::rope::rope;

/// Positions of the first table that is made, unless the config has fewer.
const FEWEST_POSITIONS: usize = 64;

/// Cosines and sines of `position · inverse_frequency` for every position that has been asked for: a config may allow more
/// positions than memory has room for, and nobody uses them.
#[derive(Module, Debug)]
pub struct RotaryEmbedding {
    #[module(skip)]
    angles: Angles,
}

/// The angles of a config, and what was made of them so far; clones share it.
#[derive(Clone, Debug)]
struct Angles {
    inverse_frequencies: Arc<[f64]>,
    max_position_embeddings: usize,
    /// One for each device, and on it for each way of keeping track of gradients.
    tables: Arc<Mutex<Vec<Table>>>,
}

/// `[positions, head_dim / 2]` each.
#[derive(Clone, Debug)]
struct Table {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl RotaryEmbedding {
    /// The angles of a config, and on `device` a table of the first positions.
    pub fn init(config: &DecoderConfig, device: &Device) -> Self {
        let angles = Angles {
            inverse_frequencies: inverse_frequencies(config).into(),
            max_position_embeddings: config.max_position_embeddings,
            tables: Arc::default(),
        };
        angles.table(1, device);
        Self { angles }
    }

    /// The turns of `len` positions from `start` on, which all layers of a pass share.
    ///
    /// # Panics
    /// If the last position is not below `max_position_embeddings`.
    pub fn rotation(&self, start: usize, len: usize, device: &Device) -> Rotation {
        let (end, max) = (start + len, self.angles.max_position_embeddings);
        assert!(end <= max, "position {} is not below max_position_embeddings {max}", end - 1);
        let Table { cos, sin } = self.angles.table(end, device);
        Rotation { cos: cos.narrow(0, start, len), sin: sin.narrow(0, start, len) }
    }
}

/// What rotary embedding does at some positions, one behind the other.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[seq_length, head_dim / 2]`.
    cos: Tensor<2>,
    /// The same shape.
    sin: Tensor<2>,
}

impl Rotation {
    /// Turns queries and keys, or either, each `[batch_size, seq_length, heads, head_dim]`.
    ///
    /// # Panics
    /// If they do not stand at as many positions.
    pub fn turn<const N: usize>(&self, x: [Tensor<4>; N]) -> [Tensor<4>; N] {
        x.map(|x| rope(x, self.cos.clone(), self.sin.clone()))
    }

    /// Cosines and sines, `[seq_length, head_dim / 2]` each.
    pub(super) fn tables(&self) -> [Tensor<2>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }
}

impl Angles {
    /// A table of at least `positions` positions.
    fn table(&self, positions: usize, device: &Device) -> Table {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tables.iter().position(|table| table.serves(device));
        if let Some(table) = place.map(|place| &tables[place])
            && table.cos.dims()[0] >= positions
        {
            return table.clone();
        }
        // Twice as many when there are too few, so that decoding makes few.
        let positions = positions.next_power_of_two().max(FEWEST_POSITIONS).min(self.max_position_embeddings);
        let table = Table::new(&self.inverse_frequencies, positions, device);
        match place {
            Some(place) => tables[place] = table.clone(),
            None => tables.push(table.clone()),
        }
        table
    }
}

impl Table {
    /// Angles are computed in float64, and their cosines and sines rounded once.
    fn new(inverse_frequencies: &[f64], positions: usize, device: &Device) -> Self {
        let of = |f: fn(f64) -> f64| {
            let angle = |position: usize, frequency: &f64| f(position as f64 * frequency) as f32;
            let row = |position| inverse_frequencies.iter().map(move |frequency| angle(position, frequency));
            let data = TensorData::new((0..positions).flat_map(row).collect(), [positions, inverse_frequencies.len()]);
            Tensor::from_data(data, device)
        };
        Self { cos: of(f64::cos), sin: of(f64::sin) }
    }

    /// Whether it can meet tensors of this device.
    fn serves(&self, device: &Device) -> bool {
        let own = self.cos.device();
        own == *device && own.gradient_checkpointing_strategy() == device.gradient_checkpointing_strategy()
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

    fn turned(rotary: &RotaryEmbedding, positions: std::ops::Range<usize>) -> Vec<f32> {
        let len = positions.len();
        let x = Tensor::<1, burn::tensor::Int>::arange(0..(len * 24) as i64, &Device::default()).float();
        let x = x.sin().reshape([1, len, 1, 24]);
        let rotation = rotary.rotation(positions.start, len, &Device::default());
        rotation.turn([x])[0].to_data().iter().collect()
    }

    #[test]
    fn tables_reach_as_far_as_positions_are_used_and_no_further() {
        let config = DecoderConfig::pico().with(|f| f.max_position_embeddings = 1 << 31).unwrap();
        let rotary = RotaryEmbedding::init(&config, &Device::default());
        let rows = || rotary.angles.tables.lock().unwrap().iter().map(|table| table.cos.dims()[0]).collect::<Vec<_>>();
        assert_eq!(rows(), [64]);
        for (end, expected) in [(1, 64), (64, 64), (65, 128), (3, 128), (1000, 1024)] {
            turned(&rotary, end - 1..end);
            assert_eq!(rows(), [expected], "after position {end}");
        }
        let few = RotaryEmbedding::init(&config.with(|f| f.max_position_embeddings = 70).unwrap(), &Device::default());
        turned(&few, 60..70);
        assert_eq!(few.angles.tables.lock().unwrap()[0].cos.dims(), [70, 12]);
    }

    #[test]
    fn a_table_that_grew_has_the_bits_of_one_made_at_once() {
        let config = DecoderConfig::pico();
        let (grown, at_once) =
            (RotaryEmbedding::init(&config, &Device::default()), RotaryEmbedding::init(&config, &Device::default()));
        turned(&at_once, 0..512);
        for positions in [0..3, 60..70, 500..512, 100..130] {
            assert_eq!(turned(&grown, positions.clone()), turned(&at_once, positions.clone()), "{positions:?}");
            assert_ne!(turned(&grown, 1..11), turned(&at_once, 0..10), "each position has its own angle");
        }
        let table = grown.angles.table(512, &Device::default());
        let frequencies = inverse_frequencies(&config);
        let expected = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..512 * 12).map(|i| f((i / 12) as f64 * frequencies[i % 12]) as f32).collect()
        };
        assert_eq!(table.cos.into_data().iter::<f32>().collect::<Vec<_>>(), expected(f64::cos));
        assert_eq!(table.sin.into_data().iter::<f32>().collect::<Vec<_>>(), expected(f64::sin));
    }

    #[test]
    fn a_device_that_keeps_track_of_gradients_has_a_table_of_its_own() {
        let rotary = RotaryEmbedding::init(&DecoderConfig::pico(), &Device::default());
        let inference = Device::default();
        let training = Device::default().autodiff();
        for device in [&inference, &training, &inference, &training] {
            assert_eq!(rotary.angles.table(8, device).cos.device().is_autodiff(), device.is_autodiff());
        }
        assert_eq!(rotary.angles.tables.lock().unwrap().len(), 2);
    }

    #[test]
    #[should_panic(expected = "position 512 is not below max_position_embeddings 512")]
    fn a_position_beyond_the_config_is_refused() {
        turned(&RotaryEmbedding::init(&DecoderConfig::pico(), &Device::default()), 510..513);
    }
}
