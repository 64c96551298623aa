//! What growth promises of the models that are loaded from it: what they compute, and how they learn.

use std::collections::HashSet;

use burn::optim::GradientsParams;
use deepwide::config::DecoderConfig;
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, RouterInit, UpcyclePlan};
use deepwide::model::{AnyDecoder, CausalLm, Routing};
use deepwide::train::{AdamW, AdamWConfig, load_balancing_loss};
use deepwide::weights::{LayerTensor, MemoryWeights, Projection, TensorId, WeightSource};
use proptest::prelude::*;

use crate::models::{
    all_bytes, bits, gradients, load, logits, next_token_losses, norm, parameters, relative, rows, tokens, values,
};
use crate::oracle::{Gate, Oracle, relative_distance};
use crate::pico;

const TEXT: [u32; 10] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 10];

fn grown<S: WeightSource>(source: S, plan: GrowthPlan) -> Grown<S> {
    Grown::new(source, plan).expect("a plan for this source")
}

fn depth_up_scaled<S: WeightSource>(source: S, overlap: usize) -> Grown<S> {
    let plan = LayerPlan::depth_up_scaling(source.config().num_hidden_layers, overlap);
    grown(source, GrowthPlan::Splice(plan.expect("an overlap")))
}

fn upcycled<S: WeightSource>(source: S, plan: UpcyclePlan) -> Grown<S> {
    grown(source, GrowthPlan::Upcycle(plan))
}

fn on_cpu(source: &impl WeightSource) -> AnyDecoder {
    load(source, &pico::device())
}

/// Dense weights, small to print.
#[derive(Debug, Clone)]
struct Base {
    config: DecoderConfig,
    seed: u64,
}

impl Base {
    fn weights(&self) -> MemoryWeights {
        pico::random_weights(&self.config, self.seed)
    }
}

fn bases() -> impl Strategy<Value = Base> {
    (pico::dense_decoders(), any::<u64>()).prop_map(|(config, seed)| Base { config, seed })
}

/// Dense weights of a decoder of a given depth.
fn bases_of(num_layers: impl Strategy<Value = usize>) -> impl Strategy<Value = Base> {
    (bases(), num_layers).prop_map(|(Base { config, seed }, num_layers)| {
        let config = config.with(|f| f.num_hidden_layers = num_layers).expect("a depth");
        Base { config, seed }
    })
}

/// Dense weights and an overlap that makes them deeper, or shallower.
fn bases_with_overlap() -> impl Strategy<Value = (Base, usize)> {
    bases().prop_flat_map(|base| {
        let overlaps = 0..base.config.num_hidden_layers;
        (Just(base), overlaps)
    })
}

/// Copies of the MLPs behind routers of every kind, from such as hardly prefer an expert to such as know but one.
fn copies() -> impl Strategy<Value = UpcyclePlan> {
    let experts = (1usize..=8).prop_flat_map(|experts| (Just(experts), 1..=experts));
    let routers = prop_oneof![
        (-3.0f64..=0.0).prop_map(|exponent| RouterInit::Normal { std: 10f64.powf(exponent) }),
        Just(RouterInit::Uniform),
        Just(RouterInit::Zero),
        Just(RouterInit::Orthogonal),
    ];
    (experts, routers, any::<u64>()).prop_map(|((experts, k), router, seed)| UpcyclePlan {
        router,
        seed,
        ..UpcyclePlan::new(experts, k)
    })
}

/// A small Llama with the same weights in every test.
fn small_base(num_layers: usize) -> MemoryWeights {
    let config = DecoderConfig::pico().with(|f| {
        (f.vocab_size, f.hidden_size, f.intermediate_size, f.num_hidden_layers) = (40, 24, 32, num_layers);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
    });
    pico::random_weights(&config.expect("a small Llama"), 5)
}

