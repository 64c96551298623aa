//! Training: it learns, repeats to the bit, resumes to the bit, and takes any objective.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use deepwide::config::DecoderConfig;
use deepwide::data::{Document, WindowOrder, Windows};
use deepwide::error::ErrorKind;
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, UpcyclePlan};
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::output::commit::{Existing, PartialDirectory};
use deepwide::output::disk::disk;
use deepwide::train::{
    AdamW, AdamWConfig, BatchSize, Decay, NextToken, NextTokenLog, Objective, Schedule, StepLog, TrainConfig,
    TrainError, Trainer, WindowBatches,
};
use deepwide::weights::{MemoryWeights, RawTensor, TensorId, WeightSource};

use crate::models::{all_bytes, load, norm, relative, values};
use crate::pico;

type Log = StepLog<NextTokenLog>;

/// Everything that a run of these tests may change.
#[derive(Clone, Copy)]
struct Settings {
    size: BatchSize,
    optimizer: AdamWConfig,
    train: TrainConfig,
}

const SETTINGS: Settings = Settings {
    size: BatchSize { batch_size: 4, micro_batch_size: 4 },
    optimizer: AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 },
    train: TrainConfig { schedule: SCHEDULE, max_grad_norm: 1.0 },
};

const SCHEDULE: Schedule =
    Schedule { peak: 3e-3, warmup_steps: 2, num_steps: 20, final_fraction: 0.1, decay: Decay::Cosine };

impl Settings {
    fn with_peak(self, peak: f64) -> Self {
        Self { train: TrainConfig { schedule: Schedule { peak, ..SCHEDULE }, ..self.train }, ..self }
    }

    fn with_size(self, batch_size: usize, micro_batch_size: usize) -> Self {
        Self { size: BatchSize { batch_size, micro_batch_size }, ..self }
    }
}

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
    Windows::contiguous(&[Document { ids, logprobs: None, topic: None }], seq_length).expect("a long text")
}

/// A fresh trainer of a source.
fn trainer(source: &impl WeightSource, settings: Settings) -> Trainer<AnyDecoder, NextToken> {
    let model = load(source, &pico::device().autodiff());
    Trainer::new(model, NextToken::default(), AdamW::new(settings.optimizer), settings.train)
}

/// Takes some steps, from where the trainer stands.
fn advance(trainer: &mut Trainer<AnyDecoder, NextToken>, windows: &Windows, size: BatchSize, steps: usize) -> Vec<Log> {
    let order = WindowOrder::new(windows.len(), 9);
    let device = pico::device().autodiff();
    let batches = WindowBatches::new(windows, order, size, trainer.model().config(), &device).expect("sound sizes");
    (0..steps).map(|_| trainer.step(&batches.of_step(trainer.optimizer().num_steps()))).collect()
}

/// The logs of some steps of training, and the weights after them.
fn trained(
    source: &impl WeightSource,
    windows: &Windows,
    settings: Settings,
    steps: usize,
) -> (Vec<Log>, MemoryWeights) {
    let mut trainer = trainer(source, settings);
    let logs = advance(&mut trainer, windows, settings.size, steps);
    (logs, trainer.into_model().to_weights())
}

/// Logs without wall-clock times.
fn timeless(logs: Vec<Log>) -> Vec<Log> {
    logs.into_iter().map(|log| Log { wall_s: 0.0, ..log }).collect()
}

#[test]
fn training_on_one_batch_again_and_again_learns_it() {
    let windows = windows(4, 16);
    let learns = |logs: &[Log]| {
        let (first, last) = (logs[0].log.loss_nats, logs[logs.len() - 1].log.loss_nats);
        assert!((first - 40f64.ln()).abs() < 0.3, "an untrained model loses {first}");
        assert!(last < first - 0.5, "{first} to {last}");
    };
    let settings = SETTINGS.with_peak(1e-2);
    learns(&trained(&dense(), &windows, settings, 20).0);
    learns(&trained(&sparse(0.02), &windows, settings, 20).0);
}

#[test]
fn a_learning_rate_of_zero_learns_nothing() {
    let (logs, weights) = trained(&dense(), &windows(4, 16), SETTINGS.with_peak(0.0), 3);
    assert!(all_bytes(&weights) == all_bytes(&dense()));
    assert!((logs[0].grad_norm / logs[2].grad_norm - 1.0).abs() <= 1e-6, "the same windows, in another order");
}

