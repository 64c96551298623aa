//! Parameters, operations and bytes of each module of a decoder, counted from its config alone.

use super::flops::{LayerSizes, ParameterCount, product, window};
use super::memory::expected_experts_hit;
use super::throughput::InferenceTest;
use crate::config::DecoderConfig;

/// Size of a cached key or value.
const CACHED_BYTES: f64 = 4.0;

/// The cost of a module in all layers together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModuleCost {
    /// Its path in the decoder, as spans nest: `layer.self_attn.qkv_proj`.
    pub path: &'static str,
    /// Its parameters.
    pub parameters: ParameterCount,
    /// Floating-point operations of its matrix products; a multiplication and an addition are two.
    pub flops: u128,
    /// Bytes of weights, keys and values that it reads. Activations are not counted.
    pub bytes: f64,
}

/// The cost of each module in a test, with weights of `bytes_per_weight` each, in the order in which they compute.
///
/// A pass reads each of its weights once, but of the experts only those that its tokens are expected to visit
/// ([`expected_experts_hit`]), and of the embeddings a row per token. Attention reads the keys and values of each sequence once
/// in a pass. Sums over modules are [`InferenceTest::flops`] and
/// [`count_parameters`](super::flops::count_parameters); a head that is tied to the embeddings has no parameters of its own.
///
/// # Panics
/// If a count reaches `2^128`.
pub fn module_costs(config: &DecoderConfig, test: InferenceTest, bytes_per_weight: f64) -> Vec<ModuleCost> {
    let mut costs: Vec<ModuleCost> = Vec::new();
    for pass in Pass::all(test) {
        let modules = Modules { config, pass, bytes_per_weight }.costs();
        if costs.is_empty() {
            costs = modules;
        } else {
            for (sum, module) in costs.iter_mut().zip(modules) {
                sum.flops += module.flops;
                sum.bytes += module.bytes;
            }
        }
    }
    costs
}

/// One pass of a test.
#[derive(Debug, Clone, Copy)]
struct Pass {
    num_sequences: u64,
    past: u64,
    new: u64,
}

impl Pass {
    fn all(test: InferenceTest) -> impl Iterator<Item = Self> {
        let InferenceTest { n_prompt, n_gen, n_depth, batch_size } = test;
        let pass = move |past: usize, new: usize| Self {
            num_sequences: batch_size as u64,
            past: past as u64,
            new: new as u64,
        };
        let prompt = (n_prompt > 0).then(|| pass(n_depth, n_prompt));
        prompt.into_iter().chain((0..n_gen).map(move |step| pass(n_depth + n_prompt + step, 1)))
    }

    fn tokens(self) -> u64 {
        self.num_sequences * self.new
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(self, window: u64) -> u128 {
        let visible = |position: u64| u128::from((position + 1).min(window));
        product([self.num_sequences.into(), (self.past..self.past + self.new).map(visible).sum()])
    }

    /// Positions of the cache that some query sees.
    fn cached(self, window: u64) -> u64 {
        self.num_sequences * (self.past.min(window.saturating_sub(1)) + self.new)
    }
}

struct Modules<'a> {
    config: &'a DecoderConfig,
    pass: Pass,
    bytes_per_weight: f64,
}