fn distinct_ids(model: &AnyDecoder) -> usize {
    parameters(model).iter().map(|parameter| parameter.id).collect::<HashSet<_>>().len()
}

proptest! {
    #![proptest_config(pico::cases(256))]

    #[test]
    fn no_two_layers_of_a_depth_up_scaled_model_share_a_parameter((base, overlap) in bases_with_overlap(), wide in copies()) {
        let base = base.weights();
        let deep = depth_up_scaled(&base, overlap);
        let model = on_cpu(&deep);
        prop_assert_eq!(distinct_ids(&model), TensorId::all(deep.config()).len());
        let model = on_cpu(&upcycled(&deep, wide));
        prop_assert_eq!(distinct_ids(&model), parameters(&model).len());
    }

    #[test]
    fn identity_blocks_leave_every_logit_as_it_was(base in bases_of(1..=6usize), choice in any::<usize>()) {
        let base = base.weights();
        let layers = base.config().num_hidden_layers;
        let divisors: Vec<usize> = (1..=layers).filter(|blocks| layers.is_multiple_of(*blocks)).collect();
        let plan = LayerPlan::identity_blocks(layers, divisors[choice % divisors.len()]).expect("a divisor");
        let expanded = on_cpu(&grown(&base, GrowthPlan::Splice(plan.clone())));
        // Adding 0 changes no number but the sign of a zero.
        prop_assert!(logits(&expanded, &[TEXT]) == logits(&on_cpu(&base), &[TEXT]));
        let ranges: Vec<_> = plan.as_slice().iter().map(|&layer| layer..layer + 1).collect();
        let copies = LayerPlan::from_ranges(layers, &ranges).expect("layers of the base");
        let plain = on_cpu(&grown(&base, GrowthPlan::Splice(copies)));
        prop_assert!(logits(&plain, &[TEXT]) != logits(&on_cpu(&base), &[TEXT]), "copies alone would do nothing");
    }

    #[test]
    fn an_upcycled_model_gives_the_logits_of_its_dense_base_whatever_the_router(base in bases(), plan in copies()) {
        let base = base.weights();
        let expected = logits(&on_cpu(&base), &[TEXT]);
        let distance = relative_distance(&logits(&on_cpu(&upcycled(&base, plan)), &[TEXT]), &expected);
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
    }

    #[test]
    fn gates_that_were_not_renormalised_would_not_give_the_logits_of_the_dense_base(base in bases(), plan in copies()) {
        let base = base.weights();
        let plan = UpcyclePlan { router: RouterInit::Normal { std: 0.02 }, ..plan };
        let wide = Oracle { gate: Gate::SoftmaxOverAll, ..Oracle::read(&upcycled(&base, plan)) };
        let distance = relative_distance(&wide.forward(&TEXT).logits, &Oracle::read(&base).forward(&TEXT).logits);
        let notices = distance > 1e-5;
        prop_assert_eq!(notices, plan.num_experts_per_tok < plan.num_local_experts, "{:e}", distance);
    }

    #[test]
    fn half_the_layers_as_overlap_gives_the_logits_of_the_base_to_the_bit(
        base in bases_of((1usize..=3).prop_map(|half| 2 * half))
    ) {
        let base = base.weights();
        let same = depth_up_scaled(&base, base.config().num_hidden_layers / 2);
        let logits = |model: AnyDecoder| bits(model.forward(tokens(&[TEXT], &pico::device())).logits);
        prop_assert_eq!(logits(on_cpu(&same)), logits(on_cpu(&base)));
    }

    /// To the bit of a decoder put together by hand, and in float64 as near as float32 comes after nine layers.
    #[test]
    fn a_spliced_model_runs_the_layers_of_its_base_in_the_order_of_the_plan(
        base in bases_of(2usize..=3),
        ranges in prop::collection::vec((0usize..3, 1usize..=3), 1..=3),
    ) {
        let base = base.weights();
        let num_layers = base.config().num_hidden_layers;
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(start, len)| (start % num_layers, len))
            .map(|(start, len)| start..(start + len).min(num_layers))
            .collect();
        let plan = LayerPlan::from_ranges(num_layers, &ranges).expect("ranges of the base");
        let order = plan.as_slice().to_vec();
        let spliced = on_cpu(&grown(&base, GrowthPlan::Splice(plan)));
        let by_hand = on_cpu(&in_order(&base, &order));
        let ids = || tokens(&[TEXT], &pico::device());
        prop_assert_eq!(bits(spliced.forward(ids()).logits), bits(by_hand.forward(ids()).logits));
        let found = logits(&spliced, &[TEXT]);
        let distance = |order: &[usize]| {
            relative_distance(&found, &Oracle::read(&in_order(&base, order)).forward(&TEXT).logits)
        };
        prop_assert!(distance(&order) <= 1e-4, "{:e} of the largest logit", distance(&order));
        let mut wrong = order.clone();
        wrong[0] = (wrong[0] + 1) % num_layers;
        prop_assert!(distance(&wrong) > 1e-4, "layer {} for {} goes unnoticed", wrong[0], order[0]);
    }

    #[test]
    fn every_token_visits_k_distinct_experts_the_best_first_with_weights_that_sum_to_one(
        (config, seed) in (pico::sparse_decoders(), any::<u64>()),
    ) {
        let moe = config.moe.expect("experts");
        let model = on_cpu(&pico::random_weights(&config, seed));
        for routing in model.forward(tokens(&[TEXT, TEXT], &pico::device())).routing {
            let weights = rows(routing.weights);
            let scores = rows(routing.scores);
            let chosen: Vec<usize> = routing.experts.into_data().iter::<i64>().map(|e| e as usize).collect();
            prop_assert_eq!(chosen.len(), 2 * TEXT.len() * moe.num_experts_per_tok);
            for (token, chosen) in chosen.chunks(moe.num_experts_per_tok).enumerate() {
                let tolerance = (moe.num_experts_per_tok + 1) as f64 * 2f64.powi(-24);
                prop_assert!((weights.row(token).sum() - 1.0).abs() <= tolerance);
                prop_assert!(weights.row(token).iter().all(|weight| (0.0..=1.0).contains(weight)));
                prop_assert_eq!(chosen, expected_choice(&scores.row(token).to_vec(), chosen.len()));
            }
        }
    }
}

