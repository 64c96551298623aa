//! Weights that stay in blocks of integers: the same numbers as elsewhere, and decoders that run on them.

use burn::tensor::{Device, Int, Tensor, TensorData};
use deepwide::config::{DecoderConfig, MoeConfig};
use deepwide::formats::gguf::dequantize;
use deepwide::kernel::blocks::BlockFormat;
use deepwide::kernel::quantized_weight::QuantizedWeight;
use deepwide::load::Precision;
use deepwide::model::{CausalLm, DenseDecoder, KvCache, MoeDecoder};
use deepwide::weights::GgmlType;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::pico;

#[test]
fn blocks_are_the_numbers_that_the_reader_of_files_makes_of_them() {
    for format in BlockFormat::ALL {
        let ty = GgmlType::ALL.into_iter().find(|ty| BlockFormat::from_name(ty.name) == Some(format)).unwrap();
        assert_eq!((ty.block_numbers, ty.block_bytes), (format.block_len(), format.block_bytes()));
        let [rows, cols] = [37, 512];
        let mut bytes = vec![0; rows * cols / ty.block_numbers * ty.block_bytes];
        ChaCha8Rng::seed_from_u64(3).fill_bytes(&mut bytes);
        let mut expected = Vec::new();
        dequantize(ty, &bytes, &mut expected);
        let found = QuantizedWeight::from_blocks(format, [rows, cols], &bytes, &Device::default()).values();
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Random scales may be infinite or no number.
            let same = found == expected || !found.is_finite() && !expected.is_finite();
            assert!(same, "{format:?}, number {i}: {found}, expected {expected}");
        }
    }
}

#[test]
fn numbers_are_rounded_to_blocks_as_ggml_rounds_them() {
    const VALUES: &[u8] = include_bytes!("golden/quantize/values.f32");
    const Q8_0: &[u8] = include_bytes!("golden/quantize/q8_0.blocks");
    const Q4_0: &[u8] = include_bytes!("golden/quantize/q4_0.blocks");
    let values: Vec<f32> = VALUES.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for (format, golden) in [(BlockFormat::Q8_0, Q8_0), (BlockFormat::Q4_0, Q4_0)] {
        let shape = [values.len() / 32, 32];
        let found = QuantizedWeight::quantize(format, shape, &values, &Device::default()).values();
        let expected = QuantizedWeight::from_blocks(format, shape, golden, &Device::default()).values();
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{format:?}, number {i}, {}: {found}, expected {expected}", values[i]);
        }
    }
}

/// A decoder whose matrices fill whole blocks of 32, and a text for it.
fn config() -> DecoderConfig {
    DecoderConfig::pico().with(|f| f.intermediate_size = 352).expect("a wider MLP")
}

fn text(len: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..len).map(|i| (i * 37 % 448) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [1, len]), &pico::device())
}

/// How far rounding activations to 8 bits may move logits. Numbers of normal size are off by 0.5 % of it (half a step of a
/// 127th of the largest of 32, evenly spread), each of the 4·8 + 1 products of this decoder adds as much on its own, which
/// makes 0.005·√33 = 2.9 %; two roundings of slightly different numbers differ by √2 times that. Doubled, as these are
/// means over few numbers.
const ROUNDING: f32 = 2.0 * 0.029;

/// Mean distance of logits, over their mean size.
fn relative_error(found: &Tensor<3>, expected: &Tensor<3>) -> f32 {
    let mean = |x: Tensor<3>| x.abs().mean().into_scalar::<f32>();
    mean(found.clone() - expected.clone()) / mean(expected.clone())
}

#[test]
fn a_quantized_decoder_is_the_decoder_of_its_rounded_weights() {
    let device = pico::device();
    let base = pico::random_weights(&config(), 1);
    let original = DenseDecoder::load(&base, &device).expect("in memory").forward(text(40)).logits;
    let other = pico::random_weights(&config(), 2);
    let other = DenseDecoder::load(&other, &device).expect("in memory").forward(text(40)).logits;
    assert!(relative_error(&other, &original) > 5.0 * ROUNDING, "another decoder is told apart");
    for (format, least) in [(BlockFormat::Q8_0, 0.002), (BlockFormat::Q4_0, 0.05)] {
        let rounded = DenseDecoder::load_as(&base, Precision::Blocks(Some(format)), &device).expect("in memory");
        let floats = DenseDecoder::load(&rounded.to_weights(), &device).expect("in memory").forward(text(40)).logits;
        let error = relative_error(&rounded.forward(text(40)).logits, &floats);
        assert!(error > 0.0 && error < ROUNDING, "{format:?}: rounded activations move logits by {error}");
        let error = relative_error(&floats, &original);
        assert!(error > least, "{format:?}: rounded weights move logits by {error} only");
    }
}

#[test]
fn a_quantized_mixture_is_the_mixture_of_its_rounded_weights() {
    let device = pico::device();
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 4, router_aux_loss_coef: 0.0 };
    let wide = pico::random_weights(&config().with_experts(moe).expect("four experts"), 1);
    let rounded = MoeDecoder::load_as(&wide, Precision::Blocks(Some(BlockFormat::Q8_0)), &device).expect("in memory");
    let floats = MoeDecoder::load(&rounded.to_weights(), &device).expect("in memory").forward(text(40)).logits;
    let error = relative_error(&rounded.forward(text(40)).logits, &floats);
    assert!(error > 0.0 && error < ROUNDING, "rounded activations move logits by {error}");
}

#[test]
fn decoding_with_a_cache_gives_the_logits_of_the_whole_text() {
    let device = pico::device();
    let weights = pico::random_weights(&config(), 2);
    let model =
        DenseDecoder::load_as(&weights, Precision::Blocks(Some(BlockFormat::Q8_0)), &device).expect("in memory");
    let whole = model.forward(text(12)).logits;
    let mut cache = KvCache::new(model.config(), 1, 12, &device);
    let mut before: Vec<Tensor<3>> = Vec::new();
    for position in 0..12 {
        let token = text(12).slice([0..1, position..position + 1]);
        let hidden = model.hidden_states(token, Some(&mut cache)).last;
        let expected = whole.clone().slice([0..1, position..position + 1]);
        let found = model.lm_head(hidden);
        if let Some(before) = before.last() {
            let error = relative_error(&found, before);
            assert!(error > 5.0 * ROUNDING, "position {position} could be taken for the one before: {error}");
        }
        let error = relative_error(&found, &expected);
        assert!(error < ROUNDING, "position {position}: {error}");
        before.push(expected);
    }
}
