//! The training loop: it learns, the same every time, and however its batches are cut.

use deepwide::config::DecoderConfig;
use deepwide::data::{Document, WindowOrder, Windows};
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, UpcyclePlan};
use deepwide::train::{AdamWConfig, Schedule, StepLog, TrainConfig, TrainError, Training};
use deepwide::weights::{MemoryWeights, RawTensor, TensorId, WeightSource};

use crate::models::{all_bytes, load, norm, relative, values};
use crate::pico;

const CONFIG: TrainConfig = TrainConfig {
    batch_size: 4,
    micro_batch_size: 4,
    schedule: Schedule { peak: 3e-3, warmup_steps: 2, num_steps: 20, final_fraction: 0.1 },
    optimizer: AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 },
    max_grad_norm: 1.0,
};

fn small(num_layers: usize) -> DecoderConfig {
    let sizes = DecoderConfig::pico().with(|f| {
        (f.vocab_size, f.hidden_size, f.intermediate_size, f.num_hidden_layers) = (40, 24, 32, num_layers);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
        f.max_position_embeddings = 32;
    });
    sizes.expect("a small Llama")
}

fn dense() -> MemoryWeights {
    MemoryWeights::untrained(small(2), 0.05, 1)
}

/// Four experts that differ, with a balancing loss of this weight.
fn sparse(router_aux_loss_coef: f64) -> Grown<MemoryWeights> {
    let init = ExpertInit::Drop { ratio: 0.5 };
    let plan = UpcyclePlan { init, router_aux_loss_coef, ..UpcyclePlan::new(4, 2) };
    Grown::new(dense(), GrowthPlan::Upcycle(plan)).expect("a plan for a dense source")
}

/// Windows of `seq_length` tokens of a text without much pattern.
fn windows(num_windows: usize, seq_length: usize) -> Windows {
    let ids = (0..num_windows * seq_length + 1).map(|i| ((i * i + i / 3) % 40) as u32).collect();
    Windows::contiguous(&[Document { ids, logprobs: None, topic: None }], None, seq_length).expect("a long text")
}

/// Some steps of training: what they reported, and the weights after them.
fn trained(
    source: &impl WeightSource,
    windows: &Windows,
    config: TrainConfig,
    steps: usize,
) -> (Vec<StepLog>, MemoryWeights) {
    let device = pico::device().autodiff();
    let order = WindowOrder::new(windows.len(), 9);
    let model = load(source, &device);
    let mut training = Training::new(model, windows, order, config, &device).expect("a sound config");
    let logs = (0..steps).map(|_| training.step()).collect();
    (logs, training.into_model().to_weights())
}

/// Logs without the time that the steps took.
fn timeless(logs: Vec<StepLog>) -> Vec<StepLog> {
    logs.into_iter().map(|log| StepLog { wall_s: 0.0, ..log }).collect()
}

#[test]
fn training_on_one_batch_again_and_again_learns_it() {
    let windows = windows(4, 16);
    let learns = |logs: &[StepLog]| {
        let (first, last) = (logs[0].loss_nats, logs[logs.len() - 1].loss_nats);
        assert!((first - 40f64.ln()).abs() < 0.3, "an untrained model loses {first}");
        assert!(last < first - 0.5, "{first} to {last}");
    };
    let config = TrainConfig { schedule: Schedule { peak: 1e-2, ..CONFIG.schedule }, ..CONFIG };
    learns(&trained(&dense(), &windows, config, 20).0);
    learns(&trained(&sparse(0.02), &windows, config, 20).0);
}

#[test]
fn a_learning_rate_of_zero_learns_nothing() {
    let config = TrainConfig { schedule: Schedule { peak: 0.0, ..CONFIG.schedule }, ..CONFIG };
    let (logs, weights) = trained(&dense(), &windows(4, 16), config, 3);
    assert!(all_bytes(&weights) == all_bytes(&dense()));
    assert!((logs[0].grad_norm / logs[2].grad_norm - 1.0).abs() <= 1e-6, "the same windows, in another order");
}

