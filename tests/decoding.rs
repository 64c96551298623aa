//! Decoding with a cache gives the logits of a full forward pass, however the text is cut.

use burn::tensor::Tensor;
use deepwide::config::DecoderConfig;
use deepwide::model::{AnyDecoder, CausalLm, KvCache};
use deepwide::weights::{Dtype, MemoryWeights, WeightSource};
use ndarray::Axis;
use proptest::prelude::*;

use crate::models::{bits, load, logits, margin, relative, rows, tokens};
use crate::oracle::relative_distance;
use crate::pico;

fn random(config: &DecoderConfig, seed: u64) -> AnyDecoder {
    load(&pico::random_weights(config, seed), &pico::device())
}

/// Logits of `texts` after what the cache holds.
fn continued<T: AsRef<[u32]>>(model: &AnyDecoder, texts: &[T], cache: &mut KvCache) -> Tensor<3> {
    model.lm_head(model.hidden_states(tokens(texts, &pico::device()), Some(cache)).last)
}

fn cache(model: &AnyDecoder, batch_size: usize, capacity: usize) -> KvCache {
    KvCache::new(model.config(), batch_size, capacity, &pico::device())
}

/// Logits of a text that is fed to an empty cache in pieces.
fn in_pieces<'a>(model: &AnyDecoder, pieces: impl IntoIterator<Item = &'a [u32]>, capacity: usize) -> Tensor<3> {
    let mut cache = cache(model, 1, capacity);
    Tensor::cat(pieces.into_iter().map(|piece| continued(model, &[piece], &mut cache)).collect(), 1)
}

