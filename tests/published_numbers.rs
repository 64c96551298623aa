//! What decoders cost: the numbers of papers to their last digit, and the laws by which those of any other follow.
//!
//! SOLAR is arXiv:2312.15166, Mixtral arXiv:2401.04088, Mistral arXiv:2310.06825. Counts at a context beyond 4096 are of
//! Mistral without its sliding window, as its comparison with SOLAR and Mixtral has it.

use deepwide::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig};
use deepwide::growth::{GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::profile::flops::{
    ParameterCount, count_parameters, forward_flops, forward_flops_breakdown, forward_flops_cached,
    forward_flops_per_token, matmul_parameters, train_flops,
};
use deepwide::profile::matching::{Context, iso_active_parameter_overlap, iso_flop_overlap, iso_memory_overlap};
use deepwide::profile::memory::{
    activation_bytes, decode_step_bytes, decode_weight_bytes, expected_experts_hit, kv_cache_bytes,
    kv_cache_bytes_per_token, train_state_bytes, weight_bytes,
};
use deepwide::weights::{LayerTensor, TensorId};
use proptest::prelude::*;

use crate::pico::{cases, decoders};

const BFLOAT16_BYTES: u64 = 2;

/// Eight experts, two per token.
const EIGHT_BY_TWO: MoeConfig = MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };

fn mistral() -> DecoderConfig {
    DecoderConfig::mistral_7b().with(|f| f.sliding_window = None).expect("full attention")
}

/// Depth up-scaling of `base` by this overlap.
fn deep(base: &DecoderConfig, overlap: usize) -> DecoderConfig {
    let plan = LayerPlan::depth_up_scaling(base.num_hidden_layers, overlap).expect("an overlap below the depth");
    GrowthPlan::Splice(plan).config(base).expect("a plan for this depth")
}

/// `base` with its MLPs upcycled to experts.
fn wide(base: &DecoderConfig, experts: usize, chosen: usize) -> DecoderConfig {
    GrowthPlan::Upcycle(UpcyclePlan::new(experts, chosen)).config(base).expect("a dense base")
}

/// Mistral, SOLAR, the deep partner of Mixtral (56 layers), Mixtral.
fn published() -> [DecoderConfig; 4] {
    [mistral(), deep(&mistral(), 8), deep(&mistral(), 4), wide(&mistral(), 8, 2)]
}

fn mean_forward_flops(config: &DecoderConfig, seq_length: u64) -> u128 {
    let sum = forward_flops(config, 1, seq_length);
    assert_eq!(sum % u128::from(seq_length), 0, "the mean is no integer");
    sum / u128::from(seq_length)
}

#[test]
fn growth_arrives_at_the_sizes_of_the_presets() {
    let [mistral, solar, _, mixtral] = published().map(|config| count_parameters(&config));
    assert_eq!(count_parameters(&DecoderConfig::mistral_7b()), mistral);
    assert_eq!(count_parameters(&DecoderConfig::solar_10_7b()), solar);
    assert_eq!(count_parameters(&DecoderConfig::mixtral_8x7b()), mixtral);
}

#[test]
fn parameters() {
    let expected = [
        (7_241_732_096, 7_241_732_096, 7_110_393_856),
        (10_731_524_096, 10_731_524_096, 10_600_054_784),
        (12_476_420_096, 12_476_420_096, 12_344_885_248),
        (46_702_792_704, 12_879_925_248, 12_748_587_008),
    ];
    for (config, (total, active, matmul)) in published().iter().zip(expected) {
        assert_eq!(count_parameters(config), ParameterCount { total, active });
        assert_eq!(matmul_parameters(config), matmul);
    }
    assert_eq!(count_parameters(&DecoderConfig::llama2_7b()).total, 6_738_415_616);
    assert_eq!(count_parameters(&DecoderConfig::smollm2_135m()).total, 134_515_008);
}

#[test]
fn forward_operations_of_a_token() {
    let expected = [
        [14_220_787_712, 16_368_271_360, 31_400_656_896],
        [21_200_109_568, 24_421_335_040, 46_969_913_344],
        [24_689_770_496, 28_447_866_880, 54_754_541_568],
        [25_497_174_016, 27_644_657_664, 42_677_043_200],
    ];
    for (config, expected) in published().iter().zip(expected) {
        assert_eq!([0, 4096, 32_768].map(|context| forward_flops_per_token(config, context)), expected);
    }
    let windowed = DecoderConfig::mistral_7b();
    assert_eq!([4096, 32_768].map(|context| forward_flops_per_token(&windowed, context)), [16_368_271_360; 2]);
}

