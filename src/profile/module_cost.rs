//! Parameters, operations and bytes of each module of a decoder, counted from its config alone.

use super::convention::FlopConvention;
use super::flops::{LayerSizes, ParameterCount, count_parameters, product, window};
use super::memory::{cached_number_bytes, expected_experts_hit};
use super::profile_test::{Pass, ProfileTest};
use crate::config::DecoderConfig;
use crate::weights::Dtype;

/// Size of a float32.
const FLOAT_BYTES: f64 = 4.0;

/// The cost of a module in all layers together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModuleCost {
    /// Its path in the decoder, as spans nest: `layer.self_attn.qkv_proj`.
    pub path: &'static str,
    /// Its parameters.
    pub parameters: ParameterCount,
    /// Floating-point operations of its matrix products in forward passes; a multiplication and an addition are two.
    pub flops: u128,
    /// Those of the gradients of its inputs and weights; 0 in inference.
    pub backward_flops: u128,
    /// Bytes of weights, keys and values that it reads in forward passes. Activations are not counted.
    pub bytes: f64,
    /// Those that its gradients read again; 0 in inference.
    pub backward_bytes: f64,
}

/// Bytes of each number that a decoder reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BytesPerNumber {
    /// Of each weight of a matrix, on average.
    pub matrix: f64,
    /// Of each weight of a router, which stays in floats where matrices are quantized.
    pub router: f64,
    /// Of each key and value.
    pub cached: f64,
}

impl BytesPerNumber {
    /// All matrices in a float format of this size.
    pub fn float(size_bytes: u64) -> Self {
        Self { matrix: size_bytes as f64, router: size_bytes as f64, cached: FLOAT_BYTES }
    }

    /// The same, of a model whose products have weights of this type, with keys and values as [in the cache](cached_number_bytes).
    #[must_use]
    pub fn with_products_in(self, weights: Dtype, keeps_bfloat16: bool) -> Self {
        Self { cached: cached_number_bytes(weights, keeps_bfloat16) as f64, ..self }
    }

    /// Matrices in blocks that, with routers and the gains of norms in float32, take `weight_bytes`, none of it shared.
    pub fn blocks(config: &DecoderConfig, weight_bytes: u64) -> Self {
        let (layers, hidden) = (config.num_hidden_layers as u64, config.hidden_size as u64);
        let routers = layers * LayerSizes::of(config).router;
        let floats = routers + (2 * layers + 1) * hidden;
        let matrices = count_parameters(config).total - floats;
        Self {
            matrix: (weight_bytes as f64 - FLOAT_BYTES * floats as f64) / matrices as f64,
            router: FLOAT_BYTES,
            cached: FLOAT_BYTES,
        }
    }
}

