//! Counted from the config, counted by walking the model, counted while it runs: three ways to one number.

use deepwide::config::DecoderConfig;
use deepwide::growth::{Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::model::{AnyDecoder, CausalLm, KvCache};
use deepwide::profile::flops::{count_parameters, forward_flops, forward_flops_cached};
use deepwide::trace::executed_flops;
use deepwide::weights::WeightSource;
use proptest::prelude::*;

use crate::models::{load, parameters, tokens};
use crate::pico;

/// `batch_size` texts of `seq_length` tokens.
fn texts(config: &DecoderConfig, batch_size: usize, seq_length: usize) -> Vec<Vec<u32>> {
    let text = |first: usize| (first..first + seq_length).map(|id| (id % config.vocab_size) as u32).collect();
    (0..batch_size).map(text).collect()
}

/// What a forward pass multiplies.
fn forward(model: &AnyDecoder, batch_size: usize, seq_length: usize) -> u128 {
    let ids = tokens(&texts(model.config(), batch_size, seq_length), &pico::device());
    u128::from(executed_flops(|| model.forward(ids)).1)
}

/// What the last of two pieces of a text multiplies.
fn cached(model: &AnyDecoder, batch_size: usize, past: usize, new: usize) -> u128 {
    let device = pico::device();
    let mut cache = KvCache::new(model.config(), batch_size, past + new, &device);
    if past > 0 {
        model.hidden_states(tokens(&texts(model.config(), batch_size, past), &device), Some(&mut cache));
    }
    let ids = tokens(&texts(model.config(), batch_size, new), &device);
    u128::from(executed_flops(|| model.lm_head(model.hidden_states(ids, Some(&mut cache)).last)).1)
}

fn walked(model: &AnyDecoder) -> u64 {
    parameters(model).iter().map(|parameter| parameter.len as u64).sum()
}

proptest! {
    #![proptest_config(pico::cases(256))]

    #[test]
    fn a_forward_pass_executes_the_operations_that_its_config_counts(
        config in pico::decoders(),
        batch_size in 1usize..=3,
        seq_length in 1usize..=20,
    ) {
        let model = load(&pico::random_weights(&config, 1), &pico::device());
        let counted = forward_flops(&config, batch_size as u64, seq_length as u64);
        prop_assert_eq!(forward(&model, batch_size, seq_length), counted);
    }

    #[test]
    fn decoding_executes_the_operations_that_its_config_counts(
        config in pico::decoders(),
        batch_size in 1usize..=3,
        (past, new) in (0usize..=12, 1usize..=6),
    ) {
        let model = load(&pico::random_weights(&config, 2), &pico::device());
        let counted = batch_size as u128 * forward_flops_cached(&config, past as u64, new as u64);
        prop_assert_eq!(cached(&model, batch_size, past, new), counted);
    }

    #[test]
    fn a_model_holds_the_parameters_that_its_config_counts(config in pico::decoders()) {
        let model = load(&pico::random_weights(&config, 3), &pico::device());
        prop_assert_eq!(walked(&model), count_parameters(&config).total);
    }
}

#[test]
fn a_grown_model_holds_and_executes_what_the_config_of_its_plan_counts() {
    let config = DecoderConfig::pico();
    let deep = GrowthPlan::Splice(LayerPlan::depth_up_scaling(8, 3).expect("an overlap"));
    let deep = Grown::new(pico::random_weights(&config, 4), deep).expect("a plan for eight layers");
    let wide = Grown::new(&deep, GrowthPlan::Upcycle(UpcyclePlan::new(5, 2))).expect("a plan for a dense source");
    let check = |model: AnyDecoder, config: &DecoderConfig| {
        assert_eq!(walked(&model), count_parameters(config).total);
        assert_eq!(forward(&model, 2, 33), forward_flops(config, 2, 33));
        assert_eq!(cached(&model, 2, 33, 1), 2 * forward_flops_cached(config, 33, 1));
    };
    check(load(&deep, &pico::device()), deep.config());
    check(load(&wide, &pico::device()), wide.config());
}

#[test]
fn a_window_an_expert_and_a_layer_more_would_be_noticed() {
    let moe = UpcyclePlan::new(4, 2);
    let base = Grown::new(pico::random_weights(&DecoderConfig::pico(), 5), GrowthPlan::Upcycle(moe)).expect("a plan");
    let executed = forward(&load(&base, &pico::device()), 1, 12);
    assert_eq!(executed, forward_flops(base.config(), 1, 12));
    let others = [
        base.config().with(|f| f.sliding_window = Some(11)),
        base.config().with(|f| f.moe.as_mut().expect("experts").num_experts_per_tok = 3),
        base.config().with(|f| f.moe.as_mut().expect("experts").num_local_experts = 5),
        base.config().with(|f| f.num_hidden_layers += 1),
    ];
    for other in others {
        assert_ne!(executed, forward_flops(&other.expect("a small Mixtral"), 1, 12));
    }
}