/// Settings under which the first step is a hundred gradients, so that it compares two gradients: with `ε` far above every
/// gradient, `lr·g / (|g| + ε)` is `lr/ε·g`.
fn revealing(max_grad_norm: f64) -> Settings {
    let schedule = Schedule { peak: 1e5, warmup_steps: 0, ..SCHEDULE };
    let optimizer = AdamWConfig { epsilon: 1e3, weight_decay: 0.0, ..SETTINGS.optimizer };
    Settings { optimizer, train: TrainConfig { schedule, max_grad_norm }, ..SETTINGS }
}

/// The settings of [`revealing`] with so many windows a pass.
fn split(micro_batch_size: usize) -> Settings {
    revealing(f64::INFINITY).with_size(4, micro_batch_size)
}

/// The largest difference between two runs in any weight's first step, relative to the largest number of that step.
fn difference(source: &impl WeightSource, windows: &Windows, a: Settings, b: Settings) -> f64 {
    let ((logs_a, a), (logs_b, b)) = (trained(source, windows, a, 1), trained(source, windows, b, 1));
    let steps = TensorId::all(source.config()).into_iter().map(|id| {
        let before = values(source, id);
        let step = |weights: &MemoryWeights| -> Vec<f32> {
            values(weights, id).iter().zip(&before).map(|(after, before)| after - before).collect()
        };
        relative(&step(&a), &step(&b))
    });
    assert!((logs_a[0].loss - logs_b[0].loss).abs() <= 1e-6 * logs_b[0].loss);
    steps.fold(0.0, f64::max)
}

#[test]
fn accumulated_gradients_equal_those_of_the_whole_batch() {
    let windows = windows(8, 16);
    for micro_batch_size in [1, 2] {
        let off = difference(&dense(), &windows, split(micro_batch_size), split(4));
        assert!(off <= 1e-5, "dense, {micro_batch_size} windows a pass: {off:e}");
        let off = difference(&sparse(0.0), &windows, split(micro_batch_size), split(4));
        assert!(off <= 1e-5, "sparse, {micro_batch_size} windows a pass: {off:e}");
    }
    let norm = |settings| trained(&dense(), &windows, settings, 1).0.remove(0).grad_norm;
    assert!((norm(split(2).with_size(2, 2)) / norm(split(4)) - 1.0).abs() > 1e-3, "half a batch goes unnoticed");
}

