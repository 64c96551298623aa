//! Golden models on every device that is compiled in and present compute what they do on Flex: logits, routing, losses,
//! gradients, ten updates.

use std::path::PathBuf;

use burn::tensor::{DType, Device};
use deepwide::data::Example;
use deepwide::device::{compiled_devices, device};
use deepwide::formats::HfDirectory;
use deepwide::load::Precision;
use deepwide::model::{AnyDecoder, CausalLm, KvCache};
use deepwide::train::{
    AdamW, AdamWConfig, Decay, NextToken, NextTokenBatch, RouterLoss, Schedule, Targets, TrainConfig, Trainer,
};
use deepwide::weights::{Dtype, MemoryWeights, TensorId, WeightSource};

use crate::models::{gradients, load, next_token_losses, relative, rows, tokens, values};
use crate::pico;

const TOLERANCE: f64 = 1e-4;
/// The same of logits and losses with products in bfloat16, whose numbers have 8 bits; Flex rounds the weights only.
const TOLERANCE_OF_BFLOAT16: f64 = 4e-2;
/// Models, and how far gradients under PyTorch's autocast (2.9, CPU) are from those in float32, by the same measure.
const MIXED: [(&str, f64); 3] = [("llama_gradients", 0.060), ("mistral_window", 0.059), ("mixtral_gradients", 0.101)];
const MODELS: [&str; 10] = [
    "llama_gqa_tied",
    "llama_gradients",
    "llama_head_dim",
    "llama_llama3_rope",
    "llama_mha",
    "mistral_full",
    "mistral_window",
    "mixtral_4x1",
    "mixtral_5x3_window",
    "mixtral_gradients",
];

/// Those that can be opened, but Flex.
fn others() -> Vec<(String, Device)> {
    let names = compiled_devices().into_iter().map(|name| name.trim_end_matches("[:N]").to_owned());
    let opened = names.filter(|name| name != "flex").filter_map(|name| match device(&name) {
        Ok(device) => Some((name, device)),
        Err(error) => {
            assert!(!["ndarray", "tch:cpu"].contains(&name.as_str()), "every machine has {name}: {error}");
            eprintln!("not compared: {error}");
            None
        }
    });
    opened.collect()
}

fn golden(name: &str) -> HfDirectory {
    HfDirectory::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).expect("a checkpoint")
}

fn texts(vocab_size: usize) -> Vec<Vec<u32>> {
    let ids = |salt: usize| (0..21).map(move |at| ((at * at * 7 + at * 3 + salt * 11) % vocab_size) as u32).collect();
    (0..3).map(ids).collect()
}

#[test]
fn logits_and_routing_are_those_of_flex() {
    for (device_name, device) in others() {
        for name in MODELS {
            let checkpoint = golden(name);
            let texts = texts(checkpoint.config().vocab_size);
            let run = |device: &Device| {
                let model: AnyDecoder = load(&checkpoint, device);
                let output = model.forward(tokens(&texts, device));
                let experts = output
                    .routing
                    .iter()
                    .flat_map(|layer| layer.experts.clone().into_data().iter::<i64>().collect::<Vec<_>>());
                (rows(output.logits).mapv(|x| x as f32).into_raw_vec_and_offset().0, experts.collect::<Vec<_>>())
            };
            let ((found, found_experts), (expected, expected_experts)) = (run(&device), run(&pico::device()));
            let distance = relative(&found, &expected);
            assert!(distance <= TOLERANCE, "{name} on {device_name}: {distance:e}");
            assert_eq!(found_experts, expected_experts, "{name} on {device_name}");
        }
    }
}

/// The largest difference of any weight, relative to the largest number in it.
fn worst(found: &MemoryWeights, expected: &MemoryWeights) -> (TensorId, f64) {
    let ids = TensorId::all(expected.config()).into_iter();
    let distances = ids.map(|id| (id, relative(&values(found, id), &values(expected, id))));
    distances.max_by(|a, b| a.1.total_cmp(&b.1)).expect("weights")
}

#[test]
fn losses_and_gradients_are_those_of_flex() {
    for (device_name, device) in others() {
        for name in MODELS {
            let checkpoint = golden(name);
            let texts = texts(checkpoint.config().vocab_size);
            let run = |device: Device| {
                let device = device.autodiff();
                let model: AnyDecoder = load(&checkpoint, &device);
                let (loss, _) = next_token_losses(&model, &texts, &device);
                (loss.clone().into_scalar::<f32>(), gradients(&model, loss))
            };
            let ((found_loss, found), (loss, expected)) = (run(device.clone()), run(pico::device()));
            assert!(f64::from((found_loss - loss).abs()) <= TOLERANCE, "{name} on {device_name}: {found_loss} {loss}");
            let (id, distance) = worst(&found, &expected);
            assert!(distance <= TOLERANCE, "{name} on {device_name}: {id:?} {distance:e}");
        }
    }
}

