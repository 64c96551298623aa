//! Layers that are computed again for their gradients train to the bit as layers that keep their activations.

use burn::tensor::Device;
use deepwide::config::DecoderConfig;
use deepwide::data::Example;
use deepwide::growth::{Grown, GrowthPlan, UpcyclePlan};
use deepwide::load::Precision;
use deepwide::lora::LoraConfig;
use deepwide::model::AnyDecoder;
use deepwide::train::{
    AdamW, AdamWConfig, Decay, NextToken, NextTokenBatch, ParamGroups, RouterLoss, Schedule, Targets, TrainConfig,
    Trainer,
};
use deepwide::weights::{MemoryWeights, TensorId, WeightSource};

use crate::pico;

fn dense() -> MemoryWeights {
    let sizes = DecoderConfig::pico().with(|f| {
        (f.vocab_size, f.hidden_size, f.intermediate_size, f.num_hidden_layers) = (40, 24, 32, 3);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
        f.max_position_embeddings = 32;
    });
    MemoryWeights::untrained(sizes.expect("a small Llama"), 0.2, 1)
}

fn sparse(num_experts_per_tok: usize) -> impl WeightSource {
    Grown::new(dense(), GrowthPlan::Upcycle(UpcyclePlan::new(4, num_experts_per_tok))).expect("an upcycle")
}

/// Two packed rows of unequal length.
fn batch(step: usize, device: &Device) -> NextTokenBatch {
    let document = |len: usize, salt: usize| {
        Example::trained_whole((0..len).map(|at| ((at * at * 7 + salt * 11 + step) % 40) as u32).collect())
    };
    let (inputs, targets) = Targets::packed(&[vec![document(9, 1), document(5, 2)], vec![document(11, 3)]], device);
    NextTokenBatch { inputs, targets }
}

/// Losses of three updates, and the bits of all weights behind them.
fn trained(model: AnyDecoder, router: RouterLoss, device: &Device) -> (Vec<f64>, Vec<Vec<u8>>) {
    let schedule = Schedule { peak: 1e-2, warmup_steps: 0, num_steps: 3, final_fraction: 1.0, decay: Decay::Constant };
    let config = TrainConfig { schedule, max_grad_norm: 1.0 };
    let mut trainer = Trainer::new(model, NextToken { router }, AdamW::new(AdamWConfig::default()), config);
    let losses = (0..3).map(|step| trainer.step(&[batch(step, device), batch(step + 7, device)]).loss).collect();
    let weights = trainer.into_model().to_weights();
    let ids = TensorId::all(weights.config());
    (losses, ids.into_iter().map(|id| weights.read(id).expect("in memory").bytes().to_vec()).collect())
}

fn is_the_same(model: impl Fn() -> AnyDecoder, router: RouterLoss, what: &str) {
    let device = pico::device().autodiff();
    let kept = trained(model(), router, &device);
    let recomputed = trained(model().with_gradient_checkpointing(true), router, &device);
    assert_eq!(kept.0, recomputed.0, "losses of {what}");
    assert!(kept.1 == recomputed.1, "weights of {what}");
    let before = model().to_weights();
    let is_changed = TensorId::all(before.config())
        .into_iter()
        .zip(&recomputed.1)
        .any(|(id, after)| id.to_string().contains("layers.0") && before.read(id).unwrap().bytes() != *after);
    assert!(is_changed, "nothing in the first layer of {what} was trained");
}

const NONE: RouterLoss = RouterLoss { aux_loss_coef: Some(0.0), z_loss_coef: 0.0 };
const BALANCE: RouterLoss = RouterLoss { aux_loss_coef: Some(0.5), z_loss_coef: 0.0 };

#[test]
fn dense_and_sparse_layers_train_the_same_when_computed_again() {
    let device = pico::device().autodiff();
    is_the_same(|| AnyDecoder::load(&dense(), &device).unwrap(), NONE, "a dense model");
    for k in [1, 2] {
        is_the_same(|| AnyDecoder::load(&sparse(k), &device).unwrap(), NONE, "a mixture");
        is_the_same(|| AnyDecoder::load(&sparse(k), &device).unwrap(), BALANCE, "a mixture with a balancing loss");
    }
}

#[test]
fn adapters_train_the_same_though_the_first_input_has_no_gradient() {
    let device = pico::device().autodiff();
    let lora = || LoraConfig { r: 2, ..LoraConfig::default() };
    is_the_same(|| AnyDecoder::load(&dense(), &device).unwrap().with_lora(lora(), 1).unwrap(), NONE, "an adapter");
    let sparse = || AnyDecoder::load(&sparse(2), &device).unwrap().with_lora(lora(), 1).unwrap();
    is_the_same(sparse, BALANCE, "an adapter of a mixture");
}

#[test]
fn mixed_precision_and_frozen_layers_train_the_same() {
    let device = pico::device().autodiff();
    is_the_same(|| AnyDecoder::load_as(&dense(), Precision::Mixed, &device).unwrap(), NONE, "mixed precision");
    let mut groups = ParamGroups::default();
    groups.push(regex::Regex::new("embed|layers\\.1").unwrap(), 0.0);
    is_the_same(|| groups.freeze(AnyDecoder::load(&dense(), &device).unwrap()), NONE, "a frozen layer");
}
