//! The algebra of growth, for any small decoder: what a plan copies it copies to the byte, plans compose like the maps
//! they are, and what is drawn depends on the seed alone.

use std::collections::HashMap;

use deepwide::config::DecoderConfig;
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, RouterInit, UpcyclePlan};
use deepwide::weights::{
    Dtype, LayerTensor, MemoryWeights, Projection, RawTensor, Sink, TensorId, WeightError, WeightSource,
};
use proptest::prelude::*;
use proptest::sample::SizeRange;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::pico::{cases, decoders, dense_decoders};

/// Standard normal weights, the type of each tensor drawn too.
fn weights(config: &DecoderConfig, seed: u64) -> MemoryWeights {
    let types = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
    weights_of(config, seed, |rng| types[rng.random_range(0..types.len())])
}

fn weights_in(dtype: Dtype, config: &DecoderConfig, seed: u64) -> MemoryWeights {
    weights_of(config, seed, |_| dtype)
}

fn weights_of(config: &DecoderConfig, seed: u64, dtype: impl Fn(&mut ChaCha8Rng) -> Dtype) -> MemoryWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    MemoryWeights::new(config.clone(), |id| {
        let (dtype, shape) = (dtype(&mut rng), id.shape(config));
        let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(shape.iter().product()).collect();
        RawTensor::from_f32(dtype, shape, &values)
    })
}

fn read(source: &impl WeightSource, id: TensorId) -> RawTensor {
    source.read(id).expect("weights in memory")
}

fn spliced<S: WeightSource>(source: S, plan: &LayerPlan) -> Grown<S> {
    Grown::new(source, GrowthPlan::Splice(plan.clone())).expect("a plan for this depth")
}

fn upcycled<S: WeightSource>(source: S, plan: UpcyclePlan) -> Grown<S> {
    Grown::new(source, GrowthPlan::Upcycle(plan)).expect("a plan for a dense decoder")
}

fn mlp(layer: usize, projection: Projection) -> TensorId {
    TensorId::Layer(layer, LayerTensor::Mlp(projection))
}

fn expert(layer: usize, expert: usize, projection: Projection) -> TensorId {
    TensorId::Layer(layer, LayerTensor::Expert(expert, projection))
}

/// The first weight of `grown` that is not, to the byte and in type, the weight of `base` to which `source` maps it.
fn first_difference(
    base: &impl WeightSource,
    grown: &impl WeightSource,
    source: impl Fn(TensorId) -> TensorId,
) -> Option<TensorId> {
    TensorId::all(grown.config()).into_iter().find(|&id| {
        let (expected, found) = (read(base, source(id)), read(grown, id));
        found != expected || grown.dtype(id) != expected.dtype()
    })
}

/// Whether `grown` is `base` with layer `sigma[j]` at place `j`, checked without a plan.
fn first_difference_from_splice(
    base: &impl WeightSource,
    grown: &impl WeightSource,
    sigma: &[usize],
) -> Option<TensorId> {
    assert_eq!(grown.config().num_hidden_layers, sigma.len());
    first_difference(base, grown, |id| match id {
        TensorId::Layer(layer, tensor) => TensorId::Layer(sigma[layer], tensor),
        other => other,
    })
}

/// The whole model as bytes, its weights read in the given order.
fn contents(source: &impl WeightSource, ids: impl IntoIterator<Item = TensorId>) -> HashMap<TensorId, RawTensor> {
    ids.into_iter().map(|id| (id, read(source, id))).collect()
}

fn same_contents(a: &impl WeightSource, b: &impl WeightSource) -> bool {
    let ids = TensorId::all(a.config());
    a.config() == b.config() && contents(a, ids.clone()) == contents(b, ids)
}

/// Rows of a row-major matrix that differ in any entry, and columns likewise.
fn changed_rows_and_columns(before: &RawTensor, after: &RawTensor) -> (Vec<usize>, Vec<usize>) {
    let [height, width] = before.shape() else { panic!("{:?} is no matrix", before.shape()) };
    let (before, after) = (before.to_f32(), after.to_f32());
    let changed = |row: usize, column: usize| before[row * width + column] != after[row * width + column];
    let rows = (0..*height).filter(|&row| (0..*width).any(|column| changed(row, column))).collect();
    let columns = (0..*width).filter(|&column| (0..*height).any(|row| changed(row, column))).collect();
    (rows, columns)
}