/// The cost of each module in a test, in the order in which they compute.
///
/// A pass reads each of its weights once, but of the experts only those that its tokens are expected to visit
/// ([`expected_experts_hit`]), and of the embeddings a row per token. Attention reads the keys and values of each sequence once
/// in a pass. A backward pass reads them once more, but for the embeddings. Under [`FlopConvention::Causal`], sums over modules are
/// [`InferenceTest::flops`](super::throughput::InferenceTest::flops) or [`train_flops`](super::flops::train_flops), and
/// [`count_parameters`]; a head that is tied to the embeddings has no parameters of its own.
///
/// # Panics
/// If a count reaches `2^128`.
pub fn module_costs(
    config: &DecoderConfig,
    test: ProfileTest,
    bytes_per_number: BytesPerNumber,
    convention: FlopConvention,
) -> Vec<ModuleCost> {
    let mut costs: Vec<ModuleCost> = Vec::new();
    for pass in test.passes() {
        let modules = Modules { config, pass, bytes_per_number, convention }.costs();
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

struct Modules<'a> {
    config: &'a DecoderConfig,
    pass: Pass,
    bytes_per_number: BytesPerNumber,
    convention: FlopConvention,
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
        let matrix = self.bytes_per_number.matrix;
        let rows =
            ModuleCost { bytes: matrix * (tokens * hidden) as f64, ..self.cost("embedding", own(table), 0, 0.0) };
        let head_own = own(if config.tie_word_embeddings { 0 } else { table });
        let logits = product([table.into(), self.pass.num_logits.into()]);
        let mut costs = vec![
            rows,
            self.gains("layer.self_attn.norm", layers * hidden),
            self.product("layer.self_attn.qkv_proj", layers * hidden * head_dim * (heads + 2 * kv_heads)),
            self.attention(),
            self.product("layer.self_attn.o_proj", layers * hidden * head_dim * heads),
        ];
        match config.moe {
            None => costs.extend([
                self.gains("layer.mlp.norm", layers * hidden),
                self.product("layer.mlp.gate_up_proj", 2 * layers * hidden * inner),
                self.product("layer.mlp.down_proj", layers * hidden * inner),
            ]),
            Some(moe) => {
                let visited = expected_experts_hit(moe.num_local_experts, moe.num_experts_per_tok, tokens);
                let expert = layers * sizes.mlp;
                let count = ParameterCount { total: sizes.experts * expert, active: sizes.chosen * expert };
                let router = layers * sizes.router;
                let multiply_adds = |weights: u64| product([weights.into(), tokens.into()]);
                costs.extend([
                    self.gains("layer.moe.norm", layers * hidden),
                    self.cost(
                        "layer.moe.router",
                        own(router),
                        multiply_adds(router),
                        self.bytes_per_number.router * router as f64,
                    ),
                    self.cost(
                        "layer.moe.experts",
                        count,
                        multiply_adds(count.active),
                        matrix * expert as f64 * visited,
                    ),
                ]);
            }
        }
        costs.extend([self.gains("norm", hidden), self.cost("lm_head", head_own, logits, matrix * table as f64)]);
        costs
    }

    /// A module with these multiply-adds of its products, which reads these bytes.
    fn cost(&self, path: &'static str, parameters: ParameterCount, multiply_adds: u128, bytes: f64) -> ModuleCost {
        let flops = match self.convention.counts_parameters() {
            true => product([2, parameters.active.into(), self.pass.tokens().into()]),
            false => product([2, multiply_adds]),
        };
        let [backward_flops, backward_bytes] = if self.pass.has_backward { [2, 1] } else { [0, 0] };
        ModuleCost {
            path,
            parameters,
            flops,
            backward_flops: product([backward_flops, flops]),
            bytes,
            backward_bytes: backward_bytes as f64 * bytes,
        }
    }

    /// Weights that each token is multiplied with.
    fn product(&self, path: &'static str, weights: u64) -> ModuleCost {
        let multiply_adds = product([weights.into(), self.pass.tokens().into()]);
        self.cost(path, own(weights), multiply_adds, self.bytes_per_number.matrix * weights as f64)
    }

    /// Gains of norms, in float32.
    fn gains(&self, path: &'static str, weights: u64) -> ModuleCost {
        self.cost(path, own(weights), 0, FLOAT_BYTES * weights as f64)
    }

    fn attention(&self) -> ModuleCost {
        let (config, window) = (self.config, window(self.config));
        let [layers, heads, kv_heads, head_dim] =
            [config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim]
                .map(|size| size as u128);
        let numbers = product([2, layers, kv_heads, head_dim, self.pass.cached(window).into()]);
        let flops = product([4, layers, heads, head_dim, self.pass.pairs(window, self.convention)]);
        let backward_flops = if self.pass.has_backward { product([2, flops]) } else { 0 };
        let none = self.cost("layer.self_attn.attention", own(0), 0, self.bytes_per_number.cached * numbers as f64);
        ModuleCost { flops, backward_flops, ..none }
    }
}