/// An optimizer whose first step is a hundred gradients, so that two gradients can be compared by it: with `ε` far above
/// every gradient, `lr·g / (|g| + ε)` is `lr/ε·g`.
fn revealing() -> TrainConfig {
    let optimizer = AdamWConfig { epsilon: 1e3, weight_decay: 0.0, ..CONFIG.optimizer };
    let schedule = Schedule { peak: 1e5, warmup_steps: 0, ..CONFIG.schedule };
    TrainConfig { optimizer, schedule, max_grad_norm: f64::INFINITY, ..CONFIG }
}

/// The largest difference of two trainings in any weight's first step, in units of the largest number of the step.
fn difference(source: &impl WeightSource, windows: &Windows, a: TrainConfig, b: TrainConfig) -> f64 {
    let ((logs_a, a), (logs_b, b)) = (trained(source, windows, a, 1), trained(source, windows, b, 1));
    let steps = TensorId::all(source.config()).into_iter().map(|id| {
        let before = values(source, id);
        let step = |weights: &MemoryWeights| -> Vec<f32> {
            values(weights, id).iter().zip(&before).map(|(after, before)| after - before).collect()
        };
        relative(&step(&a), &step(&b))
    });
    assert!((logs_a[0].loss_nats - logs_b[0].loss_nats).abs() <= 1e-6 * logs_b[0].loss_nats);
    steps.fold(0.0, f64::max)
}

#[test]
fn accumulated_gradients_equal_those_of_the_whole_batch() {
    let windows = windows(8, 16);
    let cut = |micro_batch_size| TrainConfig { micro_batch_size, ..revealing() };
    for micro_batch_size in [1, 2] {
        let off = difference(&dense(), &windows, cut(micro_batch_size), cut(4));
        assert!(off <= 1e-5, "dense, {micro_batch_size} windows a pass: {off:e}");
        let off = difference(&sparse(0.0), &windows, cut(micro_batch_size), cut(4));
        assert!(off <= 1e-5, "sparse, {micro_batch_size} windows a pass: {off:e}");
    }
    let fewer = TrainConfig { batch_size: 2, micro_batch_size: 2, ..revealing() };
    let logs = |config| trained(&dense(), &windows, config, 1).0.remove(0);
    assert!((logs(fewer).grad_norm / logs(cut(4)).grad_norm - 1.0).abs() > 1e-3, "half a batch goes unnoticed");
}

#[test]
fn the_balancing_loss_is_that_of_each_pass_so_that_passes_of_other_sizes_balance_otherwise() {
    let windows = windows(8, 16);
    let cut = |micro_batch_size| TrainConfig { micro_batch_size, ..revealing() };
    let off = difference(&sparse(1.0), &windows, cut(1), cut(4));
    assert!(off > 1e-4, "{off:e}");
}

/// A base and its mixture, large enough that their products are shared among threads.
fn larger() -> (MemoryWeights, Grown<MemoryWeights>) {
    let config = DecoderConfig::pico().with(|f| f.num_hidden_layers = 2).expect("two layers");
    let base = MemoryWeights::untrained(config, 0.05, 2);
    let init = ExpertInit::Noise { relative_std: 0.1 };
    let plan = GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) });
    (base.clone(), Grown::new(base, plan).expect("a plan for a dense source"))
}

fn on_threads(num_threads: usize, source: &(impl WeightSource + Sync)) -> (Vec<StepLog>, Vec<RawTensor>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("threads");
    pool.install(|| {
        let windows = windows(8, 64);
        let (logs, weights) = trained(source, &windows, CONFIG, 3);
        (timeless(logs), all_bytes(&weights))
    })
}

#[test]
fn training_gives_the_same_bits_twice_and_on_any_number_of_threads() {
    let (dense, sparse) = larger();
    let one = on_threads(1, &dense);
    assert!(one == on_threads(1, &dense), "dense, twice");
    assert!(one == on_threads(2, &dense) && one == on_threads(3, &dense), "dense, on more threads");
    let one = on_threads(1, &sparse);
    assert!(one == on_threads(1, &sparse), "sparse, twice");
    assert!(one == on_threads(2, &sparse) && one == on_threads(3, &sparse), "sparse, on more threads");
}