#[test]
fn the_balancing_loss_depends_on_how_a_batch_is_split() {
    let source = sparse(1.0);
    let windows = windows(8, 16);
    let first = |settings| trained(&source, &windows, settings, 1);
    let ((_, one), (_, all)) = (first(split(1)), first(split(4)));
    assert!(all_bytes(&one) != all_bytes(&all));
    let router = TensorId::Layer(0, deepwide::weights::LayerTensor::Router);
    let before = values(&source, router);
    let step = |weights: &MemoryWeights| -> Vec<f32> {
        values(weights, router).iter().zip(&before).map(|(after, before)| after - before).collect()
    };
    let off = relative(&step(&one), &step(&all));
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

fn on_threads(num_threads: usize, source: &(impl WeightSource + Sync)) -> (Vec<Log>, Vec<RawTensor>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("threads");
    pool.install(|| {
        let windows = windows(8, 64);
        let (logs, weights) = trained(source, &windows, SETTINGS, 3);
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
        let batches = WindowBatches::new(&windows, order, SETTINGS.size, &small(2), &device).expect("sound sizes");
        let mut trainer = trainer(&dense(), SETTINGS);
        trainer.step(&batches.of_step(0));
        all_bytes(&trainer.into_model().to_weights())
    };
    assert!(bytes(1) == bytes(1) && bytes(1) != bytes(2));
}

#[test]
fn a_step_reports_what_it_did() {
    let (logs, _) = trained(&sparse(0.02), &windows(4, 16), SETTINGS, 3);
    for (step, log) in logs.iter().enumerate() {
        assert_eq!((log.step, log.num_targets), (step + 1, 4 * 16));
        assert_eq!(log.learning_rate, SCHEDULE.learning_rate(step));
        let aux_loss = log.log.aux_loss.expect("a balancing loss");
        assert!((1.0..4.0).contains(&aux_loss), "{aux_loss}");
        assert!((log.loss - log.log.loss_nats - 0.02 * aux_loss).abs() < 1e-6, "{log:?}");
        assert_eq!(log.log.routers.len(), 2);
        assert!(log.log.routers.iter().all(|router| router.visits.iter().sum::<u64>() == 4 * 16 * 2));
    }
    let (logs, _) = trained(&dense(), &windows(4, 16), SETTINGS, 1);
    assert!(logs[0].log.aux_loss.is_none() && logs[0].log.routers.is_empty());
    assert_eq!(logs[0].loss, logs[0].log.loss_nats);
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
    let run = |max_grad_norm| trained(&dense(), &windows(4, 16), revealing(max_grad_norm), 1);
    let (free, unclipped) = run(f64::INFINITY);
    let limit = free[0].grad_norm / 4.0;
    let (clipped, small) = run(limit);
    assert_eq!(clipped[0].grad_norm, free[0].grad_norm, "the norm is reported before clipping");
    let ratio = norm_of_step(&unclipped) / norm_of_step(&small);
    assert!((ratio - 4.0).abs() < 1e-2, "a quarter of the norm makes the step {ratio} times smaller");
}

/// A loss times a factor, plus 0, whose gradient may be undefined.
struct Scaled {
    factor: f64,
    is_undefined: bool,
}

impl<M: CausalLm> Objective<M> for Scaled {
    type Batch = Tensor<2, Int>;
    type Log = ();

    fn num_targets(&self, tokens: &Tensor<2, Int>) -> usize {
        tokens.dims().iter().product()
    }

    fn loss(&self, model: &M, tokens: &Tensor<2, Int>) -> (Tensor<1>, ()) {
        let nats = -log_softmax(model.forward(tokens.clone()).logits, 2).mean();
        let scaled = nats.clone() * self.factor;
        // √0 is 0, and its slope is infinite.
        (if self.is_undefined { scaled + (nats * 0.0).sqrt() } else { scaled }, ())
    }
}

#[test]
fn a_gradient_of_0_is_not_divided_by_and_one_without_a_norm_is_no_update() {
    let device = pico::device().autodiff();
    let before = all_bytes(&dense());
    let step = |factor: f64, is_undefined: bool| {
        let optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..SETTINGS.optimizer });
        let train = SETTINGS.with_peak(1e-2).train;
        let mut trainer = Trainer::new(load(&dense(), &device), Scaled { factor, is_undefined }, optimizer, train);
        let log = trainer.step(&[Tensor::from_data([[1, 2, 3, 4]], &device)]);
        let num_steps = trainer.optimizer().num_steps();
        (log, num_steps, all_bytes(&trainer.into_model().to_weights()) == before)
    };
    let (log, num_steps, is_same) = step(1.0, false);
    assert!(log.is_updated && log.grad_norm > 0.0 && num_steps == 1 && !is_same, "{log:?}");
    let (log, num_steps, is_same) = step(0.0, false);
    assert!(log.is_updated && log.grad_norm == 0.0 && num_steps == 1 && is_same, "{log:?}");
    // The norm is no float32, the loss is.
    let (log, num_steps, is_same) = step(1e30, false);
    assert!(log.loss.is_finite() && log.grad_norm == f64::INFINITY, "{log:?}");
    assert!(!log.is_updated && num_steps == 0 && is_same, "{log:?}");
    let (log, num_steps, is_same) = step(1.0, true);
    assert!(log.loss.is_finite() && log.grad_norm.is_nan(), "{log:?}");
    assert!(!log.is_updated && num_steps == 0 && is_same, "{log:?}");
}

/// Cross entropy with a fixed distribution over the vocabulary, at the positions that the batch selects.
struct TowardsFixed {
    distribution: Vec<f32>,
}

struct Masked {
    tokens: Tensor<2, Int>,
    mask: Tensor<2>,
    num_selected: usize,
}

impl<M: CausalLm> Objective<M> for TowardsFixed {
    type Batch = Masked;
    type Log = ();

    fn num_targets(&self, batch: &Masked) -> usize {
        batch.num_selected
    }

    fn loss(&self, model: &M, batch: &Masked) -> (Tensor<1>, ()) {
        let logits = model.forward(batch.tokens.clone()).logits;
        let [batch_size, seq_length, vocab_size] = logits.dims();
        let data = TensorData::new(self.distribution.clone(), [1, 1, vocab_size]);
        let target = Tensor::<3>::from_data(data, &logits.device());
        let nats = -(log_softmax(logits, 2) * target).sum_dim(2).reshape([batch_size, seq_length]);
        ((nats * batch.mask.clone()).sum() / batch.num_selected as f64, ())
    }
}

