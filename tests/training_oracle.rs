//! Twenty updates equal those of PyTorch, from the same weights and documents: losses to 1e-5, weights to 1e-4.

use std::path::PathBuf;

use burn::tensor::Device;
use deepwide::data::Example;
use deepwide::formats::HfDirectory;
use deepwide::model::AnyDecoder;
use deepwide::train::{
    AdamW, AdamWConfig, Decay, Dpo, DpoLoss, NextToken, NextTokenBatch, Objective, PairBatch, RouterLoss, Schedule,
    StepLog, Targets, TrainConfig, Trainer,
};
use deepwide::weights::{MemoryWeights, TensorId, WeightSource};
use safetensors::SafeTensors;

use crate::models::values;
use crate::pico;

const NUM_STEPS: usize = 20;
/// Largest difference of two losses.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Largest difference of two weights.
const WEIGHT_TOLERANCE: f32 = 1e-4;
const ROUTER: RouterLoss = RouterLoss { aux_loss_coef: Some(0.02), z_loss_coef: 0.0 };

/// A model with what PyTorch made of it; `tests/golden/make_training_golden.py` wrote both.
struct Golden {
    folder: PathBuf,
    checkpoint: HfDirectory,
    vocab_size: usize,
}

impl Golden {
    fn all() -> [Self; 2] {
        ["llama_gradients", "mixtral_gradients"].map(|name| {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
            let checkpoint = HfDirectory::open(&folder).expect("a checkpoint");
            let vocab_size = checkpoint.config().vocab_size;
            Self { folder, checkpoint, vocab_size }
        })
    }