/// The intermediate dimensions in which an expert differs from the MLP of its layer, one list a matrix.
fn changed_dimensions(base: &impl WeightSource, wide: &impl WeightSource, layer: usize, e: usize) -> [Vec<usize>; 3] {
    Projection::ALL.map(|projection| {
        let (before, after) = (read(base, mlp(layer, projection)), read(wide, expert(layer, e, projection)));
        let (rows, columns) = changed_rows_and_columns(&before, &after);
        if projection == Projection::Down { columns } else { rows }
    })
}

fn depths_and_overlaps() -> impl Strategy<Value = (usize, usize)> {
    (1usize..=80).prop_flat_map(|layers| (Just(layers), 0..layers))
}

fn plans(num_layers: usize, ranges: impl Into<SizeRange>) -> impl Strategy<Value = LayerPlan> {
    let range = (0..num_layers).prop_flat_map(move |start| (Just(start), start + 1..=num_layers));
    prop::collection::vec(range, ranges).prop_map(move |ranges| {
        let ranges: Vec<_> = ranges.into_iter().map(|(start, end)| start..end).collect();
        LayerPlan::from_ranges(num_layers, &ranges).expect("ranges of the source")
    })
}

fn plan_on_plan() -> impl Strategy<Value = (LayerPlan, LayerPlan)> {
    (1usize..=6)
        .prop_flat_map(|layers| plans(layers, 1..=2))
        .prop_flat_map(|first| (plans(first.as_slice().len(), 1..=2), Just(first)))
        .prop_map(|(second, first)| (first, second))
}

/// A decoder of 1 to 6 layers, and a plan for its depth.
fn decoder_and_plan(
    decoders: impl Strategy<Value = DecoderConfig>,
) -> impl Strategy<Value = (DecoderConfig, LayerPlan)> {
    (decoders, (1usize..=6).prop_flat_map(|layers| plans(layers, 1..=3))).prop_map(|(config, plan)| {
        (config.with(|f| f.num_hidden_layers = plan.num_source_layers()).expect("another depth"), plan)
    })
}

/// Two to four experts, of which a token visits one to all.
fn upcycle_plans(init: impl Strategy<Value = ExpertInit>) -> impl Strategy<Value = UpcyclePlan> {
    let routers = prop_oneof![Just(RouterInit::default()), Just(RouterInit::Zero), Just(RouterInit::Orthogonal)];
    let experts = (2usize..=4).prop_flat_map(|experts| (Just(experts), 1..=experts));
    (experts, init, routers, any::<u64>()).prop_map(|((experts, chosen), init, router, seed)| UpcyclePlan {
        init,
        router,
        seed,
        ..UpcyclePlan::new(experts, chosen)
    })
}

fn any_init() -> impl Strategy<Value = ExpertInit> {
    prop_oneof![
        Just(ExpertInit::Copy),
        (0.0f64..=1.0).prop_map(|relative_std| ExpertInit::Noise { relative_std }),
        (0.0f64..=1.0).prop_map(|ratio| ExpertInit::Drop { ratio }),
    ]
}

/// Weights that can be described and not read.
struct Headers(MemoryWeights);

impl WeightSource for Headers {
    fn config(&self) -> &DecoderConfig {
        self.0.config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.0.dtype(id)
    }

    fn stream(&self, id: TensorId, _: &mut Sink<'_>) -> Result<(), WeightError> {
        panic!("{id:?} is read");
    }
}