impl Modules<'_> {
    fn costs(&self) -> Vec<ModuleCost> {
        let config = self.config;
        let [hidden, layers, heads, kv_heads, head_dim, inner] = [
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.intermediate_size,
        ]
        .map(|size| size as u64);
        let table = config.vocab_size as u64 * hidden;
        let (tokens, sizes) = (self.pass.tokens(), LayerSizes::of(config));
        let rows = ModuleCost {
            bytes: self.bytes_per_weight * (tokens * hidden) as f64,
            flops: 0,
            ..self.product("embedding", table, 0)
        };
        let head_own = if config.tie_word_embeddings { 0 } else { table };
        let lm_head = ModuleCost {
            parameters: ParameterCount { total: head_own, active: head_own },
            ..self.product("lm_head", table, self.pass.num_sequences)
        };
        let mut costs = vec![
            rows,
            self.gains("layer.self_attn.norm", layers * hidden),
            self.product("layer.self_attn.qkv_proj", layers * hidden * head_dim * (heads + 2 * kv_heads), tokens),
            self.attention(),
            self.product("layer.self_attn.o_proj", layers * hidden * head_dim * heads, tokens),
        ];
        match config.moe {
            None => costs.extend([
                self.gains("layer.mlp.norm", layers * hidden),
                self.product("layer.mlp.gate_up_proj", 2 * layers * hidden * inner, tokens),
                self.product("layer.mlp.down_proj", layers * hidden * inner, tokens),
            ]),
            Some(moe) => {
                let visited = expected_experts_hit(moe.num_local_experts, moe.num_experts_per_tok, tokens);
                let active = self.product("layer.moe.experts", layers * sizes.chosen * sizes.mlp, tokens);
                let total = layers * sizes.experts * sizes.mlp;
                costs.extend([
                    self.gains("layer.moe.norm", layers * hidden),
                    self.product("layer.moe.router", layers * sizes.router, tokens),
                    ModuleCost {
                        parameters: ParameterCount { total, ..active.parameters },
                        bytes: self.bytes_per_weight * (layers * sizes.mlp) as f64 * visited,
                        ..active
                    },
                ]);
            }
        }
        costs.extend([self.gains("norm", hidden), lm_head]);
        costs
    }

    /// Weights that each of `rows` is multiplied with.
    fn product(&self, path: &'static str, weights: u64, rows: u64) -> ModuleCost {
        ModuleCost {
            path,
            parameters: ParameterCount { total: weights, active: weights },
            flops: product([2, weights.into(), rows.into()]),
            bytes: self.bytes_per_weight * weights as f64,
        }
    }

    /// Gains of norms, in float32.
    fn gains(&self, path: &'static str, weights: u64) -> ModuleCost {
        ModuleCost { bytes: 4.0 * weights as f64, ..self.product(path, weights, 0) }
    }

    fn attention(&self) -> ModuleCost {
        let (config, window) = (self.config, window(self.config));
        let [layers, heads, kv_heads, head_dim] =
            [config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim]
                .map(|size| size as u128);
        let numbers = product([2, layers, kv_heads, head_dim, self.pass.cached(window).into()]);
        ModuleCost {
            path: "layer.self_attn.attention",
            parameters: ParameterCount { total: 0, active: 0 },
            flops: product([4, layers, heads, head_dim, self.pass.pairs(window)]),
            bytes: CACHED_BYTES * numbers as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::flops::count_parameters;
    use crate::profile::memory::decode_step_bytes;

    fn configs() -> Vec<DecoderConfig> {
        let mistral = DecoderConfig::mistral_7b();
        let windowed = mistral.with(|fields| fields.sliding_window = Some(100)).unwrap();
        vec![DecoderConfig::pico(), DecoderConfig::smollm2_135m(), mistral, windowed, DecoderConfig::mixtral_8x7b()]
    }

    #[test]
    fn modules_add_up_to_the_decoder() {
        for config in configs() {
            for (n_prompt, n_gen, n_depth, batch_size) in [(37, 0, 0, 1), (0, 5, 120, 3), (8, 4, 2, 2)] {
                let test = InferenceTest { n_prompt, n_gen, n_depth, batch_size };
                let costs = module_costs(&config, test, 2.0);
                assert_eq!(costs.iter().map(|module| module.flops).sum::<u128>(), test.flops(&config));
                let count = count_parameters(&config);
                assert_eq!(costs.iter().map(|module| module.parameters.total).sum::<u64>(), count.total);
                assert_eq!(costs.iter().map(|module| module.parameters.active).sum::<u64>(), count.active);
            }
        }
    }

    #[test]
    fn a_decoding_step_reads_the_bytes_of_the_roofline() {
        for config in configs() {
            let test = InferenceTest { n_prompt: 0, n_gen: 1, n_depth: 99, batch_size: 4 };
            let costs = module_costs(&config, test, 4.0);
            let matrices = costs.iter().filter(|module| module.flops > 0);
            let (found, expected) =
                (matrices.map(|module| module.bytes).sum::<f64>(), decode_step_bytes(&config, 4, 100, 4));
            assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        }
    }
}