#[test]
fn forward_operations_of_the_mean_token_of_4096() {
    let expected = [15_294_791_680, 22_811_115_520, 26_569_277_440, 26_571_177_984];
    assert_eq!(published().map(|config| mean_forward_flops(&config, 4096)), expected);
}

#[test]
fn forward_operations_of_4096_tokens_with_the_whole_square_of_scores() {
    let square = |config: &DecoderConfig| 4096 * forward_flops_per_token(config, 4096);
    let [mistral, solar, _, mixtral] = published().map(|config| square(&config));
    assert_eq!(square(&DecoderConfig::llama2_7b()), 62_921_270_886_400);
    assert_eq!([mistral, solar, mixtral], [67_044_439_490_560, 100_029_788_323_840, 113_232_517_791_744]);
}

#[test]
fn training_operations_of_a_token_in_gigaflops() {
    let [mistral, solar, _, mixtral] = published()
        .map(|config| train_flops(&config, 1, 4096) as f64 / 4096e9)
        .map(|gigaflops| format!("{gigaflops:.4}"));
    assert_eq!([mistral, solar, mixtral], ["45.8844", "68.4333", "79.7135"]);
}

#[test]
fn beyond_a_context_of_16_392_solar_costs_more_than_mixtral() {
    let (solar, mixtral) = (DecoderConfig::solar_10_7b(), DecoderConfig::mixtral_8x7b());
    let cost = |config, context| forward_flops_per_token(config, context);
    assert!(cost(&solar, 16_391) < cost(&mixtral, 16_391));
    assert_eq!(cost(&solar, 16_392), cost(&mixtral, 16_392));
    assert!(cost(&solar, 16_393) > cost(&mixtral, 16_393));
}

#[test]
fn bytes_of_weights_and_of_training() {
    let expected = [14_483_464_192, 21_463_048_192, 24_952_840_192, 93_405_585_408];
    assert_eq!(published().map(|config| weight_bytes(&config, BFLOAT16_BYTES)), expected);
    let gibibytes = published().map(|config| format!("{:.1}", train_state_bytes(&config) as f64 / 2f64.powi(30)));
    assert_eq!([&gibibytes[0], &gibibytes[1], &gibibytes[3]], ["107.9", "159.9", "695.9"]);
}

#[test]
fn bytes_of_the_cache() {
    let per_token = published().map(|config| kv_cache_bytes_per_token(&config, BFLOAT16_BYTES));
    assert_eq!(per_token, [131_072, 196_608, 229_376, 131_072]);
    let mebibytes = |config: &DecoderConfig, batch, seq_length| {
        kv_cache_bytes(config, batch, seq_length, BFLOAT16_BYTES) as f64 / 2f64.powi(20)
    };
    let [mistral, solar, _, mixtral] = published();
    assert_eq!([&mistral, &solar, &mixtral].map(|config| mebibytes(config, 1, 4096)), [512.0, 768.0, 512.0]);
    assert_eq!([&mistral, &solar, &mixtral].map(|config| mebibytes(config, 1, 32_768)), [4096.0, 6144.0, 4096.0]);
    assert_eq!(mebibytes(&DecoderConfig::mistral_7b(), 1, 32_768), 512.0);
    assert_eq!(mebibytes(&solar, 256, 4096), 192.0 * 1024.0);
}

#[test]
fn bytes_of_activations_of_4096_tokens() {
    let bytes = published().map(|config| activation_bytes(&config, 1, 4096, BFLOAT16_BYTES) as f64);
    let per_layer = [bytes[0] / 32.0, bytes[1] / 48.0, bytes[3] / 32.0].map(|b| format!("{:.1}", b / 2f64.powi(20)));
    assert_eq!(per_layer, ["656.5", "656.5", "1232.7"]);
    let whole = [bytes[0], bytes[1], bytes[3]].map(|b| format!("{:.2}", b / 2f64.powi(30)));
    assert_eq!(whole, ["20.52", "30.77", "38.52"]);
}

#[test]
fn experts_that_a_batch_visits() {
    let hit = [1, 2, 4, 8, 16, 32].map(|batch| format!("{:.4}", expected_experts_hit(8, 2, batch)));
    assert_eq!(hit, ["2.0000", "3.5000", "5.4688", "7.1991", "7.9198", "7.9992"]);
}