/// Any growth but a merge, of a source of `num_layers` layers.
fn any_growth() -> impl Strategy<Value = GrowthPlan> {
    prop_oneof![
        (0usize..4).prop_map(|overlap| GrowthPlan::DepthUpScaling { overlap }),
        (1usize..=3).prop_map(|copies| GrowthPlan::Stack { copies }),
        (1usize..=3).prop_map(|num_blocks| GrowthPlan::IdentityBlocks { num_blocks }),
        upcycle_plans(any_init()).prop_map(GrowthPlan::Upcycle),
        (1usize..=4).prop_map(|num_parts| GrowthPlan::Granularity { num_parts }),
        prop_oneof![Just(Dtype::Float32), Just(Dtype::Bfloat16)].prop_map(|dtype| GrowthPlan::Cast { dtype }),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn depth_up_scaling_makes_two_copies_less_the_overlap((n, m) in depths_and_overlaps()) {
        let plan = LayerPlan::depth_up_scaling(n, m).unwrap();
        let s = 2 * (n - m);
        let expected: Vec<usize> = (0..s).map(|j| if j < n - m { j } else { j + 2 * m - n }).collect();
        prop_assert_eq!(plan.as_slice(), expected);
        prop_assert_eq!(plan.num_source_layers(), n);
    }

    #[test]
    fn each_copy_keeps_the_order_of_the_base((n, m) in depths_and_overlaps()) {
        let plan = LayerPlan::depth_up_scaling(n, m).unwrap();
        let (first, second) = plan.as_slice().split_at(n - m);
        for copy in [first, second] {
            prop_assert!(copy.windows(2).all(|pair| pair[1] == pair[0] + 1), "{copy:?}");
        }
    }

    #[test]
    fn the_middle_layers_occur_twice_and_the_outer_ones_once(
        (n, m) in (1usize..=80).prop_flat_map(|n| (Just(n), 0..=n / 2)).prop_filter("a layer is left", |(n, m)| m < n),
    ) {
        let plan = LayerPlan::depth_up_scaling(n, m).unwrap();
        for layer in 0..n {
            let times = plan.as_slice().iter().filter(|&&source| source == layer).count();
            prop_assert_eq!(times, if (m..n - m).contains(&layer) { 2 } else { 1 }, "layer {} of {}", layer, plan);
        }
        prop_assert!(plan.unused_layers().is_empty());
    }

    #[test]
    fn one_seam_breaks_one_connection((n, m) in depths_and_overlaps()) {
        let plan = LayerPlan::depth_up_scaling(n, m).unwrap();
        let s = 2.0 * (n - m) as f64;
        if 2 * m == n {
            prop_assert_eq!((plan.seam_jumps(), plan.connection_rate()), (vec![], 1.0));
        } else {
            prop_assert_eq!(plan.seam_jumps(), [(n - 1).abs_diff(2 * m)]);
            prop_assert!((plan.connection_rate() - (s - 2.0) / (s - 1.0)).abs() < 1e-15);
        }
    }

    #[test]
    fn an_overlap_of_half_the_layers_gives_the_base_back(half in 1usize..=3, base in dense_decoders(), seed: u64) {
        let base = base.with(|f| f.num_hidden_layers = 2 * half).unwrap();
        let plan = LayerPlan::depth_up_scaling(2 * half, half).unwrap();
        prop_assert_eq!(&plan, &LayerPlan::identity(2 * half).unwrap());
        let base = weights(&base, seed);
        prop_assert!(same_contents(&spliced(&base, &plan), &base));
    }

    #[test]
    fn no_overlap_is_the_stack_of_two(n in 1usize..=80) {
        prop_assert_eq!(LayerPlan::depth_up_scaling(n, 0).unwrap(), LayerPlan::stack(n, 2).unwrap());
    }

    #[test]
    fn the_printed_runs_are_the_ranges_of_the_plan((n, m) in depths_and_overlaps()) {
        let plan = LayerPlan::depth_up_scaling(n, m).unwrap();
        let printed = plan.to_string();
        let (runs, _) = printed.split_once(" (").unwrap();
        let ranges: Vec<_> = runs.split(" ++ ").map(|run| {
            let (start, end) = run.split_once("..").unwrap();
            start.parse().unwrap()..end.parse().unwrap()
        }).collect();
        prop_assert_eq!(LayerPlan::from_ranges(n, &ranges).unwrap(), plan);
    }

    #[test]
    fn a_splice_copies_every_weight_of_each_layer_and_leaves_the_rest(
        (config, plan) in decoder_and_plan(decoders()), seed: u64,
    ) {
        let base = weights(&config, seed);
        let grown = spliced(&base, &plan);
        let expected = config.with(|f| f.num_hidden_layers = plan.as_slice().len()).unwrap();
        prop_assert_eq!(grown.config(), &expected);
        prop_assert_eq!(first_difference_from_splice(&base, &grown, plan.as_slice()), None);
    }

    #[test]
    fn a_splice_that_is_off_by_one_layer_is_noticed(
        (config, plan) in decoder_and_plan(decoders()), place: prop::sample::Index, seed: u64,
    ) {
        prop_assume!(plan.num_source_layers() > 1);
        let base = weights(&config, seed);
        let grown = spliced(&base, &plan);
        let mut wrong = plan.as_slice().to_vec();
        let layer = place.index(wrong.len());
        wrong[layer] = (wrong[layer] + 1) % plan.num_source_layers();
        let noticed = first_difference_from_splice(&base, &grown, &wrong);
        prop_assert_eq!(noticed, Some(TensorId::Layer(layer, LayerTensor::InputLayernorm)));
    }

    #[test]
    fn splices_compose(base in decoders(), (first, second) in plan_on_plan(), seed: u64) {
        let base = base.with(|f| f.num_hidden_layers = first.num_source_layers()).unwrap();
        let both = first.then(&second).unwrap();
        let sigma_of_tau: Vec<usize> = second.as_slice().iter().map(|&j| first.as_slice()[j]).collect();
        prop_assert_eq!(both.as_slice(), &sigma_of_tau[..]);
        let base = weights(&base, seed);
        let stepwise = spliced(spliced(&base, &first), &second);
        prop_assert!(same_contents(&stepwise, &spliced(&base, &both)));
        prop_assert_eq!(first_difference_from_splice(&base, &stepwise, &sigma_of_tau), None);
    }

    #[test]
    fn composition_is_associative_and_has_a_unit(
        (first, second) in plan_on_plan(), ranges in prop::collection::vec(any::<prop::sample::Index>(), 1..=4),
    ) {
        let depth = second.as_slice().len();
        let single_layers: Vec<_> = ranges.iter().map(|i| i.index(depth)..i.index(depth) + 1).collect();
        let third = LayerPlan::from_ranges(depth, &single_layers).unwrap();
        let left = first.then(&second).unwrap().then(&third).unwrap();
        prop_assert_eq!(left, first.then(&second.then(&third).unwrap()).unwrap());
        let unit = LayerPlan::identity(first.num_source_layers()).unwrap();
        prop_assert_eq!(&unit.then(&first).unwrap(), &first);
        let unit = LayerPlan::identity(first.as_slice().len()).unwrap();
        prop_assert_eq!(&first.then(&unit).unwrap(), &first);
    }

    #[test]
    fn an_upcycled_copy_has_the_bytes_of_the_dense_mlp_in_every_expert_and_leaves_the_rest(
        config in dense_decoders(), plan in upcycle_plans(Just(ExpertInit::Copy)), seed: u64,
    ) {
        let base = weights(&config, seed);
        let wide = upcycled(&base, plan);
        let routers_apart = |id: &TensorId| !matches!(id, TensorId::Layer(_, LayerTensor::Router));
        for id in TensorId::all(wide.config()).into_iter().filter(routers_apart) {
            let source = match id {
                TensorId::Layer(layer, LayerTensor::Expert(_, projection)) => mlp(layer, projection),
                other => other,
            };
            prop_assert_eq!(read(&wide, id), read(&base, source), "{:?}", id);
        }
    }

    #[test]
    fn a_weight_has_the_announced_type_and_the_shape_of_its_config(
        config in dense_decoders(), plan in upcycle_plans(any_init()), seed: u64,
    ) {
        let wide = upcycled(weights(&config, seed), plan);
        for id in TensorId::all(wide.config()) {
            let tensor = read(&wide, id);
            prop_assert_eq!(tensor.dtype(), wide.dtype(id));
            prop_assert_eq!(tensor.shape(), id.shape(wide.config()));
        }
    }

    #[test]
    fn with_noise_or_drop_no_two_experts_are_equal(
        config in dense_decoders(),
        plan in upcycle_plans(prop_oneof![
            (0.1f64..=1.0).prop_map(|relative_std| ExpertInit::Noise { relative_std }),
            (0.3f64..=1.0).prop_map(|ratio| ExpertInit::Drop { ratio }),
        ]),
        seed: u64,
    ) {
        let base = weights(&config, seed);
        let wide = upcycled(&base, plan);
        for (layer, projection) in (0..config.num_hidden_layers).flat_map(|l| Projection::ALL.map(|p| (l, p))) {
            let mut versions = vec![read(&base, mlp(layer, projection))];
            versions.extend((0..plan.num_local_experts).map(|e| read(&wide, expert(layer, e, projection))));
            for (i, version) in versions.iter().enumerate() {
                prop_assert!(!versions[..i].contains(version), "{:?} of layer {}", projection, layer);
            }
        }
    }

    #[test]
    fn no_noise_and_no_drop_are_copies(
        config in dense_decoders(),
        plan in upcycle_plans(Just(ExpertInit::Copy)),
        init in prop_oneof![Just(ExpertInit::Noise { relative_std: 0.0 }), Just(ExpertInit::Drop { ratio: 0.0 })],
        seed: u64,
    ) {
        let base = weights(&config, seed);
        let unchanged = UpcyclePlan { init, ..plan };
        prop_assert!(same_contents(&upcycled(&base, unchanged), &upcycled(&base, plan)));
    }

    #[test]
    fn drop_re_draws_as_many_dimensions_as_it_says_and_the_same_in_all_three_matrices(
        config in dense_decoders(), ratio in 0.0f64..=1.0, plan in upcycle_plans(Just(ExpertInit::Copy)), seed: u64,
    ) {
        let base = weights_in(Dtype::Float32, &config, seed);
        let wide = upcycled(&base, UpcyclePlan { init: ExpertInit::Drop { ratio }, ..plan });
        for (layer, e) in (0..config.num_hidden_layers).flat_map(|l| (0..plan.num_local_experts).map(move |e| (l, e))) {
            let [gate, up, down] = changed_dimensions(&base, &wide, layer, e);
            prop_assert_eq!(gate.len(), (ratio * config.intermediate_size as f64) as usize);
            prop_assert_eq!(&gate, &up);
            prop_assert_eq!(&gate, &down);
        }
    }

    #[test]
    fn a_drop_of_everything_keeps_no_dimension(
        config in dense_decoders(), plan in upcycle_plans(Just(ExpertInit::Drop { ratio: 1.0 })), seed: u64,
    ) {
        let base = weights_in(Dtype::Float32, &config, seed);
        let wide = upcycled(&base, plan);
        let all: Vec<usize> = (0..config.intermediate_size).collect();
        for changed in changed_dimensions(&base, &wide, 0, plan.num_local_experts - 1) {
            prop_assert_eq!(&changed, &all);
        }
    }

    #[test]
    fn a_zero_router_is_zero_to_the_bit(
        config in dense_decoders(), plan in upcycle_plans(any_init()), seed: u64,
    ) {
        let wide = upcycled(weights(&config, seed), UpcyclePlan { router: RouterInit::Zero, ..plan });
        for layer in 0..config.num_hidden_layers {
            let router = read(&wide, TensorId::Layer(layer, LayerTensor::Router));
            prop_assert!(router.bytes().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn orthogonal_routers_have_rows_of_equal_length_at_right_angles(
        config in dense_decoders(), plan in upcycle_plans(any_init()), seed: u64,
    ) {
        let plan = UpcyclePlan { router: RouterInit::Orthogonal, ..plan };
        let wide = upcycled(weights_in(Dtype::Float32, &config, seed), plan);
        let router = read(&wide, TensorId::Layer(0, LayerTensor::Router)).to_f32();
        let squared_length = 0.02f64.powi(2) * config.hidden_size as f64;
        let rows: Vec<&[f32]> = router.chunks(config.hidden_size).collect();
        prop_assert_eq!(rows.len(), plan.num_local_experts);
        for (i, x) in rows.iter().enumerate() {
            for (j, y) in rows.iter().enumerate() {
                let product: f64 = x.iter().zip(*y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                prop_assert!((product / squared_length - expected).abs() < 2.0 * f64::from(f32::EPSILON));
            }
        }
    }

    #[test]
    fn the_order_of_reading_does_not_matter(
        config in dense_decoders(), plan in upcycle_plans(any_init()), order in any::<prop::sample::Index>(), seed: u64,
    ) {
        let wide = upcycled(weights(&config, seed), plan);
        let mut ids = TensorId::all(wide.config());
        let in_order = contents(&wide, ids.clone());
        let start = order.index(ids.len());
        ids.rotate_left(start);
        ids.reverse();
        prop_assert_eq!(contents(&wide, ids), in_order);
    }

    #[test]
    fn another_seed_draws_other_numbers(
        config in dense_decoders(), plan in upcycle_plans(Just(ExpertInit::Noise { relative_std: 0.5 })), seed: u64,
    ) {
        let plan = UpcyclePlan { router: RouterInit::default(), ..plan };
        let base = weights(&config, seed);
        let (one, other) = (upcycled(&base, plan), upcycled(&base, UpcyclePlan { seed: !plan.seed, ..plan }));
        for tensor in [LayerTensor::Router, LayerTensor::Expert(0, Projection::Gate)] {
            prop_assert_ne!(read(&one, TensorId::Layer(0, tensor)), read(&other, TensorId::Layer(0, tensor)));
        }
    }

    #[test]
    fn copies_behind_equal_routers_commute_with_a_splice(
        (config, plan) in decoder_and_plan(dense_decoders()),
        wide in upcycle_plans(Just(ExpertInit::Copy)),
        seed: u64,
    ) {
        let base = weights(&config, seed);
        let wide = UpcyclePlan { router: RouterInit::Zero, ..wide };
        let deep_then_wide = upcycled(spliced(&base, &plan), wide);
        prop_assert!(same_contents(&deep_then_wide, &spliced(upcycled(&base, wide), &plan)));
    }

    #[test]
    fn copies_of_a_layer_share_experts_if_upcycled_before_and_not_if_after(
        config in dense_decoders(), plan in upcycle_plans(Just(ExpertInit::Drop { ratio: 1.0 })), seed: u64,
    ) {
        let base = weights(&config, seed);
        let twice = LayerPlan::stack(config.num_hidden_layers, 2).unwrap();
        let wide_then_deep = spliced(upcycled(&base, plan), &twice);
        let deep_then_wide = upcycled(spliced(&base, &twice), plan);
        let [first, second] = [0, config.num_hidden_layers].map(|layer| expert(layer, 0, Projection::Gate));
        prop_assert_eq!(read(&wide_then_deep, first), read(&wide_then_deep, second));
        prop_assert_ne!(read(&deep_then_wide, first), read(&deep_then_wide, second));
    }

    #[test]
    fn lineage_names_the_weight_of_the_root_and_only_routers_have_none(
        (config, plan) in decoder_and_plan(dense_decoders()), wide in upcycle_plans(any_init()), seed: u64,
    ) {
        let base = weights(&config, seed);
        let deep_then_wide = upcycled(spliced(&base, &plan), wide);
        let wide_then_deep = spliced(upcycled(&base, wide), &plan);
        for id in TensorId::all(deep_then_wide.config()) {
            let root = match id {
                TensorId::Layer(_, LayerTensor::Router) => None,
                TensorId::Layer(layer, LayerTensor::Expert(_, projection)) => {
                    Some(mlp(plan.as_slice()[layer], projection))
                }
                TensorId::Layer(layer, tensor) => Some(TensorId::Layer(plan.as_slice()[layer], tensor)),
                other => Some(other),
            };
            prop_assert_eq!(deep_then_wide.lineage(id).source, root);
            prop_assert_eq!(wide_then_deep.lineage(id).source, root);
        }
    }

    #[test]
    fn a_list_of_growths_is_planned_from_headers_and_reads_as_views_of_views(
        config in dense_decoders(), plans in prop::collection::vec(any_growth(), 0..=4), seed: u64,
    ) {
        let base = weights(&config, seed);
        let Ok(listed) = Grown::all(&base, plans.clone()) else { return Ok(()) };
        let planned = Grown::all(Headers(base.clone()), plans.clone()).unwrap();
        prop_assert_eq!(&GrowthPlan::config_after(&plans, &config).unwrap(), listed.config());
        let nested: Box<dyn WeightSource + '_> = plans.into_iter().fold(Box::new(&base), |source, plan| {
            Box::new(Grown::new(source, plan).unwrap())
        });
        prop_assert_eq!(listed.config(), nested.config());
        for id in TensorId::all(listed.config()) {
            prop_assert_eq!(planned.recipe(id), listed.lineage(id));
            prop_assert_eq!(read(&nested, id), read(&listed, id), "{}", listed.recipe(id));
        }
    }
}

/// A wide layer of many weights, for statements about distributions.
fn broad() -> DecoderConfig {
    DecoderConfig::pico().with(|f| (f.num_hidden_layers, f.vocab_size) = (2, 8)).expect("a shallow decoder")
}

/// How many standard errors the mean and the deviation of `values` lie from those of `N(0, std)`.
fn errors_from_normal(values: &[f64], std: f64) -> [f64; 2] {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    [mean / std * count.sqrt(), (deviation / std - 1.0) * (2.0 * count).sqrt()]
}

#[test]
fn a_normal_router_has_the_deviation_it_says_and_not_twice_that() {
    let config = broad();
    for std in [0.02, 0.5] {
        let plan = UpcyclePlan { router: RouterInit::Normal { std }, seed: 5, ..UpcyclePlan::new(32, 2) };
        let wide = upcycled(weights_in(Dtype::Float32, &config, 1), plan);
        let router = read(&wide, TensorId::Layer(1, LayerTensor::Router));
        let values: Vec<f64> = router.to_f32().into_iter().map(f64::from).collect();
        assert!(errors_from_normal(&values, std).iter().all(|error| error.abs() < 4.0));
        assert!(errors_from_normal(&values, 2.0 * std)[1].abs() > 4.0);
    }
}

#[test]
fn noise_is_as_large_beside_the_weights_as_it_says() {
    let config = broad();
    let base = MemoryWeights::new(config.clone(), |id| {
        let shape = id.shape(&config);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| StandardNormal.sample(&mut rng))
            .map(|z: f32| 10.0 + 0.25 * z)
            .collect();
        RawTensor::from_f32(Dtype::Float32, shape, &values)
    });
    let relative_std = 0.1;
    let plan = UpcyclePlan { init: ExpertInit::Noise { relative_std }, ..UpcyclePlan::new(4, 2) };
    let wide = upcycled(&base, plan);
    for projection in Projection::ALL {
        let (before, after) =
            (read(&base, mlp(1, projection)).to_f32(), read(&wide, expert(1, 2, projection)).to_f32());
        let noise: Vec<f64> = before.iter().zip(&after).map(|(b, a)| f64::from(*a) - f64::from(*b)).collect();
        assert!(errors_from_normal(&noise, relative_std * 0.25).iter().all(|error| error.abs() < 5.0));
        assert!(errors_from_normal(&noise, relative_std * 0.24)[1].abs() > 5.0);
    }
}

#[test]
fn experts_and_layers_do_not_share_their_dropped_dimensions() {
    let config = broad();
    let base = weights_in(Dtype::Float32, &config, 2);
    let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(4, 2) };
    let wide = upcycled(&base, plan);
    let all: Vec<Vec<usize>> = (0..2)
        .flat_map(|layer| (0..4).map(move |e| (layer, e)))
        .map(|(layer, e)| changed_dimensions(&base, &wide, layer, e)[0].clone())
        .collect();
    for (i, dropped) in all.iter().enumerate() {
        assert_eq!(dropped.len(), 168);
        assert!(!all[..i].contains(dropped));
    }
}