/// Parameters that every token uses.
fn own(parameters: u64) -> ParameterCount {
    ParameterCount { total: parameters, active: parameters }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::convention::palm_flops_per_token;
    use crate::profile::flops::train_flops;
    use crate::profile::memory::decode_step_bytes;
    use crate::profile::throughput::InferenceTest;

    fn configs() -> Vec<DecoderConfig> {
        let mistral = DecoderConfig::mistral_7b();
        let windowed = mistral.with(|fields| fields.sliding_window = Some(100)).unwrap();
        vec![DecoderConfig::pico(), DecoderConfig::smollm2_135m(), mistral, windowed, DecoderConfig::mixtral_8x7b()]
    }

    fn sums(config: &DecoderConfig, test: ProfileTest, convention: FlopConvention) -> [u128; 2] {
        let costs = module_costs(config, test, BytesPerNumber::float(2), convention);
        [costs.iter().map(|module| module.flops).sum(), costs.iter().map(|module| module.backward_flops).sum()]
    }

    #[test]
    fn modules_add_up_to_the_decoder() {
        for config in configs() {
            for (n_prompt, n_gen, n_depth, batch_size) in [(37, 0, 0, 1), (0, 5, 120, 3), (8, 4, 2, 2)] {
                let test = InferenceTest { n_prompt, n_gen, n_depth, batch_size };
                assert_eq!(sums(&config, test.into(), FlopConvention::Causal), [test.flops(&config), 0]);
                let costs = module_costs(&config, test.into(), BytesPerNumber::float(2), FlopConvention::Causal);
                let count = count_parameters(&config);
                assert_eq!(costs.iter().map(|module| module.parameters.total).sum::<u64>(), count.total);
                assert_eq!(costs.iter().map(|module| module.parameters.active).sum::<u64>(), count.active);
            }
            let training = ProfileTest::Training { batch_size: 3, seq_length: 140 };
            let [forward, backward] = sums(&config, training, FlopConvention::Causal);
            assert_eq!((forward + backward, backward), (train_flops(&config, 3, 140), 2 * forward));
        }
    }

    #[test]
    fn conventions_of_parameters_are_their_formulas() {
        for config in configs() {
            let training = ProfileTest::Training { batch_size: 2, seq_length: 64 };
            let active = count_parameters(&config).active;
            let all = |convention| sums(&config, training, convention).iter().sum::<u128>();
            assert_eq!(all(FlopConvention::SixNd), 6 * u128::from(active) * 128);
            let [layers, heads, head_dim] =
                [config.num_hidden_layers, config.num_attention_heads, config.head_dim].map(|size| size as u64);
            assert_eq!(all(FlopConvention::Palm), 128 * palm_flops_per_token(active, layers, heads, head_dim, 64));
        }
    }

    #[test]
    fn the_square_of_scores_differs_from_the_causal_half_in_attention_alone() {
        let config = DecoderConfig::mistral_7b();
        let of = |convention| {
            let training = ProfileTest::Training { batch_size: 1, seq_length: 64 };
            module_costs(&config, training, BytesPerNumber::float(2), convention)
        };
        for (square, causal) in of(FlopConvention::Square).iter().zip(of(FlopConvention::Causal)) {
            match square.path {
                "layer.self_attn.attention" => assert_eq!(65 * square.flops, 2 * 64 * causal.flops),
                path => assert_eq!(square.flops, causal.flops, "{path}"),
            }
        }
    }

    #[test]
    fn a_decoding_step_reads_the_bytes_of_the_roofline() {
        for config in configs() {
            let test = InferenceTest { n_prompt: 0, n_gen: 1, n_depth: 99, batch_size: 4 };
            let costs = module_costs(&config, test.into(), BytesPerNumber::float(4), FlopConvention::Causal);
            let matrices = costs.iter().filter(|module| module.flops > 0);
            let (found, expected) =
                (matrices.map(|module| module.bytes).sum::<f64>(), decode_step_bytes(&config, 4, 100, 4));
            assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn keys_and_values_are_bfloat16_where_products_are() {
        let cached = |weights: Dtype, keeps| {
            BytesPerNumber::float(weights.size_bytes() as u64).with_products_in(weights, keeps).cached
        };
        assert_eq!([true, false].map(|keeps| cached(Dtype::Bfloat16, keeps)), [2.0, 4.0]);
        assert_eq!([Dtype::Float16, Dtype::Float32].map(|weights| cached(weights, true)), [4.0; 2]);
    }

    #[test]
    fn blocks_and_floats_add_up_to_the_weights() {
        for config in configs() {
            let bytes = BytesPerNumber::blocks(&config, 4 * count_parameters(&config).total);
            assert!((bytes.matrix - 4.0).abs() < 1e-9 && bytes.router == 4.0, "{bytes:?}");
        }
    }
}