#[test]
fn weights_that_a_decoding_step_reads_in_gigabytes() {
    let gigabytes =
        |config: &DecoderConfig, batch| format!("{:.2}", decode_weight_bytes(config, batch, BFLOAT16_BYTES) / 1e9);
    let [mistral, solar, _, mixtral] = published();
    for batch in [1, 8, 256] {
        assert_eq!([gigabytes(&mistral, batch), gigabytes(&solar, batch)], ["14.22", "21.20"]);
    }
    let of_mixtral = [1, 2, 4, 8, 16, 32, 128, 256].map(|batch| gigabytes(&mixtral, batch));
    assert_eq!(of_mixtral, ["25.50", "42.41", "64.60", "84.11", "92.24", "93.13", "93.14", "93.14"]);
}

#[test]
fn operations_that_a_decoding_step_does_with_each_byte() {
    let expected = [
        (1, ["1.11", "1.11", "1.06"]),
        (2, ["2.14", "2.14", "1.27"]),
        (4, ["4.00", "4.00", "1.66"]),
        (8, ["7.07", "7.07", "2.50"]),
        (16, ["11.48", "11.46", "4.39"]),
        (32, ["16.68", "16.64", "8.02"]),
        (128, ["25.26", "25.15", "21.86"]),
        (256, ["27.63", "27.50", "30.69"]),
    ];
    let [mistral, solar, _, mixtral] = published();
    for (batch, expected) in expected {
        let found = [&mistral, &solar, &mixtral].map(|config| {
            let flops = u128::from(batch) * forward_flops_per_token(config, 4096);
            format!("{:.2}", flops as f64 / decode_step_bytes(config, batch, 4096, BFLOAT16_BYTES))
        });
        assert_eq!(found, expected, "batch {batch}");
    }
}

/// Nowhere does an H100 SXM (989.4 TFLOP/s in bfloat16, 3.35 TB/s) wait for its arithmetic, so the bound is the traffic.
#[test]
fn milliseconds_that_a_decoding_step_takes_at_least_on_an_h100() {
    let expected = [
        (1, ["4.41", "6.57", "7.77"]),
        (8, ["5.53", "8.25", "26.39"]),
        (32, ["9.37", "14.02", "32.93"]),
        (128, ["24.76", "37.10", "48.32"]),
        (256, ["45.27", "67.87", "68.83"]),
    ];
    let [mistral, solar, _, mixtral] = published();
    for (batch, expected) in expected {
        let found = [&mistral, &solar, &mixtral].map(|config| {
            let traffic_s = decode_step_bytes(config, batch, 4096, BFLOAT16_BYTES) / 3.35e12;
            let arithmetic_s = batch as f64 * forward_flops_per_token(config, 4096) as f64 / 989.4e12;
            assert!(arithmetic_s < traffic_s);
            format!("{:.2}", 1e3 * traffic_s)
        });
        assert_eq!(found, expected, "batch {batch}");
    }
}

#[test]
fn parameters_and_operations_of_every_overlap() {
    let expected = [
        (0, 64, 14_221_316_096, "1.9829"),
        (2, 60, 13_348_868_096, "1.8600"),
        (4, 56, 12_476_420_096, "1.7371"),
        (6, 52, 11_603_972_096, "1.6143"),
        (8, 48, 10_731_524_096, "1.4914"),
        (10, 44, 9_859_076_096, "1.3686"),
        (12, 40, 8_986_628_096, "1.2457"),
        (14, 36, 8_114_180_096, "1.1229"),
        (16, 32, 7_241_732_096, "1.0000"),
    ];
    for (overlap, num_hidden_layers, total, ratio) in expected {
        let config = deep(&mistral(), overlap);
        assert_eq!(config.num_hidden_layers, num_hidden_layers);
        assert_eq!(count_parameters(&config).total, total);
        let found = mean_forward_flops(&config, 4096) as f64 / mean_forward_flops(&mistral(), 4096) as f64;
        assert_eq!(format!("{found:.4}"), ratio, "overlap {overlap}");
    }
}

/// The closed form, `L·2[(k−1)·3hf + hE] / (2(P_attn + P_mlp) + 4·heads·head_dim·t)`, beside the solver.
#[test]
fn extra_layers_of_equal_operations() {
    let closed_form = |context: f64| {
        let (h, f) = (4096.0, 14_336.0);
        let (attention, mlp) = (2.0 * h * (32.0 + 8.0) * 128.0, 3.0 * h * f);
        32.0 * 2.0 * (mlp + h * 8.0) / (2.0 * (attention + mlp) + 4.0 * 32.0 * 128.0 * context)
    };
    let expected = [
        (Context::Fixed(0), 0.0, "25.8510"),
        (Context::CausalMean(2048), 1024.5, "24.8931"),
        (Context::CausalMean(4096), 2048.5, "24.0040"),
        (Context::CausalMean(8192), 4096.5, "22.4038"),
        (Context::CausalMean(32_768), 16_384.5, "16.0028"),
    ];
    for (context, mean, printed) in expected {
        let found = iso_flop_overlap(&mistral(), EIGHT_BY_TWO, context).expect("a dense base").exact_extra_layers;
        assert_eq!(format!("{found:.4}"), printed, "{context:?}");
        assert!((found / closed_form(mean) - 1.0).abs() < 1e-12, "{found} at {context:?}");
    }
}