/// The `k` best experts, the best first; of equal ones the one of the lowest index.
fn expected_choice(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(k);
    order
}

/// The weights of `base` with its layers put in another order by hand.
fn in_order(base: &MemoryWeights, order: &[usize]) -> MemoryWeights {
    let config = base.config().with(|f| f.num_hidden_layers = order.len()).expect("a depth");
    MemoryWeights::new(config, |id| {
        let source = match id {
            TensorId::Layer(layer, tensor) => TensorId::Layer(order[layer], tensor),
            other => other,
        };
        base.read(source).expect("weights in memory")
    })
}

#[test]
fn equal_scores_choose_the_lowest_experts_of_any_number_for_any_number_of_tokens() {
    let base = small_base(1);
    for num_experts in [1, 2, 3, 5, 8, 16, 33, 64] {
        for k in [1, 2, 3, 8].into_iter().filter(|k| *k <= num_experts) {
            let plan = UpcyclePlan { router: RouterInit::Zero, ..UpcyclePlan::new(num_experts, k) };
            let model = on_cpu(&upcycled(&base, plan));
            for num_texts in [1, 40] {
                let Routing { experts, .. } =
                    model.forward(tokens(&vec![TEXT; num_texts], &pico::device())).routing.remove(0);
                let chosen: Vec<i64> = experts.into_data().iter::<i64>().collect();
                let lowest: Vec<i64> = (0..k as i64).collect();
                assert!(chosen.chunks(k).all(|chosen| chosen == lowest), "{k} of {num_experts}: {:?}", &chosen[..k]);
            }
        }
    }
}

