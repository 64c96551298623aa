//! Fixtures: decoders of a few thousand weights, drawn at random but from a seed, and texts for them.

use burn::tensor::Device;
use deepwide::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig, RopeScaling};
use deepwide::weights::{Dtype, MemoryWeights, RawTensor, WeightSource};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal, Uniform};

/// The device of every test that crosses modules.
pub fn device() -> Device {
    Device::flex()
}

/// A property over `cases` random cases. A failure prints its smallest case and leaves no file behind.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_231_223),
        ..ProptestConfig::default()
    }
}

/// Random `f32` weights: matrices from `N(0, 1/in)`, so that attention scores, router scores and logits are of the
/// order of 1; gains from `U[0.5, 1.5]`, so that a forgotten gain shows.
pub fn random_weights(config: &DecoderConfig, seed: u64) -> MemoryWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    MemoryWeights::new(config.clone(), |id| {
        let shape = id.shape(config);
        let count = shape.iter().product();
        let values: Vec<f32> = match shape[..] {
            [_, inputs] => {
                let normal = Normal::new(0.0, (inputs as f32).sqrt().recip()).expect("a positive deviation");
                normal.sample_iter(&mut rng).take(count).collect()
            }
            _ => Uniform::new(0.5, 1.5).expect("an interval").sample_iter(&mut rng).take(count).collect(),
        };
        RawTensor::from_f32(Dtype::Float32, shape, &values)
    })
}

/// Small decoders of every kind that a config can describe.
pub fn decoders() -> impl Strategy<Value = DecoderConfig> {
    prop_oneof![dense_decoders(), sparse_decoders()]
}

/// Small decoders without experts: Llama's, and Mistral's with and without a window.
pub fn dense_decoders() -> impl Strategy<Value = DecoderConfig> {
    let families = prop_oneof![
        Just((ModelType::Llama, None)),
        prop::option::of(1usize..=6).prop_map(|window| (ModelType::Mistral, window)),
    ];
    (shapes(), families).prop_map(|(shape, (model_type, sliding_window))| {
        shape
            .with(|f| {
                f.model_type = model_type;
                f.sliding_window = sliding_window;
            })
            .expect("a dense shape")
    })
}

/// Small decoders with 1 to 6 experts, of which a token visits one to all.
pub fn sparse_decoders() -> impl Strategy<Value = DecoderConfig> {
    let experts = (1usize..=6).prop_flat_map(|experts| (Just(experts), 1..=experts));
    (shapes(), experts, prop::option::of(1usize..=6)).prop_map(|(shape, (experts, chosen), sliding_window)| {
        let moe = MoeConfig { num_local_experts: experts, num_experts_per_tok: chosen, router_aux_loss_coef: 0.02 };
        shape
            .with(|f| {
                f.model_type = ModelType::Mixtral;
                f.moe = Some(moe);
                f.sliding_window = sliding_window;
            })
            .expect("a sparse shape")
    })
}

/// Token ids of a vocabulary, longer than any window of [`decoders`].
pub fn texts(vocab_size: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..vocab_size as u32, 7..=20)
}

/// A decoder of [`decoders`], a seed for its weights, and a text in its vocabulary.
pub fn decoder_seed_and_text() -> impl Strategy<Value = (DecoderConfig, u64, Vec<u32>)> {
    decoders().prop_flat_map(|config| {
        let vocab_size = config.vocab_size;
        (Just(config), any::<u64>(), texts(vocab_size))
    })
}

/// Llamas whose heads do not just cut up the residual stream: `head_dim · num_attention_heads != hidden_size`.
fn shapes() -> impl Strategy<Value = DecoderConfig> {
    let sizes = (11usize..=67, 8usize..=40, 5usize..=48, 1usize..=3);
    let heads = (1usize..=3, 1usize..=3, (1usize..=6).prop_map(|pairs| 2 * pairs));
    let rope = (prop_oneof![Just(100.0), Just(10_000.0), Just(500_000.0)], rope_scalings());
    let rest = (prop_oneof![Just(1e-6), Just(1e-5), Just(1e-2)], any::<bool>());
    (sizes, heads, rope, rest)
        .prop_filter("heads cut up the residual stream", |((_, hidden_size, ..), (kv, groups, head_dim), ..)| {
            kv * groups * head_dim != *hidden_size
        })
        .prop_map(|(sizes, (kv, groups, head_dim), (rope_theta, rope_scaling), (rms_norm_eps, tied))| {
            let (vocab_size, hidden_size, intermediate_size, num_hidden_layers) = sizes;
            DecoderConfig::new(DecoderFields {
                model_type: ModelType::Llama,
                vocab_size,
                hidden_size,
                intermediate_size,
                num_hidden_layers,
                num_attention_heads: kv * groups,
                num_key_value_heads: kv,
                head_dim,
                max_position_embeddings: 64,
                rms_norm_eps,
                rope_theta,
                rope_scaling,
                sliding_window: None,
                tie_word_embeddings: tied,
                moe: None,
                unmodelled: serde_json::Map::new(),
            })
            .expect("a small Llama")
        })
}

fn rope_scalings() -> impl Strategy<Value = RopeScaling> {
    prop_oneof![
        Just(RopeScaling::Default),
        (1.5f64..8.0).prop_map(|factor| RopeScaling::Linear { factor }),
        (2.0f64..32.0, 8usize..=128).prop_map(|(factor, original)| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        }),
    ]
}

#[test]
fn the_same_seed_draws_the_same_weights_and_another_seed_others() {
    let config = DecoderConfig::pico();
    let drawn = |seed| {
        let weights = random_weights(&config, seed);
        weights.read(deepwide::weights::TensorId::EmbedTokens).expect("weights in memory")
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
}