#[test]
fn the_deep_partner_of_mixtral_has_56_layers_and_solar_is_below_it() {
    let context = Context::CausalMean(4096);
    let found = iso_flop_overlap(&mistral(), EIGHT_BY_TWO, context).expect("a dense base");
    assert_eq!((found.overlap, found.num_hidden_layers), (4, 56));
    assert_eq!(format!("{:.5}", found.ratio), "0.99993");
    let [_, solar, _, mixtral] = published().map(|config| mean_forward_flops(&config, 4096) as f64);
    assert_eq!(format!("{:.2}", solar / mixtral), "0.86");
}

#[test]
fn at_long_contexts_solar_is_the_partner_of_mixtral() {
    let context = Context::CausalMean(32_768);
    let found = iso_flop_overlap(&mistral(), EIGHT_BY_TWO, context).expect("a dense base");
    assert_eq!((found.overlap, found.num_hidden_layers), (8, 48));
}

/// The window bounds what a token attends to, so the partner no longer changes with the context.
#[test]
fn a_window_keeps_the_partner_at_any_context() {
    let windowed = DecoderConfig::mistral_7b();
    let at = |context| iso_flop_overlap(&windowed, EIGHT_BY_TWO, Context::Fixed(context)).expect("a dense base");
    assert_eq!(at(4096), at(32_768));
    let full = iso_flop_overlap(&mistral(), EIGHT_BY_TWO, Context::Fixed(32_768)).expect("a dense base");
    assert_ne!(at(32_768), full);
}

#[test]
fn partners_by_parameters() {
    let active = iso_active_parameter_overlap(&mistral(), EIGHT_BY_TWO).expect("a dense base");
    assert_eq!((active.overlap, active.num_hidden_layers), (3, 58));
    assert_eq!(format!("{:.4}", active.ratio), "1.0025");
    let memory = iso_memory_overlap(&mistral(), EIGHT_BY_TWO).expect("a dense base");
    assert_eq!((memory.overlap, format!("{:.4}", memory.ratio)), (0, "0.3045".into()));
    let two = MoeConfig { num_local_experts: 2, ..EIGHT_BY_TWO };
    let memory = iso_memory_overlap(&mistral(), two).expect("a dense base");
    assert_eq!((memory.overlap, memory.num_hidden_layers), (3, 58));
}

/// A decoder small enough to count by hand.
fn small() -> DecoderConfig {
    DecoderConfig::new(DecoderFields {
        model_type: ModelType::Llama,
        vocab_size: 512,
        hidden_size: 64,
        intermediate_size: 192,
        num_hidden_layers: 8,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        tie_word_embeddings: false,
        ..DecoderConfig::pico().into()
    })
    .expect("a small Llama")
}

#[test]
fn small_decoders_cost_what_is_counted_by_hand() {
    let expected = [
        (small(), 459_840, 459_840, 425_984, [851_968, 1_114_112, 984_064], 1024),
        (deep(&small(), 2), 656_960, 656_960, 622_592, [1_245_184, 1_638_400, 1_443_328], 1536),
        (deep(&small(), 0), 854_080, 854_080, 819_200, [1_638_400, 2_162_688, 1_902_592], 2048),
        (wide(&small(), 4, 2), 1_346_624, 756_800, 722_944, [1_445_888, 1_708_032, 1_577_984], 1024),
        (wide(&small(), 4, 1), 1_346_624, 461_888, 428_032, [856_064, 1_118_208, 988_160], 1024),
        (wide(&small(), 8, 2), 2_528_320, 758_848, 724_992, [1_449_984, 1_712_128, 1_582_080], 1024),
    ];
    for (config, total, active, matmul, [at_0, at_128, mean], cache) in expected {
        assert_eq!(count_parameters(&config), ParameterCount { total, active });
        assert_eq!(matmul_parameters(&config), matmul);
        assert_eq!([0, 128].map(|context| forward_flops_per_token(&config, context)), [at_0, at_128]);
        assert_eq!(mean_forward_flops(&config, 128), mean);
        assert_eq!(kv_cache_bytes_per_token(&config, BFLOAT16_BYTES), cache);
    }
}