    fn model(&self, device: &Device) -> AnyDecoder {
        AnyDecoder::load(&self.checkpoint, device).expect("weights")
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        let bytes = std::fs::read(self.folder.join("training.safetensors")).expect("training.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let data = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        data.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// The largest differences of losses and of final weights from those under `prefix`.
    fn distance(&self, prefix: &str, losses: &[f64], weights: &MemoryWeights) -> (f64, f32) {
        let expected = self.numbers(&format!("{prefix}.losses"));
        assert_eq!(losses.len(), expected.len());
        let loss = losses.iter().zip(&expected).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
        let weight = TensorId::all(weights.config()).into_iter().flat_map(|id| {
            let expected = self.numbers(&format!("{prefix}.{id}"));
            let found = values(weights, id);
            assert_eq!(found.len(), expected.len(), "{id}");
            found.into_iter().zip(expected).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
        });
        (loss, weight.fold(0.0, f32::max))
    }
}

fn ids(len: usize, salt: usize, vocab_size: usize) -> Vec<u32> {
    (0..len).map(|at| ((at * at * 7 + at * 3 + salt * 11) % vocab_size) as u32).collect()
}

/// The documents of an update.
fn documents(step: usize, vocab_size: usize) -> Vec<Example> {
    let marks: [fn(usize) -> bool; 3] = [|_| true, |at| at >= 5, |at| at % 2 == 1];
    let lens = [9 + step % 4, 12, 7 + step % 3];
    let document = |i: usize| Example {
        ids: ids(lens[i], step * 3 + i, vocab_size),
        trained: (0..lens[i]).map(marks[i]).collect(),
    };
    (0..3).map(document).collect()
}

/// The update's documents, two of them packed into one row.
fn batch(step: usize, vocab_size: usize, device: &Device) -> NextTokenBatch {
    let documents = documents(step, vocab_size);
    let [a, b, c] = &documents[..] else { panic!("three documents") };
    let (inputs, targets) = Targets::packed(&[vec![a, b], vec![c]], device);
    NextTokenBatch { inputs, targets }
}

/// The pairs of an update.
fn pairs(step: usize, vocab_size: usize, device: &Device) -> PairBatch {
    let side = |prompt: &[u32], completion: Vec<u32>| {
        let trained = (0..prompt.len() + completion.len()).map(|at| at >= prompt.len()).collect();
        Example { ids: [prompt, &completion].concat(), trained }
    };
    let pair = |i: usize| {
        let prompt = ids(4 + i, step + i, vocab_size);
        let chosen = side(&prompt, ids(5 + step % 3, step * 5 + i + 1, vocab_size));
        (chosen, side(&prompt, ids(3 + i, step * 7 + i + 2, vocab_size)))
    };
    let pairs = [pair(0), pair(1)];
    PairBatch::new(&pairs.each_ref().map(|(chosen, rejected)| [chosen, rejected]), device)
}

fn train<O: Objective<AnyDecoder>>(
    model: AnyDecoder,
    objective: O,
    mut batch: impl FnMut(usize) -> O::Batch,
    loss: impl Fn(&StepLog<O::Log>) -> f64,
) -> (Vec<f64>, MemoryWeights) {
    let schedule =
        Schedule { peak: 2e-3, warmup_steps: 4, num_steps: NUM_STEPS, final_fraction: 0.0, decay: Decay::Linear };
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
    let config = TrainConfig { schedule, max_grad_norm: 1.0 };
    let mut trainer = Trainer::new(model, objective, AdamW::new(adamw), config);
    let losses = (0..NUM_STEPS).map(|step| loss(&trainer.step(&[batch(step)]))).collect();
    (losses, trainer.into_model().to_weights())
}

#[test]
fn language_modeling_on_packed_rows_equals_pytorch_on_documents() {
    let device = pico::device().autodiff();
    for golden in Golden::all() {
        let run = |router| {
            let batch = |step| batch(step, golden.vocab_size, &device);
            let (losses, weights) = train(golden.model(&device), NextToken { router }, batch, |log| log.log.loss_nats);
            golden.distance("lm", &losses, &weights)
        };
        let (loss, weight) = run(ROUTER);
        assert!(loss <= LOSS_TOLERANCE && weight <= WEIGHT_TOLERANCE, "{:?}: {loss:e} {weight:e}", golden.folder);
        if golden.checkpoint.config().moe.is_some() {
            let (_, weight) = run(RouterLoss { aux_loss_coef: Some(0.0), ..ROUTER });
            assert!(weight > WEIGHT_TOLERANCE, "a missing balancing loss goes unnoticed: {weight:e}");
        }
    }
}

#[test]
fn dpo_equals_pytorch() {
    let device = pico::device().autodiff();
    for golden in Golden::all() {
        let reference = golden.model(&pico::device());
        let run = |beta| {
            let objective = Dpo { loss: DpoLoss::Sigmoid, beta, label_smoothing: 0.0, router: ROUTER };
            let with_reference = |step| {
                let logps = pairs(step, golden.vocab_size, &pico::device()).log_probabilities(&reference).0;
                pairs(step, golden.vocab_size, &device).with_reference(logps.into_data().iter::<f32>().collect())
            };
            let (losses, weights) = train(golden.model(&device), objective, with_reference, |log| log.log.loss);
            golden.distance("dpo", &losses, &weights)
        };
        let (loss, weight) = run(0.1);
        assert!(loss <= LOSS_TOLERANCE && weight <= WEIGHT_TOLERANCE, "{:?}: {loss:e} {weight:e}", golden.folder);
        assert!(run(0.2).0 > 100.0 * LOSS_TOLERANCE, "another beta goes unnoticed");
    }
}

#[test]
fn other_losses_of_pairs_equal_trl() {
    let device = pico::device().autodiff();
    for golden in Golden::all() {
        let reference = golden.model(&pico::device());
        let losses = |loss, label_smoothing| {
            let objective = Dpo { loss, beta: 0.1, label_smoothing, router: ROUTER };
            let with_reference = |step| {
                let logps = pairs(step, golden.vocab_size, &pico::device()).log_probabilities(&reference).0;
                let logps = logps.into_data().iter::<f32>().collect();
                pairs(step, golden.vocab_size, &device).with_reference(logps)
            };
            train(golden.model(&device), objective, with_reference, |log| log.log.loss).0
        };
        for (name, loss, label_smoothing) in
            [("ipo", DpoLoss::Ipo, 0.0), ("hinge", DpoLoss::Hinge, 0.0), ("robust", DpoLoss::Robust, 0.2)]
        {
            let expected = golden.numbers(&format!("{name}.losses"));
            let found = losses(loss, label_smoothing);
            assert_eq!(found.len(), expected.len());
            let off = |(found, expected): (&f64, &f32)| (found - f64::from(*expected)).abs() / f64::from(*expected);
            let distance = found.iter().zip(&expected).map(off).fold(0.0, f64::max);
            assert!(distance <= 2.0 * LOSS_TOLERANCE, "{:?}, {name}: {distance:e}", golden.folder);
        }
        let smoothed = losses(DpoLoss::Sigmoid, 0.2);
        let expected = golden.numbers("robust.losses");
        assert!((smoothed[10] - f64::from(expected[10])).abs() > 1e-3, "another loss goes unnoticed");
    }
}

#[test]
fn a_packed_batch_has_the_loss_of_its_documents_one_by_one() {
    let device = pico::device();
    for golden in Golden::all() {
        let model = golden.model(&device);
        let objective = NextToken { router: RouterLoss { aux_loss_coef: Some(0.0), z_loss_coef: 0.0 } };
        let loss = |batch: &NextTokenBatch| objective.loss(&model, batch).1.loss_nats;
        let whole = batch(0, golden.vocab_size, &device);
        let alone: Vec<(f64, usize)> = documents(0, golden.vocab_size)
            .iter()
            .map(|document| {
                let (inputs, targets) = Targets::packed(&[[document]], &device);
                let batch = NextTokenBatch { inputs, targets };
                (loss(&batch), batch.targets.len())
            })
            .collect();
        let num_targets: usize = alone.iter().map(|(_, len)| len).sum();
        assert_eq!(num_targets, whole.targets.len());
        let expected = alone.iter().map(|(loss, len)| loss * *len as f64).sum::<f64>() / num_targets as f64;
        assert!((loss(&whole) - expected).abs() <= 1e-6 * expected, "{} {expected}", loss(&whole));
    }
}
