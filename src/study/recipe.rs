//! How bases are pretrained on the built-in language.

use crate::config::DecoderConfig;

/// The shape of a base, and its training by AdamW: a learning rate that is constant after warm-up.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainingRecipe {
    /// The shape.
    pub config: DecoderConfig,
    /// Tokens per window.
    pub seq_length: usize,
    /// Windows per update.
    pub batch_size: usize,
    /// Updates.
    pub num_steps: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Updates of warm-up.
    pub warmup_steps: usize,
}

impl PretrainingRecipe {
    /// The built-in base, of a million parameters: 1.6 million tokens.
    pub fn builtin() -> Self {
        let config = DecoderConfig::pico();
        Self { config, seq_length: 128, batch_size: 16, num_steps: 800, learning_rate: 3e-3, warmup_steps: 100 }
    }

    /// A base of 24 million parameters, for a GPU: 49 million tokens.
    pub fn large() -> Self {
        let config = DecoderConfig::pico().with(|fields| {
            (fields.hidden_size, fields.intermediate_size) = (512, 1408);
            (fields.num_attention_heads, fields.num_key_value_heads, fields.head_dim) = (8, 4, 64);
        });
        Self {
            config: config.expect("sizes that divide each other"),
            seq_length: 256,
            batch_size: 64,
            num_steps: 3000,
            learning_rate: 1e-3,
            warmup_steps: 200,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::flops::count_parameters;

    #[test]
    fn bases_have_the_parameters_and_tokens_that_they_are_said_to_have() {
        let found = [PretrainingRecipe::builtin(), PretrainingRecipe::large()].map(|recipe| {
            let num_tokens = recipe.num_steps * recipe.batch_size * recipe.seq_length;
            (count_parameters(&recipe.config).total, num_tokens)
        });
        assert_eq!(found.map(|(_, num_tokens)| num_tokens), [1_638_400, 49_152_000]);
        assert!((1_000_000..1_100_000).contains(&found[0].0), "{found:?}");
        assert!((23_500_000..24_500_000).contains(&found[1].0), "{found:?}");
    }
}