#[test]
fn losses_and_gradients_in_mixed_precision_are_those_of_flex_within_their_rounding() {
    for (device_name, device) in others().into_iter().filter(|(_, device)| device.supports_dtype(DType::BF16)) {
        for (name, of_autocast) in MIXED {
            let checkpoint = golden(name);
            let texts = texts(checkpoint.config().vocab_size);
            let run = |device: Device| {
                let device = device.autodiff();
                let model = AnyDecoder::load_as(&checkpoint, Precision::Mixed, &device).expect("a checkpoint");
                let (loss, _) = next_token_losses(&model, &texts, &device);
                (loss.clone().into_scalar::<f32>(), gradients(&model, loss))
            };
            let ((found_loss, found), (loss, expected)) = (run(device.clone()), run(pico::device()));
            let distance = f64::from((found_loss - loss).abs() / loss);
            assert!(distance <= TOLERANCE_OF_BFLOAT16, "{name} on {device_name}: {found_loss} {loss}");
            let (id, distance) = worst(&found, &expected);
            eprintln!("{name} on {device_name}: {found_loss} {loss}, gradients within {distance:e}");
            assert!(distance <= 1.5 * of_autocast, "{name} on {device_name}: {id:?} {distance:e}");
        }
    }
}

#[test]
fn decoding_in_bfloat16_gives_the_logits_of_flex_within_their_rounding() {
    for (device_name, device) in others().into_iter().filter(|(_, device)| device.supports_dtype(DType::BF16)) {
        for name in ["llama_gqa_tied", "mistral_window", "mixtral_gradients"] {
            let checkpoint = golden(name);
            let texts = texts(checkpoint.config().vocab_size);
            let run = |device: &Device| {
                let model = AnyDecoder::load_as(&checkpoint, Dtype::Bfloat16, device).expect("a checkpoint");
                // A prompt, a fork of its cache, and tokens one at a time.
                let (ids, mut prompt) = (tokens(&texts, device), KvCache::new(model.config(), 3, 9, device));
                model.hidden_states(ids.clone().narrow(1, 0, 9), Some(&mut prompt));
                let mut cache = prompt.gather(&[0, 1, 2], 21);
                let logits = (9..21).map(|at| {
                    let hidden = model.hidden_states(ids.clone().narrow(1, at, 1), Some(&mut cache)).last;
                    rows(model.lm_head(hidden)).mapv(|x| x as f32).into_raw_vec_and_offset().0
                });
                logits.collect::<Vec<_>>().concat()
            };
            let distance = relative(&run(&device), &run(&pico::device()));
            eprintln!("{name} on {device_name}: logits within {distance:e}");
            assert!(distance <= TOLERANCE_OF_BFLOAT16, "{name} on {device_name}: {distance:e}");
        }
    }
}

#[test]
fn ten_updates_are_those_of_flex() {
    const NUM_STEPS: usize = 10;
    for (device_name, device) in others() {
        for name in ["llama_gradients", "mixtral_gradients"] {
            let checkpoint = golden(name);
            let texts = texts(checkpoint.config().vocab_size);
            let run = |device: Device| {
                let device = device.autodiff();
                let schedule = Schedule {
                    peak: 2e-3,
                    warmup_steps: 2,
                    num_steps: NUM_STEPS,
                    final_fraction: 0.1,
                    decay: Decay::Linear,
                };
                let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
                let objective = NextToken { router: RouterLoss { aux_loss_coef: Some(0.02), z_loss_coef: 0.0 } };
                let config = TrainConfig { schedule, max_grad_norm: 1.0 };
                let mut trainer = Trainer::new(load(&checkpoint, &device), objective, AdamW::new(adamw), config);
                let documents: Vec<Example> =
                    texts.iter().map(|ids| Example { ids: ids.clone(), trained: vec![true; ids.len()] }).collect();
                let packed = [documents[..2].iter().collect::<Vec<_>>(), documents[2..].iter().collect()];
                let losses: Vec<f32> = (0..NUM_STEPS)
                    .map(|_| {
                        let (inputs, targets) = Targets::packed(&packed, &device);
                        trainer.step(&[NextTokenBatch { inputs, targets }]).log.loss_nats as f32
                    })
                    .collect();
                (losses, trainer.into_model().to_weights())
            };
            let ((found_losses, found), (losses, expected)) = (run(device.clone()), run(pico::device()));
            assert!(
                relative(&found_losses, &losses) <= TOLERANCE,
                "{name} on {device_name}: {found_losses:?} {losses:?}"
            );
            let (id, distance) = worst(&found, &expected);
            assert!(distance <= TOLERANCE, "{name} on {device_name}: {id:?} {distance:e}");
        }
    }
}