#[test]
fn an_objective_of_ones_own_trains() {
    let device = pico::device().autodiff();
    let distribution: Vec<f32> = (0..40).map(|id| if id < 4 { 0.25 } else { 0.0 }).collect();
    let batch = |mask: [[f32; 4]; 2]| Masked {
        tokens: Tensor::from_data([[1, 2, 3, 4], [9, 8, 7, 6]], &device),
        mask: Tensor::from_data(mask, &device),
        num_selected: mask.iter().flatten().filter(|selected| **selected > 0.0).count(),
    };
    let train = |batches: &[Masked], steps: usize| {
        let settings = SETTINGS.with_peak(1e-2);
        let model = load(&dense(), &device);
        let objective = TowardsFixed { distribution: distribution.clone() };
        let mut trainer = Trainer::new(model, objective, AdamW::new(settings.optimizer), settings.train);
        let losses: Vec<f64> = (0..steps).map(|_| trainer.step(batches).loss).collect();
        (losses, trainer.into_model().to_weights())
    };
    let (losses, _) = train(&[batch([[1.0; 4]; 2])], 20);
    assert!((losses[0] - 40f64.ln()).abs() < 0.3, "untrained, the loss is near ln 40: {}", losses[0]);
    assert!(losses[19] < 0.5 * (losses[0] + 4f64.ln()), "{} to {}", losses[0], losses[19]);

    // Micro-batches weigh as many targets as they have: together they are the mean over all selected positions.
    let (first, second) = ([[1.0, 1.0, 1.0, 0.0], [0.0; 4]], [[0.0; 4], [0.0, 0.0, 0.0, 1.0]]);
    let whole = train(&[batch([first[0], second[1]])], 1).0[0];
    let (parts, weights) = train(&[batch(first), batch(second)], 1);
    assert!((parts[0] - whole).abs() < 1e-6 * whole, "{} and {whole}", parts[0]);
    let unweighted = (train(&[batch(first)], 1).0[0] + train(&[batch(second)], 1).0[0]) / 2.0;
    assert!((unweighted - whole).abs() > 1e-5 * whole, "equal weights go unnoticed");

    // A micro-batch without targets adds nothing, not even a division by zero.
    let (with_empty, same) = train(&[batch(first), batch([[0.0; 4]; 2]), batch(second)], 1);
    assert_eq!(with_empty, parts);
    assert!(all_bytes(&same) == all_bytes(&weights));
}

/// Writes the state of an optimizer below `folder`; the path of its file.
pub fn written_state(optimizer: &AdamW, folder: &Path) -> PathBuf {
    let num_before = std::fs::read_dir(folder).unwrap().count();
    let out = folder.join(format!("state-{num_before}"));
    let mut partial = PartialDirectory::create(disk(), &out, Existing::Keep).unwrap();
    let mut file = partial.begin("optimizer.safetensors").unwrap();
    optimizer.write(&mut file).unwrap();
    partial.finish(file).unwrap();
    partial.commit().unwrap();
    out.join("optimizer.safetensors")
}

/// Earlier versions wrote it with the crate of the format.
#[test]
fn state_without_a_format_in_its_metadata_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut trained = trainer(&dense(), SETTINGS);
    advance(&mut trained, &windows(4, 16), SETTINGS.size, 2);
    let path = written_state(trained.optimizer(), folder.path());
    let (bytes, other) = (std::fs::read(&path).unwrap(), folder.path().join("other.safetensors"));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let step = [("step".to_owned(), "2".to_owned())].into();
    safetensors::serialize_to_file(file.iter(), Some(step), &other).unwrap();
    assert!(std::fs::read(&other).unwrap() != bytes);
    let model = load(&dense(), &pico::device().autodiff());
    let again = |path: &Path| {
        let optimizer = AdamW::read(SETTINGS.optimizer, &model, path).unwrap();
        std::fs::read(written_state(&optimizer, folder.path())).unwrap()
    };
    assert!(again(&path) == bytes && again(&other) == bytes);
}

#[test]
fn a_run_that_is_read_back_continues_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let continues = |source: &dyn Fn() -> MemoryWeights| {
        let windows = windows(8, 16);
        let (expected, whole) = trained(&source(), &windows, SETTINGS, 5);
        let mut stopped = trainer(&source(), SETTINGS);
        advance(&mut stopped, &windows, SETTINGS.size, 3);
        let path = written_state(stopped.optimizer(), folder.path());
        let weights = stopped.into_model().to_weights();
        let resumed = |optimizer: AdamW| {
            let model = load(&weights, &pico::device().autodiff());
            let mut resumed = Trainer::new(model, NextToken::default(), optimizer, SETTINGS.train);
            (advance(&mut resumed, &windows, SETTINGS.size, 2), all_bytes(&resumed.into_model().to_weights()))
        };
        let model = load(&weights, &pico::device().autodiff());
        let (logs, bytes) = resumed(AdamW::read(SETTINGS.optimizer, &model, &path).unwrap());
        assert_eq!(timeless(logs), timeless(expected[3..].to_vec()));
        assert!(bytes == all_bytes(&whole));
        assert!(resumed(AdamW::new(SETTINGS.optimizer)).1 != bytes, "forgetting the state goes unnoticed");
    };
    continues(&dense);
    let device = pico::device();
    continues(&|| load(&sparse(0.02), &device).to_weights());
}