#[test]
fn a_clone_of_a_model_shares_its_parameters_and_the_count_of_ids_shows_it() {
    let model = on_cpu(&small_base(2));
    let both = vec![model.clone(), model];
    let ids: HashSet<_> = parameters(&both).iter().map(|parameter| parameter.id).collect();
    assert_eq!(2 * ids.len(), parameters(&both).len());
}

#[test]
fn a_duplicated_layer_learns_on_its_own_and_its_source_not_at_all() {
    let base = small_base(3);
    let before = all_bytes(&base);
    let device = pico::device().autodiff();
    let source = load(&base, &device);
    let deep = depth_up_scaled(&base, 1);
    let model = load(&deep, &device);
    let (loss, _) = next_token_losses(&model, &[TEXT], &device);
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let model = AdamW::new(AdamWConfig::default()).step(model, grads, 1e-2, 1.0);
    let learned = model.to_weights();
    assert_eq!(deep.config().num_hidden_layers, 4);
    for tensor in LayerTensor::all(base.config()) {
        let layer = |layer| values(&learned, TensorId::Layer(layer, tensor));
        let twin_of = values(&base, TensorId::Layer(1, tensor));
        assert_ne!(layer(1), layer(2), "{tensor:?}: twins learned the same");
        assert_ne!(layer(1), twin_of, "{tensor:?}: the first twin learned nothing");
        assert_ne!(layer(2), twin_of, "{tensor:?}: the second twin learned nothing");
    }
    assert!(all_bytes(&base) == before && all_bytes(&source.to_weights()) == before, "the source learned");
}

/// Copies behind a drawn router, and the gradients of two losses with respect to their weights.
struct Signals {
    language: MemoryWeights,
    balancing: MemoryWeights,
    dense: MemoryWeights,
}

fn signals(base: &MemoryWeights, plan: UpcyclePlan) -> Signals {
    let device = pico::device().autodiff();
    let texts = [TEXT, [7, 7, 0, 39, 21, 4, 8, 15, 16, 23]];
    let dense = load(base, &device);
    let wide = load(&upcycled(base, plan), &device);
    let losses = || next_token_losses(&wide, &texts, &device);
    let (unused, routing) = losses();
    Signals {
        language: gradients(&wide, losses().0),
        balancing: gradients(&wide, unused * 0.0 + load_balancing_loss(&routing, None)),
        dense: gradients(&dense, next_token_losses(&dense, &texts, &device).0),
    }
}

fn router(layer: usize) -> TensorId {
    TensorId::Layer(layer, LayerTensor::Router)
}

#[test]
fn identical_experts_teach_the_router_nothing_but_balance() {
    let base = small_base(2);
    for k in [2, 3] {
        let Signals { language, balancing, dense } = signals(&base, UpcyclePlan::new(4, k));
        let all: Vec<f32> = TensorId::all(base.config()).into_iter().flat_map(|id| values(&dense, id)).collect();
        for layer in 0..2 {
            let from_language = norm(&values(&language, router(layer))) / norm(&all);
            assert!(from_language <= 1e-6, "{k} of 4, layer {layer}: {from_language:e}");
            let from_balance = norm(&values(&balancing, router(layer))) / norm(&all);
            assert!(from_balance > 1e-4, "{k} of 4, layer {layer}: {from_balance:e}");
        }
    }
}

#[test]
fn a_single_expert_per_token_teaches_the_router_even_if_experts_are_identical() {
    let base = small_base(2);
    let Signals { language, dense, .. } = signals(&base, UpcyclePlan::new(4, 1));
    let all: Vec<f32> = TensorId::all(base.config()).into_iter().flat_map(|id| values(&dense, id)).collect();
    for layer in 0..2 {
        assert!(norm(&values(&language, router(layer))) / norm(&all) > 1e-3, "layer {layer}");
    }
}

