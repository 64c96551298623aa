//! Pretraining on the built-in language, whose entropy is known: no model beats it, and training comes near it.

use std::path::Path;

use deepwide::config::DecoderConfig;
use deepwide::data::language::{Language, Split};
use deepwide::data::{WindowOrder, Windows};
use deepwide::eval::mean_loss_nats;
use deepwide::formats::HfDirectory;
use deepwide::model::DenseDecoder;
use deepwide::train::{AdamW, AdamWConfig, BatchSize, Decay, NextToken, Schedule, TrainConfig, Trainer, WindowBatches};
use deepwide::weights::MemoryWeights;

use crate::pico;

/// Nats by which the built-in base is above the entropy of its language; `docs/training.md` states it.
const GAP_NATS: f64 = 0.55;
/// Nats by which the mean over fewer windows than those of the record may differ from it.
const SAMPLING_NATS: f64 = 0.05;

fn windows(split: Split, seq_length: usize, count: usize) -> Windows {
    let documents = (0..).map(move |index| Language::builtin().document(split, index));
    Windows::aligned(documents, seq_length, count).unwrap()
}

#[test]
fn the_built_in_base_is_as_near_to_the_entropy_of_its_language_as_its_record_says() {
    let heldout = windows(Split::HeldOut, 128, 64);
    let floor = heldout.floor_nats().expect("a language that knows its probabilities");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/pico_base");
    let base = DenseDecoder::load(&HfDirectory::open(&path).unwrap(), &pico::device()).unwrap();
    let gap = mean_loss_nats(&base, &heldout, 16, &pico::device()) - floor;
    assert!((gap - GAP_NATS).abs() < SAMPLING_NATS, "{gap} nats above the floor of {floor}");
    let docs = include_str!("../docs/training.md");
    assert!(docs.contains(&format!("{GAP_NATS} nats above")), "docs/training.md states another gap");
}

/// Held-out loss above the entropy of the language, before and after a short training from scratch.
fn gaps(peak: f64) -> [f64; 2] {
    const NUM_STEPS: usize = 60;
    const BATCH_SIZE: usize = 8;
    let device = pico::device().autodiff();
    let config = DecoderConfig::pico().with(|fields| fields.num_hidden_layers = 2).unwrap();
    let (train, heldout) = (windows(Split::Train, 64, NUM_STEPS * BATCH_SIZE), windows(Split::HeldOut, 64, 32));
    let size = BatchSize { batch_size: BATCH_SIZE, micro_batch_size: BATCH_SIZE };
    let batches = WindowBatches::new(&train, WindowOrder::new(train.len(), 1), size, &config, &device).unwrap();
    let loss =
        |model: &DenseDecoder| mean_loss_nats(model, &heldout, 16, &pico::device()) - heldout.floor_nats().unwrap();
    let untrained = DenseDecoder::load(&MemoryWeights::untrained(config.clone(), 0.02, 1), &pico::device()).unwrap();
    let model = DenseDecoder::load(&MemoryWeights::untrained(config, 0.02, 1), &device).unwrap();
    let schedule =
        Schedule { peak, warmup_steps: 10, num_steps: NUM_STEPS, final_fraction: 1.0, decay: Decay::Constant };
    let config = TrainConfig { schedule, max_grad_norm: 1.0 };
    let mut trainer = Trainer::new(model, NextToken::default(), AdamW::new(AdamWConfig::default()), config);
    (0..NUM_STEPS).for_each(|step| drop(trainer.step(&batches.of_step(step))));
    let trained = DenseDecoder::load(&trainer.into_model().to_weights(), &pico::device()).unwrap();
    [loss(&untrained), loss(&trained)]
}

#[test]
fn training_from_scratch_closes_half_of_the_gap_to_the_entropy_in_sixty_updates() {
    let [before, after] = gaps(3e-3);
    assert!(after > 0.0 && after < 0.5 * before, "{before} nats above the floor before, {after} after");
    let [before, after] = gaps(0.0);
    assert!((before - after).abs() < 1e-6, "a learning rate of 0: {before} before, {after} after");
}
