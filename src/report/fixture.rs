//! A made-up study for tests: plausible shapes, costs, curves and timings, the same on every call.

use super::profiles::*;
use super::records::*;
use crate::config::{DecoderConfig, MoeConfig};

const STEPS: usize = 400;
const TOKENS_PER_STEP: u64 = 16 * 256;
const BUDGET_FLOPS: u64 = 12_000_000_000_000;
const BASE_LOSS_NATS: f64 = 2.118;
const TOPICS: [&str; 4] = ["arithmetic", "narrative", "code", "lists"];

/// How one made-up arm behaves.
struct Sketch {
    name: &'static str,
    kind: ArmKind,
    growth: &'static str,
    num_hidden_layers: usize,
    loss_after_growth_nats: f64,
    asymptote_nats: f64,
    speed: f64,
}

const SKETCHES: [Sketch; 5] = [
    Sketch {
        name: "dense control",
        kind: ArmKind::Dense,
        growth: "the base, trained further",
        num_hidden_layers: 8,
        loss_after_growth_nats: 2.118,
        asymptote_nats: 1.962,
        speed: 1.0,
    },
    Sketch {
        name: "DUS m = 2",
        kind: ArmKind::Deep,
        growth: "layers 0..6 ++ 2..8 (m = 2)",
        num_hidden_layers: 12,
        loss_after_growth_nats: 2.62,
        asymptote_nats: 1.915,
        speed: 0.68,
    },
    Sketch {
        name: "MoE 8×top-2",
        kind: ArmKind::Wide,
        growth: "8 copies of each MLP, top-2, noise 0",
        num_hidden_layers: 8,
        loss_after_growth_nats: 2.118,
        asymptote_nats: 1.884,
        speed: 0.51,
    },
    Sketch {
        name: "DUS m = 1",
        kind: ArmKind::Deep,
        growth: "layers 0..7 ++ 1..8 (m = 1)",
        num_hidden_layers: 14,
        loss_after_growth_nats: 2.93,
        asymptote_nats: 1.911,
        speed: 0.59,
    },
    Sketch {
        name: "MoE 8×top-2, drop 0.5",
        kind: ArmKind::Wide,
        growth: "8 copies of each MLP, top-2, half of each re-drawn",
        num_hidden_layers: 8,
        loss_after_growth_nats: 2.55,
        asymptote_nats: 1.881,
        speed: 0.51,
    },
];

/// A study with the first `num_arms` of dense, deep, wide, deep, wide, each trained with `num_seeds` seeds.
pub(crate) fn study(num_arms: usize, num_seeds: usize) -> Study {
    let config = DecoderConfig::pico();
    let seeds: Vec<u64> = (0..num_seeds as u64).collect();
    Study {
        run: RunInfo {
            version: "0.1.0".to_owned(),
            commit: Some("0123456".to_owned()),
            build: Some("cafe".to_owned()),
            date: "2026-01-02T03:04:05Z".to_owned(),
            command: vec!["compare_dus_moe".to_owned(), "--device".to_owned(), "flex".to_owned()],
            device: "flex".to_owned(),
            cpu: "Imaginary CPU".to_owned(),
            num_threads: 2,
            dtype: "f32".to_owned(),
            burn_version: "0.22.1".to_owned(),
            os: "linux x86_64".to_owned(),
        },
        base: BaseInfo { name: "pico".to_owned(), sha256: None, config, heldout_loss_nats: BASE_LOSS_NATS },
        data: DataInfo {
            name: "built-in language".to_owned(),
            train_tokens: 20_000_000,
            heldout_tokens: 65_536,
            blake3: Some("af1349b9".to_owned()),
            floor_nats: Some(1.702),
            topics: TOPICS.map(str::to_owned).to_vec(),
        },
        settings: StudySettings {
            train_flops_budget_flops: BUDGET_FLOPS,
            batch_size: 16,
            micro_batch_size: Some(8),
            seq_length: 256,
            learning_rate: 1e-3,
            warmup_fraction: 0.05,
            weight_decay: 0.1,
            seeds: seeds.clone(),
            match_rule: "equal training FLOPs".to_owned(),
        },
        arms: SKETCHES[..num_arms].iter().map(|sketch| arm(sketch, &seeds)).collect(),
        rounds: vec![TimingRound { other_load_cpus: Some(0.01) }; 7],
    }
}