#[test]
fn experts_that_differ_teach_the_router_and_a_router_that_takes_all_learns_no_balance() {
    let base = small_base(2);
    let init = ExpertInit::Drop { ratio: 0.5 };
    let Signals { language, dense, .. } = signals(&base, UpcyclePlan { init, ..UpcyclePlan::new(4, 2) });
    let all: Vec<f32> = TensorId::all(base.config()).into_iter().flat_map(|id| values(&dense, id)).collect();
    assert!(norm(&values(&language, router(0))) / norm(&all) > 1e-3);
    let Signals { balancing, .. } = signals(&base, UpcyclePlan::new(4, 4));
    assert!(norm(&values(&balancing, router(0))) < 1e-6);
}

#[test]
fn the_gradients_of_identical_experts_add_up_to_that_of_the_dense_mlp_and_all_else_learns_as_in_the_base() {
    let base = small_base(2);
    for (num_experts, k) in [(1, 1), (4, 2), (4, 4), (8, 3)] {
        let Signals { language, dense, .. } = signals(&base, UpcyclePlan::new(num_experts, k));
        for id in TensorId::all(base.config()) {
            let expected = values(&dense, id);
            let found = match id {
                TensorId::Layer(layer, LayerTensor::Mlp(projection)) => {
                    summed(&language, layer, projection, num_experts)
                }
                _ => values(&language, id),
            };
            let off = relative(&found, &expected);
            assert!(off <= 1e-5, "{k} of {num_experts}: {id:?} is off by {off:e}");
        }
        let missing = summed(&language, 0, Projection::Down, num_experts - 1);
        let expected = values(&dense, TensorId::Layer(0, LayerTensor::Mlp(Projection::Down)));
        assert!(relative(&missing, &expected) > 1e-3, "{k} of {num_experts}: a missing expert goes unnoticed");
    }
}

/// The sum of the gradients of the first experts of a layer.
fn summed(gradients: &MemoryWeights, layer: usize, projection: Projection, num_experts: usize) -> Vec<f32> {
    let mut sum = values(gradients, TensorId::Layer(layer, LayerTensor::Expert(0, projection)));
    if num_experts == 0 {
        sum.fill(0.0);
    }
    for expert in 1..num_experts {
        let more = values(gradients, TensorId::Layer(layer, LayerTensor::Expert(expert, projection)));
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    sum
}

#[test]
fn deep_then_wide_wide_then_deep_and_deep_alone_give_the_same_logits() {
    let base = small_base(3);
    let deep = depth_up_scaled(&base, 1);
    let expected = logits(&on_cpu(&deep), &[TEXT]);
    let plan = UpcyclePlan::new(4, 2);
    let deep_then_wide = on_cpu(&upcycled(&deep, plan));
    let wide_then_deep = on_cpu(&depth_up_scaled(upcycled(&base, plan), 1));
    for model in [deep_then_wide, wide_then_deep] {
        assert_eq!(model.config().num_hidden_layers, 4);
        assert_eq!(model.config().moe.map(|moe| moe.num_local_experts), Some(4));
        assert!(relative_distance(&logits(&model, &[TEXT]), &expected) <= 1e-5);
    }
    let shallow = logits(&on_cpu(&base), &[TEXT]);
    assert!(relative_distance(&shallow, &expected) > 1e-2, "depth goes unnoticed");
}

#[test]
fn what_is_grown_from_a_model_is_what_is_grown_from_its_weights() {
    let base = small_base(3);
    let plan = UpcyclePlan { init: ExpertInit::Noise { relative_std: 0.1 }, ..UpcyclePlan::new(3, 2) };
    let from_model = upcycled(depth_up_scaled(on_cpu(&base).to_weights(), 1), plan);
    assert!(all_bytes(&from_model) == all_bytes(&upcycled(depth_up_scaled(&base, 1), plan)));
}
