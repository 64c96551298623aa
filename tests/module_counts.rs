//! What operations count while they run equals what the config says, module by module: FLOPs and bytes, forward and backward.

use deepwide::config::{DecoderConfig, MoeConfig};
use deepwide::kernel::blocks::BlockFormat;
use deepwide::load::Precision;
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::profile::convention::FlopConvention;
use deepwide::profile::throughput::{InferenceRuns, InferenceTest, train_runs};
use deepwide::profile::{BytesPerNumber, ModuleCost, ModuleTime, ProfileTest, module_costs, module_times};
use deepwide::trace;
use deepwide::weights::Dtype;

use crate::pico;

/// A dense decoder, one with a window and an own head, and a mixture whose tokens visit every expert.
fn configs() -> Vec<DecoderConfig> {
    let pico = DecoderConfig::pico();
    let windowed = pico.with(|f| {
        f.model_type = deepwide::config::ModelType::Mistral;
        f.sliding_window = Some(6);
        f.tie_word_embeddings = false;
    });
    let all = MoeConfig { num_local_experts: 3, num_experts_per_tok: 3, router_aux_loss_coef: 0.02 };
    let wide = pico.with_experts(all);
    vec![pico, windowed.expect("a Mistral"), wide.expect("a Mixtral")]
}

/// FLOPs, backward FLOPs, bytes and backward bytes of a module as counted at its operations.
fn counted(times: &[ModuleTime], path: &str) -> [u128; 4] {
    let ends = |time: &&ModuleTime| ["", "forward.", "loss."].iter().any(|part| time.path == format!("{part}{path}"));
    let found: Vec<&ModuleTime> = times.iter().filter(ends).collect();
    assert_eq!(found.len(), 1, "{path} in {times:?}");
    [found[0].flops, found[0].backward_flops, found[0].bytes, found[0].backward_bytes].map(u128::from)
}

fn expected(cost: &ModuleCost) -> [u128; 4] {
    [cost.flops, cost.backward_flops, cost.bytes as u128, cost.backward_bytes as u128]
}

fn assert_equal(times: &[ModuleTime], costs: &[ModuleCost], what: &str) {
    for cost in costs {
        assert_eq!(cost.bytes, cost.bytes.round(), "{}: whole bytes", cost.path);
        assert_eq!(counted(times, cost.path), expected(cost), "{what}: {}", cost.path);
    }
    let paths: Vec<&str> = costs.iter().map(|cost| cost.path).collect();
    let others = times.iter().filter(|time| !paths.iter().any(|path| time.path.ends_with(path)));
    assert!(others.clone().all(|time| time.flops + time.backward_flops == 0), "{what}: FLOPs outside of the modules");
}

const TESTS: [(usize, usize, usize, usize); 4] = [(9, 0, 0, 2), (0, 3, 5, 2), (4, 2, 7, 1), (13, 0, 0, 1)];

#[test]
fn prefill_and_decoding_count_what_the_config_says() {
    let device = pico::device();
    for config in configs() {
        let weights = pico::random_weights(&config, 1);
        let precisions = [
            (Precision::FLOAT32, BytesPerNumber::float(4)),
            (Precision::Float(Dtype::Bfloat16), BytesPerNumber::float(2)),
        ];
        for (precision, bytes) in precisions {
            let model = AnyDecoder::load_as(&weights, precision, &device).expect("in memory");
            for (n_prompt, n_gen, n_depth, batch_size) in TESTS {
                let test = InferenceTest { n_prompt, n_gen, n_depth, batch_size };
                let mut runs = InferenceRuns::new(&model, test, &device);
                let times = module_times(&trace::record(&device, || runs.run()).1);
                let costs = module_costs(&config, test.into(), bytes, FlopConvention::Causal);
                assert_equal(&times, &costs, &format!("{precision:?} {test:?}"));
            }
        }
    }
}