/// Names of the tensors in a safetensors file.
fn names(path: &Path) -> BTreeSet<String> {
    let bytes = std::fs::read(path).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect()
}

#[test]
fn optimizer_state_bears_the_names_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let without_expert = |name: &str| {
        let (layer, projection) = name.split_once(".experts.")?;
        Some(format!("{layer}.experts.{}", projection.split_once('.')?.1))
    };
    let check = |source: &MemoryWeights| {
        let checkpoint = folder.path().join(if source.config().moe.is_some() { "sparse" } else { "dense" });
        deepwide::formats::write_hf_directory(source, None, None, &checkpoint).unwrap();
        let weights = names(&checkpoint.join("model.safetensors"));
        let mut trainer = trainer(source, SETTINGS);
        advance(&mut trainer, &windows(4, 16), SETTINGS.size, 1);
        let state = written_state(trainer.optimizer(), folder.path());
        let expected = weights.iter().map(|name| without_expert(name).unwrap_or_else(|| name.clone()));
        let expected = expected.flat_map(|name| ["exp_avg", "exp_avg_sq"].map(|moment| format!("{name}.{moment}")));
        assert_eq!(names(&state), expected.collect::<BTreeSet<_>>());
    };
    check(&dense());
    check(&load(&sparse(0.02), &pico::device()).to_weights());
}

#[test]
fn state_of_another_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&dense(), SETTINGS);
    advance(&mut trainer, &windows(4, 16), SETTINGS.size, 1);
    let path = written_state(trainer.optimizer(), folder.path());
    let read = |config: DecoderConfig| {
        let model = load(&MemoryWeights::untrained(config, 0.05, 1), &pico::device().autodiff());
        AdamW::read(SETTINGS.optimizer, &model, &path).map(|_| ())
    };
    read(small(2)).unwrap();
    let refused = |config, fragments: [&str; 3]| {
        let error = read(config).unwrap_err();
        assert_eq!(error.fault.kind(), ErrorKind::Invalid);
        let message = error.to_string();
        assert!(fragments.iter().all(|fragment| message.contains(fragment)), "{message}");
    };
    let file = "optimizer.safetensors";
    refused(small(3), [file, "found nothing", "model.layers.2.input_layernorm.weight.exp_avg"]);
    refused(small(1), [file, "found \"model.layers.1.", "expected moments"]);
    let wider = small(2).with(|f| f.intermediate_size = 48).unwrap();
    refused(wider, ["F32 [24, 32]", "[24, 48]", "model.layers.0.mlp.down_proj.weight.exp_avg"]);
    std::fs::write(&path, b"<!DOCTYPE html>").unwrap();
    refused(small(2), [file, "safetensors", ""]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read(small(2)).unwrap_err().fault.kind(), ErrorKind::NotFound);
}

/// The batches of four windows of `seq_length` tokens for a model of 32 positions.
fn batched(seq_length: usize, batch_size: usize, micro_batch_size: usize) -> Result<(), TrainError> {
    let (windows, size) = (windows(4, seq_length), BatchSize { batch_size, micro_batch_size });
    WindowBatches::new(&windows, WindowOrder::new(4, 0), size, &small(2), &pico::device()).map(|_| ())
}

#[test]
fn a_batch_is_a_whole_number_of_micro_batches() {
    for (batch_size, micro_batch_size) in [(4, 3), (4, 8), (0, 1), (4, 0), (0, 0)] {
        let expected = TrainError::UnevenBatch { batch_size, micro_batch_size };
        assert_eq!(batched(16, batch_size, micro_batch_size), Err(expected));
    }
    let message = "batch_size 4 is not a positive multiple of micro_batch_size 3";
    assert_eq!(batched(16, 4, 3).unwrap_err().to_string(), message);
}

#[test]
fn windows_are_not_longer_than_the_context_of_the_model() {
    assert_eq!(batched(32, 4, 4), Ok(()));
    let too_long = TrainError::WindowTooLong { seq_length: 33, max_position_embeddings: 32 };
    assert_eq!(batched(33, 4, 4), Err(too_long));
}

#[test]
#[should_panic(expected = "training needs a device that records gradients")]
fn a_device_that_records_no_gradients_is_refused() {
    let model = load(&dense(), &pico::device());
    let _ = Trainer::new(model, NextToken::default(), AdamW::new(SETTINGS.optimizer), SETTINGS.train);
}
