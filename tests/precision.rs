//! The precision of a model: the memory that it takes, known before loading, and mixed precision.

use burn::module::Module;
use deepwide::config::{DecoderConfig, MoeConfig};
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::kernel::blocks::BlockFormat;
use deepwide::kernel::matrix_instructions;
use deepwide::load::{Footprint, Precision};
use deepwide::model::AnyDecoder;
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, TensorId, WeightSource};

use crate::models::{all_bytes, gradients, logits, next_token_losses, relative, values};
use crate::oracle::relative_distance;
use crate::pico;

const Q8: Precision = Precision::Blocks(Some(BlockFormat::Q8_0));

/// Eight layers; the rows of every matrix are whole blocks.
fn small() -> MemoryWeights {
    let config = DecoderConfig::pico().with(|fields| fields.intermediate_size = 320).expect("a wider MLP");
    MemoryWeights::untrained(config, 0.02, 3)
}

fn deep(source: MemoryWeights) -> Grown<MemoryWeights> {
    Grown::new(source, GrowthPlan::Splice(LayerPlan::depth_up_scaling(8, 2).expect("12 layers")))
        .expect("a deeper model")
}

fn wide<S: WeightSource>(source: S, init: ExpertInit) -> Grown<S> {
    Grown::new(source, GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) })).expect("a wider model")
}

fn foreseen(source: &impl WeightSource, precision: Precision) -> Footprint {
    AnyDecoder::foresee(source, precision, &pico::device()).expect("weights in memory")
}

/// Bytes before loading, which are those after.
fn bytes(source: &impl WeightSource, precision: Precision) -> u64 {
    let foreseen = foreseen(source, precision);
    let loaded = AnyDecoder::load_as(source, precision, &pico::device()).expect("weights in memory");
    assert_eq!(&foreseen, loaded.footprint(), "{precision:?}");
    foreseen.size_bytes()
}

#[test]
fn the_memory_of_a_model_is_known_before_it_is_loaded() {
    for precision in [Precision::FLOAT32, Precision::Float(Dtype::Bfloat16), Q8] {
        let (base, grown) = (bytes(&small(), precision), bytes(&deep(small()), precision));
        assert!(grown < base + base / 100, "twin layers take norms alone");
        let copies = bytes(&wide(small(), ExpertInit::Copy), precision);
        let noisy = bytes(&wide(small(), ExpertInit::Noise { relative_std: 0.1 }), precision);
        assert_eq!(copies < noisy, precision == Q8, "{precision:?}");
        let deep_copies = bytes(&wide(deep(small()), ExpertInit::Copy), precision);
        let deep_noisy = bytes(&wide(deep(small()), ExpertInit::Noise { relative_std: 0.1 }), precision);
        assert!(deep_copies < deep_noisy, "experts of twin layers differ by their noise");
    }
}

#[test]
fn equal_experts_are_one_in_blocks_and_four_in_floats() {
    let (copies, dense) = (wide(small(), ExpertInit::Copy), foreseen(&small(), Q8).size_bytes());
    let blocks = foreseen(&copies, Q8);
    let routers = 8 * 4 * 96 * 4;
    assert_eq!((blocks.size_bytes(), blocks.distinct_experts()), (dense + routers, Some(1)));
    let mlps = 8 * 3 * (96 * 320 / 32 * 34);
    assert_eq!(blocks.unshared_bytes(), blocks.size_bytes() + 3 * mlps);
    let floats = foreseen(&copies, Precision::FLOAT32);
    assert_eq!((floats.size_bytes(), floats.distinct_experts()), (floats.unshared_bytes(), None));
    let noisy = wide(small(), ExpertInit::Noise { relative_std: 0.1 });
    assert_eq!(foreseen(&noisy, Q8).distinct_experts(), Some(4));
}

/// Matrices that are multiplied, rounded to bfloat16.
fn rounded(weights: &MemoryWeights) -> MemoryWeights {
    MemoryWeights::new(weights.config().clone(), |id| {
        let raw = weights.read(id).expect("weights in memory");
        match id {
            TensorId::EmbedTokens | TensorId::Layer(_, LayerTensor::Router) => raw,
            _ if raw.shape().len() == 1 => raw,
            _ => raw.cast(Dtype::Bfloat16).cast(Dtype::Float32),
        }
    })
}

#[test]
fn mixed_precision_multiplies_rounded_weights_and_trains_float32_ones() {
    const TEXT: [u32; 40] = [7; 40];
    let dense = DecoderConfig::pico().with(|fields| {
        fields.num_hidden_layers = 2;
        fields.tie_word_embeddings = false;
    });
    let dense = dense.expect("two layers");
    let moe = MoeConfig { num_local_experts: 2, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
    let device = pico::device().autodiff();
    let text: Vec<u32> = TEXT.iter().enumerate().map(|(i, id)| id * i as u32 % 448).collect();
    for config in [dense.clone(), dense.with_experts(moe).expect("two experts")] {
        let weights = pico::random_weights(&config, 5);
        let mixed = AnyDecoder::load_as(&weights, Precision::Mixed, &device).expect("weights in memory");
        let expected = AnyDecoder::load(&rounded(&weights), &device).expect("weights in memory");
        let exact = AnyDecoder::load(&weights, &device).expect("weights in memory");
        let [found, expected_logits, exact] = [&mixed, &expected, &exact].map(|model| logits(&model.valid(), &[&text]));
        assert!(relative_distance(&found, &expected_logits) < 1e-5);
        assert!(relative_distance(&found, &exact) > 1e-4, "rounding goes unnoticed");
        assert_eq!(all_bytes(&mixed.to_weights()), all_bytes(&weights), "master weights are not rounded");
        let [found, expected] =
            [&mixed, &expected].map(|model| gradients(model, next_token_losses(model, &[&text], &device).0));
        // Matrix instructions round the operands of gradients, too.
        let bound = if matrix_instructions().is_some() { 0.02 } else { 1e-3 };
        for id in TensorId::all(&config) {
            assert_eq!(found.dtype(id), Dtype::Float32);
            let off = relative(&values(&found, id), &values(&expected, id));
            assert!(off < bound, "{id:?}: gradients are off by {off:e}");
        }
    }
}