fn arm(sketch: &Sketch, seeds: &[u64]) -> Arm {
    let dense = DecoderConfig::pico().with(|fields| fields.num_hidden_layers = sketch.num_hidden_layers).unwrap();
    let config = match sketch.kind {
        ArmKind::Wide => dense
            .with_experts(MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.01 })
            .unwrap(),
        _ => dense,
    };
    let cost = cost(&config);
    let weight_bytes = 4 * cost.total_parameters;
    let kv_cache_bytes = 16 * 512 * cost.kv_bytes_per_token;
    let wide = sketch.kind == ArmKind::Wide;
    Arm {
        name: sketch.name.to_owned(),
        kind: sketch.kind,
        growth: sketch.growth.to_owned(),
        runs: seeds.iter().map(|seed| run(sketch, &config, *seed)).collect(),
        memory: MemoryRecord {
            inference_peak_bytes: Some(weight_bytes + kv_cache_bytes + 9_300_000),
            train_peak_bytes: Some(5 * weight_bytes + 96_000_000),
            weight_bytes,
            kv_cache_bytes,
        },
        timings: timings(sketch.speed),
        expert_load: wide.then(|| expert_load(config.num_hidden_layers)),
        config,
        cost,
    }
}

fn cost(config: &DecoderConfig) -> Cost {
    let layers = config.num_hidden_layers as u64;
    let hidden = config.hidden_size as u64;
    let (q, kv) = (config.num_attention_heads as u64, config.num_key_value_heads as u64);
    let attention = hidden * config.head_dim as u64 * 2 * (q + kv);
    let mlp = 3 * hidden * config.intermediate_size as u64;
    let (experts, chosen) = config.moe.map_or((1, 1), |moe| (8, moe.num_experts_per_tok as u64));
    let embedding = config.vocab_size as u64 * hidden;
    let active = embedding + layers * (attention + chosen * mlp);
    let total = embedding + layers * (attention + experts * mlp);
    let touched = |batch: usize| {
        let share = 1.0 - (1.0 - chosen as f64 / experts as f64).powi(batch as i32);
        4 * (embedding + layers * attention) + (4.0 * (layers * experts * mlp) as f64 * share) as u64
    };
    Cost {
        total_parameters: total,
        active_parameters: active,
        forward_flops_per_token: 2 * active + layers * 4 * 128 * hidden,
        train_flops_per_token: 3 * (2 * active + layers * 4 * 128 * hidden),
        kv_bytes_per_token: layers * 2 * kv * config.head_dim as u64 * 4,
        decode_weight_bytes: [1, 4, 16].map(|batch| (batch, touched(batch))).to_vec(),
    }
}

/// A pseudo-random number in `[-1, 1]`, the same on every call.
fn wobble(index: usize, salt: u64) -> f64 {
    let mut x = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x ^= x >> 31;
    x = x.wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 29;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn run(sketch: &Sketch, config: &DecoderConfig, seed: u64) -> SeedRun {
    let salt = seed + sketch.num_hidden_layers as u64 + sketch.name.len() as u64;
    let flops_per_step = TOKENS_PER_STEP * cost(config).train_flops_per_token;
    let steps = (BUDGET_FLOPS / flops_per_step) as usize;
    let loss_at = |step: usize| {
        let t = step as f64 / STEPS as f64;
        let excess = sketch.loss_after_growth_nats - sketch.asymptote_nats;
        let spread = 0.004 * wobble(7, salt);
        sketch.asymptote_nats + spread + excess * (0.55 * (-t * 22.0).exp() + 0.45 * (-t * 4.2).exp())
    };
    let eval_every = (steps / 24).max(1);
    let eval = |step: usize| EvalPoint {
        step,
        tokens: step as u64 * TOKENS_PER_STEP,
        train_flops: step as u64 * flops_per_step,
        heldout_loss_nats: loss_at(step) + 0.0015 * wobble(step, salt),
    };
    let curve = (1..=steps).map(|step| CurvePoint {
        step,
        tokens: step as u64 * TOKENS_PER_STEP,
        train_flops: step as u64 * flops_per_step,
        train_loss_nats: loss_at(step) + 0.03 * wobble(step, salt + 1),
        learning_rate: 1e-3,
        grad_norm: 0.8 + 0.1 * wobble(step, salt + 2),
        aux_loss: config.moe.map(|_| 1.0 + 0.02 * wobble(step, salt + 3)),
        tokens_per_second: 9_000.0 * sketch.speed,
    });
    SeedRun {
        seed,
        loss_before_growth_nats: BASE_LOSS_NATS,
        loss_after_growth_nats: sketch.loss_after_growth_nats,
        curve: curve.collect(),
        evals: (1..steps).filter(|step| step.is_multiple_of(eval_every)).chain([steps]).map(eval).collect(),
        wall_s: 310.0 / sketch.speed,
        router: config.moe.map(|_| RouterSummary {
            load_cv: vec![0.21; config.num_hidden_layers],
            entropy_nats: vec![2.01; config.num_hidden_layers],
            dead_experts: vec![0; config.num_hidden_layers],
        }),
    }
}

fn timings(speed: f64) -> Vec<Timing> {
    let samples = |base_s: f64, salt| (0..7).map(|i| base_s / speed * (1.0 + 0.06 * wobble(i, salt))).collect();
    let decode = |batch: usize, step_s: f64| Timing {
        workload: Workload::Decode { batch, tokens: 64, context: 256 },
        num_tokens: batch * 64,
        samples_s: samples(64.0 * step_s, batch as u64),
    };
    vec![
        Timing { workload: Workload::Prefill { tokens: 512 }, num_tokens: 512, samples_s: samples(0.019, 99) },
        decode(1, 0.000_71),
        decode(4, 0.001_3),
        decode(16, 0.003_1),
    ]
}

fn expert_load(num_layers: usize) -> ExpertLoad {
    let share_of = |layer: usize, topic: usize| {
        let raw: Vec<f64> = (0..8)
            .map(|expert| {
                (1.1 * layer as f64 / 8.0 * wobble(expert + 17 * topic, layer as u64)
                    + 0.35 * wobble(expert, layer as u64 + 99))
                .exp()
            })
            .collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|x| x / sum).collect()
    };
    ExpertLoad {
        topics: TOPICS.map(str::to_owned).to_vec(),
        share: (0..num_layers).map(|layer| (0..TOPICS.len()).map(|topic| share_of(layer, topic)).collect()).collect(),
    }
}