/// The text cut at these places.
fn cut(text: &[u32], mut places: Vec<usize>) -> Vec<&[u32]> {
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn dense_decoder_seed_and_text() -> impl Strategy<Value = (DecoderConfig, u64, Vec<u32>)> {
    pico::dense_decoders().prop_flat_map(|config| {
        let vocab_size = config.vocab_size;
        (Just(config), any::<u64>(), pico::texts(vocab_size))
    })
}

/// The text with another token at one position.
fn with_another_token(text: &[u32], at: usize, config: &DecoderConfig) -> Vec<u32> {
    let mut other = text.to_vec();
    other[at] = (text[at] + 1) % config.vocab_size as u32;
    other
}

/// Whether the routing of a text is clear of rounding.
fn is_decided(model: &AnyDecoder, text: &[u32]) -> bool {
    margin(&model.forward(tokens(&[text], &pico::device())).routing) > 1e-4
}

proptest! {
    #![proptest_config(pico::cases(256))]

    #[test]
    fn cached_decoding_equals_the_full_forward_however_the_text_is_cut(
        (config, seed, text) in pico::decoder_seed_and_text(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        spare in 0usize..4,
    ) {
        let model = random(&config, seed);
        prop_assume!(is_decided(&model, &text));
        let pieces = cut(&text, places.iter().map(|place| place.index(text.len())).collect());
        let found = rows(in_pieces(&model, pieces, text.len() + spare));
        let distance = relative_distance(&found, &logits(&model, &[&text]));
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
    }

    #[test]
    fn decoding_token_by_token_equals_the_full_forward((config, seed, text) in pico::decoder_seed_and_text()) {
        let model = random(&config, seed);
        prop_assume!(is_decided(&model, &text));
        let found = rows(in_pieces(&model, text.chunks(1), text.len()));
        let distance = relative_distance(&found, &logits(&model, &[&text]));
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
    }

    #[test]
    fn a_text_in_a_batch_has_the_logits_of_the_text_alone_bit_for_bit(
        (config, seed, texts) in (pico::decoders(), any::<u64>(), 2usize..=5, 2usize..=6).prop_flat_map(|(config, seed, batch, len)| {
            let texts = prop::collection::vec(prop::collection::vec(0..config.vocab_size as u32, len), batch);
            (Just(config), Just(seed), texts)
        }),
    ) {
        let model = random(&config, seed);
        let len = texts[0].len();
        let mut together = cache(&model, texts.len(), len);
        let mut alone: Vec<KvCache> = texts.iter().map(|_| cache(&model, 1, len)).collect();
        for position in 0..len {
            let step: Vec<[u32; 1]> = texts.iter().map(|text| [text[position]]).collect();
            let batched = bits(continued(&model, &step, &mut together));
            let single: Vec<u32> =
                step.iter().zip(&mut alone).flat_map(|(id, cache)| bits(continued(&model, &[id], cache))).collect();
            prop_assert_eq!(batched, single, "position {}", position);
        }
    }

    #[test]
    fn texts_in_a_batch_do_not_affect_each_other((config, seed, text) in pico::decoder_seed_and_text(), shift in 1u32..5) {
        let model = random(&config, seed);
        let vocab_size = config.vocab_size as u32;
        let other: Vec<u32> = text.iter().map(|id| (id + shift) % vocab_size).collect();
        prop_assume!(is_decided(&model, &text) && is_decided(&model, &other));
        let both = logits(&model, &[&text, &other]);
        let alone = [logits(&model, &[&text]), logits(&model, &[&other])];
        let alone = ndarray::concatenate![Axis(0), alone[0], alone[1]];
        let distance = relative_distance(&both, &alone);
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
    }

    #[test]
    fn a_truncated_cache_equals_a_cache_of_the_prefix(
        (config, seed, text) in pico::decoder_seed_and_text(),
        (kept, refed) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let model = random(&config, seed);
        let kept = 1 + kept.index(text.len() - 1);
        let (prefix, rest) = text.split_at(kept);
        let mut used = cache(&model, 1, 2 * text.len());
        continued(&model, &[prefix], &mut used);
        continued(&model, &[&text[refed.index(text.len())..]], &mut used);
        used.truncate(kept);
        prop_assert_eq!(used.lens(), [kept]);
        let mut fresh = cache(&model, 1, text.len());
        continued(&model, &[prefix], &mut fresh);
        prop_assert_eq!(bits(continued(&model, &[rest], &mut used)), bits(continued(&model, &[rest], &mut fresh)));
    }

    #[test]
    fn a_later_token_keeps_every_bit_of_earlier_logits_in_a_dense_model(
        (config, seed, text) in dense_decoder_seed_and_text(),
        at in any::<prop::sample::Index>(),
    ) {
        let model = random(&config, seed);
        let at = at.index(text.len());
        let logits = |text: &[u32]| bits(model.forward(tokens(&[text], &pico::device())).logits);
        let (before, after) = (logits(&text), logits(&with_another_token(&text, at, &config)));
        let earlier = at * config.vocab_size;
        prop_assert_eq!(&before[..earlier], &after[..earlier]);
        prop_assert_ne!(&before[earlier..], &after[earlier..]);
    }

    /// Up to rounding: the order in which products of an expert are summed depends on its number of tokens.
    #[test]
    fn a_later_token_does_not_change_earlier_logits(
        (config, seed, text) in pico::decoder_seed_and_text(),
        at in any::<prop::sample::Index>(),
    ) {
        let model = random(&config, seed);
        let at = at.index(text.len());
        let other = with_another_token(&text, at, &config);
        prop_assume!(is_decided(&model, &text) && is_decided(&model, &other));
        let (before, after) = (logits(&model, &[&text]), logits(&model, &[&other]));
        let distance = |rows: std::ops::Range<usize>| {
            let rows = ndarray::Slice::from(rows);
            let [after, before] = [&after, &before].map(|logits| logits.slice_axis(Axis(0), rows).to_owned());
            relative_distance(&after, &before)
        };
        prop_assert!(distance(0..at) <= 1e-5, "{:e} of the largest logit", distance(0..at));
        prop_assert!(distance(at..text.len()) > 1e-5, "the changed token has no effect");
    }

    #[test]
    fn sixteen_bit_weights_compute_as_their_values_in_float32(
        (config, seed, text) in pico::decoder_seed_and_text(),
        dtype in prop_oneof![Just(Dtype::Bfloat16), Just(Dtype::Float16)],
    ) {
        let weights = pico::random_weights(&config, seed);
        let rounded = MemoryWeights::new(config.clone(), |id| {
            let raw = weights.read(id).expect("weights in memory");
            if raw.shape().len() == 1 { raw } else { raw.cast(dtype).cast(Dtype::Float32) }
        });
        let wide = load(&rounded, &pico::device());
        prop_assume!(is_decided(&wide, &text));
        let narrow = AnyDecoder::load_as(&weights, dtype, &pico::device()).expect("in memory");
        let expected = logits(&wide, &[&text]);
        let distance = relative_distance(&logits(&narrow, &[&text]), &expected);
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
        let stepped = rows(in_pieces(&narrow, text.chunks(1), text.len()));
        let distance = relative_distance(&stepped, &expected);
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit, step by step");
        let unrounded = logits(&load(&weights, &pico::device()), &[&text]);
        prop_assert!(relative_distance(&unrounded, &expected) > 1e-5, "rounding has no effect");
    }
}

#[test]
fn a_cache_without_one_position_gives_other_logits() {
    let config = DecoderConfig::pico().with(|f| f.num_hidden_layers = 2).expect("two layers");
    let model = random(&config, 3);
    let text: Vec<u32> = (0..8).collect();
    let mut short = cache(&model, 1, 8);
    continued(&model, &[&text[..5]], &mut short);
    short.truncate(4);
    let found: Vec<f32> = continued(&model, &[&text[5..]], &mut short).into_data().iter::<f32>().collect();
    let whole = model.forward(tokens(&[&text], &pico::device())).logits;
    let expected: Vec<f32> = whole.slice([0..1, 5..8]).into_data().iter::<f32>().collect();
    assert!(relative(&found, &expected) > 1e-3);
}

#[test]
#[should_panic(expected = "a cache of 3 positions has no prefix of 4")]
fn a_cache_has_no_prefix_longer_than_itself() {
    let config = DecoderConfig::pico();
    let model = random(&config, 3);
    let mut cache = cache(&model, 1, 8);
    continued(&model, &[[1, 2, 3]], &mut cache);
    cache.truncate(4);
}

#[test]
fn unused_positions_of_a_config_cost_nothing() {
    let config = DecoderConfig::pico();
    let text: Vec<u32> = (0..130).map(|i| i * 7 % config.vocab_size as u32).collect();
    let found = |max_position_embeddings| {
        let config = config.with(|f| f.max_position_embeddings = max_position_embeddings).unwrap();
        let model = random(&config, 5);
        bits(in_pieces(&model, cut(&text, vec![3, 60, 70, 129]), text.len()))
    };
    // A table of 2^31 positions would take 2 TiB.
    assert_eq!(found(1 << 31), found(130));
    assert_eq!(found(usize::MAX), found(512));
}