#[test]
fn blocks_are_counted_as_they_lie_in_memory() {
    // Rows of every matrix are whole blocks.
    let config = DecoderConfig::pico().with(|f| f.intermediate_size = 320).expect("a Llama");
    let device = pico::device();
    let precision = Precision::Blocks(Some(BlockFormat::Q8_0));
    let model = AnyDecoder::load_as(&pico::random_weights(&config, 1), precision, &device).expect("in memory");
    let bytes = BytesPerNumber::blocks(&config, model.footprint().unshared_bytes());
    let test = InferenceTest { n_prompt: 8, n_gen: 0, n_depth: 0, batch_size: 1 };
    let mut runs = InferenceRuns::new(&model, test, &device);
    let times = module_times(&trace::record(&device, || runs.run()).1);
    for cost in module_costs(&config, test.into(), bytes, FlopConvention::Causal) {
        let [flops, _, read, _] = counted(&times, cost.path);
        assert_eq!(flops, cost.flops, "{}", cost.path);
        // Panels pad rows to whole groups, by less than a tenth here.
        assert!((read as f64 / cost.bytes - 1.0).abs() < 0.1, "{}: {read} {}", cost.path, cost.bytes);
    }
}

#[test]
fn an_update_counts_its_gradients_in_the_modules_they_belong_to() {
    let device = pico::device().autodiff();
    for config in configs() {
        let model = AnyDecoder::load(&pico::random_weights(&config, 2), &device).expect("in memory");
        let (times, _) = train_runs(model, 2, 9, 2, &device, |step| {
            step();
            module_times(&trace::record(&device, step).1)
        })
        .expect("fits the model");
        let test = ProfileTest::Training { batch_size: 2, seq_length: 9 };
        let costs = module_costs(&config, test, BytesPerNumber::float(4), FlopConvention::Causal);
        assert_equal(&times, &costs, "training");
    }
}

#[test]
fn a_mixture_reads_whole_experts_that_its_tokens_visit() {
    let moe = MoeConfig { num_local_experts: 5, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
    let config = DecoderConfig::pico().with_experts(moe).expect("a Mixtral");
    let device = pico::device();
    let model = AnyDecoder::load(&pico::random_weights(&config, 3), &device).expect("in memory");
    let expert = (4 * 3 * config.hidden_size * config.intermediate_size) as u128;
    let layers = config.num_hidden_layers as u128;
    for n_prompt in [1, 2, 64] {
        let test = InferenceTest { n_prompt, n_gen: 0, n_depth: 0, batch_size: 1 };
        let mut runs = InferenceRuns::new(&model, test, &device);
        let times = module_times(&trace::record(&device, || runs.run()).1);
        let [_, _, bytes, _] = counted(&times, "layer.moe.experts");
        assert_eq!(bytes % expert, 0);
        let visited = bytes / expert;
        assert!((2 * layers..=layers * (2 * n_prompt as u128).min(5)).contains(&visited), "{n_prompt}: {visited}");
        let costs = module_costs(model.config(), test.into(), BytesPerNumber::float(4), FlopConvention::Causal);
        let foreseen = costs.iter().find(|cost| cost.path == "layer.moe.experts").expect("experts").bytes;
        assert_eq!(n_prompt == 1, foreseen == bytes as f64, "one token visits as many as it chooses");
    }
}

/// The comparison can fail: a layer, a window and an expert more would be noticed.
#[test]
fn other_shapes_count_otherwise() {
    let device = pico::device();
    let config = DecoderConfig::pico();
    let model = AnyDecoder::load(&pico::random_weights(&config, 1), &device).expect("in memory");
    let test = InferenceTest { n_prompt: 9, n_gen: 0, n_depth: 0, batch_size: 1 };
    let mut runs = InferenceRuns::new(&model, test, &device);
    let times = module_times(&trace::record(&device, || runs.run()).1);
    let differs = |other: &DecoderConfig, path: &str| {
        let costs = module_costs(other, test.into(), BytesPerNumber::float(4), FlopConvention::Causal);
        let cost = costs.iter().find(|cost| cost.path == path).expect("a module");
        counted(&times, path) != expected(cost)
    };
    assert!(!differs(&config, "layer.self_attn.attention") && !differs(&config, "layer.self_attn.norm"));
    let deeper = config.with(|f| f.num_hidden_layers += 1).expect("a Llama");
    let wider = config.with(|f| f.intermediate_size += 8).expect("a Llama");
    assert!(differs(&deeper, "layer.self_attn.norm") && differs(&wider, "layer.mlp.down_proj"));
    assert!(!differs(&wider, "layer.self_attn.qkv_proj"));
}