/// A made-up profile of a dense, a deep and a wide model.
pub(crate) fn profile() -> ProfileStudy {
    let model = |name: &str, kind, scale: f64| {
        let feed_forward = if kind == ArmKind::Wide { "layer.moe.experts" } else { "layer.mlp.gate_up_proj" };
        let module = |path: &str, flops: f64, bytes: f64, time_s: f64| ModulePoint {
            path: path.to_owned(),
            flops: scale * flops,
            bytes: scale * bytes,
            time_s: scale * time_s,
        };
        let table = |test: &str, tokens: f64| ModuleTable {
            test: test.to_owned(),
            timing: None,
            run_time_s: None,
            modules: vec![
                module("embedding", 0.0, 2e3 * tokens, 1e-5),
                module("layer.self_attn.qkv_proj", 1e7 * tokens, 2e7, 2e-4 * tokens.sqrt()),
                module("layer.self_attn.attention", 1e6 * tokens, 1e6, 1e-4 * tokens.sqrt()),
                module(feed_forward, 4e7 * tokens, 8e7, 8e-4 * tokens.sqrt()),
                module("lm_head", 1e7, 2e7, 3e-4),
                module("other", 0.0, 0.0, 1e-4),
            ],
        };
        let speed = |is_prefill, batch: usize, context| SpeedPoint {
            is_prefill,
            batch,
            context,
            tokens: if is_prefill { context } else { 8 * batch },
            flops: scale * 1e8 * if is_prefill { context as f64 } else { 8.0 * batch as f64 },
            bytes: scale * 2e8 * if is_prefill { 1.0 } else { 8.0 },
            samples_s: vec![scale * 0.09, scale * 0.1, scale * 0.12],
        };
        let point = |at_ns, gradients, activations| MemoryPoint {
            at_ns,
            weights: (scale * 2e8) as u64,
            cache: 0,
            optimizer: (scale * 4e8) as u64,
            gradients,
            activations,
        };
        let curve = |test: &str| MemoryCurve {
            test: test.to_owned(),
            points: (0..50).map(|step| point(step * 1_000_000, step * 4_000_000, (50 - step) * 3_000_000)).collect(),
        };
        ProfiledModel {
            name: name.to_owned(),
            kind,
            total_parameters: (scale * 5e7) as u64,
            active_parameters: (scale * 4e7) as u64,
            weight_bytes: (scale * 2e8) as u64,
            by_module: vec![table("pp256", 256.0), table("tg16 @ d256", 16.0)],
            speeds: [64, 256]
                .into_iter()
                .flat_map(|context| [speed(true, 1, context), speed(false, 1, context)])
                .chain([2, 4].map(|batch| speed(false, batch, 256)))
                .collect(),
            memory: vec![curve("pp256"), curve("train4x128")],
        }
    };
    ProfileStudy {
        run: study(1, 1).run,
        peak_flops_per_s: 1.1e11,
        peak_dtype: "float32".to_owned(),
        peak_bytes_per_s: 1.6e10,
        other_cpus: Some(0.01),
        energy_j: None,
        models: vec![
            model("dense", ArmKind::Dense, 1.0),
            model("deep, 20 layers", ArmKind::Deep, 1.6),
            model("wide, 8 experts", ArmKind::Wide, 1.9),
        ],
    }
}