#[test]
fn another_order_of_windows_trains_another_model() {
    let (windows, device) = (windows(16, 16), pico::device().autodiff());
    let bytes = |seed| {
        let order = WindowOrder::new(windows.len(), seed);
        let mut training = Training::new(load(&dense(), &device), &windows, order, CONFIG, &device).expect("sound");
        training.step();
        all_bytes(&training.into_model().to_weights())
    };
    assert!(bytes(1) == bytes(1) && bytes(1) != bytes(2));
}

#[test]
fn a_step_reports_what_it_did() {
    let (logs, _) = trained(&sparse(0.02), &windows(4, 16), CONFIG, 3);
    for (step, log) in logs.iter().enumerate() {
        assert_eq!((log.step, log.num_tokens), (step + 1, (step + 1) * 4 * 16));
        assert_eq!(log.learning_rate, CONFIG.schedule.learning_rate(step));
        assert!(log.aux_loss.is_some_and(|loss| (1.0..4.0).contains(&loss)), "{:?}", log.aux_loss);
        assert_eq!(log.routers.len(), 2);
        assert!(log.routers.iter().all(|router| router.visits.iter().sum::<u64>() == 4 * 16 * 2));
    }
    let (logs, _) = trained(&dense(), &windows(4, 16), CONFIG, 1);
    assert!(logs[0].aux_loss.is_none() && logs[0].routers.is_empty());
}

#[test]
fn clipping_takes_the_size_of_the_gradient_and_leaves_its_direction() {
    let before = dense();
    let norm_of_step = |after: &MemoryWeights| {
        let all = |source| -> Vec<f32> {
            TensorId::all(before.config()).into_iter().flat_map(|id| values(source, id)).collect()
        };
        let steps: Vec<f32> = all(after).iter().zip(all(&before)).map(|(after, before)| after - before).collect();
        norm(&steps)
    };
    let run = |max_grad_norm| trained(&dense(), &windows(4, 16), TrainConfig { max_grad_norm, ..revealing() }, 1);
    let (free, unclipped) = run(f64::INFINITY);
    let limit = free[0].grad_norm / 4.0;
    let (clipped, small) = run(limit);
    assert_eq!(clipped[0].grad_norm, free[0].grad_norm, "the norm before clipping is what is told");
    let ratio = norm_of_step(&unclipped) / norm_of_step(&small);
    assert!((ratio - 4.0).abs() < 1e-2, "a quarter of the norm makes the step {ratio} times smaller");
}

#[test]
fn a_batch_is_a_whole_number_of_passes() {
    let refused = |batch_size, micro_batch_size| {
        let (windows, device) = (windows(4, 16), pico::device().autodiff());
        let config = TrainConfig { batch_size, micro_batch_size, ..CONFIG };
        Training::new(load(&dense(), &device), &windows, WindowOrder::new(4, 0), config, &device).unwrap_err()
    };
    for (batch_size, micro_batch_size) in [(4, 3), (4, 8), (0, 1), (4, 0), (0, 0)] {
        assert_eq!(refused(batch_size, micro_batch_size), TrainError::UnevenBatch { batch_size, micro_batch_size });
    }
    let message = "batch_size 4 is not a positive multiple of micro_batch_size 3";
    assert_eq!(refused(4, 3).to_string(), message);
}

#[test]
fn windows_are_not_longer_than_the_positions_of_the_model() {
    let device = pico::device().autodiff();
    let train = |seq_length| {
        let windows = windows(4, seq_length);
        let order = WindowOrder::new(4, 0);
        Training::new(load(&dense(), &device), &windows, order, CONFIG, &device).map(|_| ())
    };
    assert_eq!(train(32), Ok(()));
    assert_eq!(train(33), Err(TrainError::WindowTooLong { seq_length: 33, max_position_embeddings: 32 }));
}

#[test]
#[should_panic(expected = "training needs a device that records gradients")]
fn a_device_that_records_no_gradients_is_refused() {
    let (windows, device) = (windows(4, 16), pico::device());
    let order = WindowOrder::new(4, 0);
    let _ = Training::new(load(&dense(), &device), &windows, order, CONFIG, &device);
}