#[test]
fn a_small_decoder_has_a_partner_with_a_gap() {
    for (experts, layers) in [(4, "5.173"), (8, "5.208")] {
        let moe = MoeConfig { num_local_experts: experts, ..EIGHT_BY_TWO };
        let found = iso_flop_overlap(&small(), moe, Context::CausalMean(128)).expect("a dense base");
        assert_eq!(format!("{:.3}", found.exact_extra_layers), layers);
        assert_eq!((found.overlap, found.num_hidden_layers), (1, 14));
    }
    let ratio =
        mean_forward_flops(&deep(&small(), 2), 128) as f64 / mean_forward_flops(&wide(&small(), 4, 2), 128) as f64;
    assert_eq!(format!("{ratio:.3}"), "0.915");
}

/// Numbers of the weights among `config`'s that `counted` picks.
fn numbers(config: &DecoderConfig, counted: impl Fn(TensorId) -> bool) -> u64 {
    let picked = TensorId::all(config).into_iter().filter(|id| counted(*id));
    picked.map(|id| id.shape(config).iter().map(|&size| size as u64).product::<u64>()).sum()
}

/// Whether a token that visits the first experts meets this weight.
fn is_met(config: &DecoderConfig, id: TensorId) -> bool {
    match id {
        TensorId::Layer(_, LayerTensor::Expert(expert, _)) => {
            config.moe.is_some_and(|moe| expert < moe.num_experts_per_tok)
        }
        _ => true,
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn parameters_are_the_numbers_in_the_list_of_weights(config in decoders()) {
        let total = numbers(&config, |_| true);
        let active = numbers(&config, |id| is_met(&config, id));
        prop_assert_eq!(count_parameters(&config), ParameterCount { total, active });
    }

    #[test]
    fn a_token_is_multiplied_with_the_matrices_it_meets_and_with_one_table(config in decoders()) {
        let matrices = numbers(&config, |id| is_met(&config, id) && id.shape(&config).len() == 2);
        let table = (config.vocab_size * config.hidden_size) as u64;
        let looked_up = if config.tie_word_embeddings { 0 } else { table };
        prop_assert_eq!(matmul_parameters(&config), matrices - looked_up);
    }

    #[test]
    fn the_parts_of_a_forward_pass_are_its_total(config in decoders(), batch in 0u64..5, seq_length in 0u64..40) {
        let parts = forward_flops_breakdown(&config, batch, seq_length);
        let products = parts.attention_projections + parts.mlp + parts.router + parts.lm_head;
        let tokens = u128::from(batch * seq_length);
        prop_assert_eq!(products, 2 * tokens * u128::from(matmul_parameters(&config)));
        prop_assert_eq!(products + parts.attention_scores, parts.total());
        prop_assert_eq!(parts.total(), forward_flops(&config, batch, seq_length));
        prop_assert_eq!(parts.router == 0, config.moe.is_none() || tokens == 0);
    }

    #[test]
    fn a_batch_costs_its_sequences(config in decoders(), batch in 0u64..9, seq_length in 0u64..40) {
        let one = forward_flops(&config, 1, seq_length);
        prop_assert_eq!(forward_flops(&config, batch, seq_length), u128::from(batch) * one);
        prop_assert_eq!(train_flops(&config, batch, seq_length), 3 * u128::from(batch) * one);
        let cache = kv_cache_bytes(&config, 1, seq_length, BFLOAT16_BYTES);
        prop_assert_eq!(kv_cache_bytes(&config, batch, seq_length, BFLOAT16_BYTES), u128::from(batch) * cache);
    }

    #[test]
    fn a_cache_spares_work_on_the_past_and_nothing_else(
        config in decoders(),
        chunks in prop::collection::vec(0u64..9, 0..6),
    ) {
        let (mut past, mut sum) = (0, 0);
        for new in chunks {
            sum += forward_flops_cached(&config, past, new);
            past += new;
        }
        prop_assert_eq!(sum, forward_flops(&config, 1, past));
        prop_assert_eq!(forward_flops_cached(&config, past, 1), forward_flops_per_token(&config, past + 1));
    }
}

/// Were the past forgotten, the chunks would sum to less: the check above can fail.
#[test]
fn chunks_without_their_past_cost_less() {
    let config = DecoderConfig::pico();
    assert!(2 * forward_flops_cached(&config, 0, 8) < forward_flops(&config, 1, 16));
}
