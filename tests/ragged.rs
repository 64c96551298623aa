//! Batches of sequences of different lengths, and of several documents a row: each sequence as if it were alone.

use burn::tensor::Tensor;
use deepwide::config::{DecoderConfig, DecoderFields, ModelType};
use deepwide::kernel::matrix_instructions;
use deepwide::model::{AnyDecoder, CausalLm, Fork, KvCache, TokenBatch, loss};
use deepwide::weights::TensorId;
use proptest::prelude::*;

use crate::models::{bits, gradients, load, margin, relative, rows, tokens, values};
use crate::pico;

/// Sequences of a batch.
const BATCH: usize = 3;
/// Rows of activations up to which a product is summed in one order, and above which in another.
const FEW_ROWS: usize = 24;
/// Rows above which CPUs with AMX sum in a third order.
const MANY_ROWS: usize = 79;

fn random(config: &DecoderConfig, seed: u64) -> AnyDecoder {
    load(&pico::random_weights(config, seed), &pico::device())
}

fn cache(model: &AnyDecoder, batch_size: usize) -> KvCache {
    KvCache::new(model.config(), batch_size, 64, &pico::device())
}

/// Logits of the first `len` tokens of one sequence.
fn logits(model: &AnyDecoder, hidden: &Tensor<3>, sequence: usize, len: usize) -> Vec<u32> {
    let [_, _, hidden_size] = hidden.dims();
    bits(model.lm_head(hidden.clone().slice([sequence..sequence + 1, 0..len, 0..hidden_size])))
}

/// The tokens that each sequence gets in some passes: none to eight.
fn passes(vocab_size: usize) -> impl Strategy<Value = Vec<[Vec<u32>; BATCH]>> {
    let some = || prop::collection::vec(0..vocab_size as u32, 0..=FEW_ROWS / BATCH);
    let pass = [some(), some(), some()].prop_filter("a pass has tokens", |pass| pass.iter().any(|ids| !ids.is_empty()));
    prop::collection::vec(pass, 1..=5)
}

fn decoder_and_passes() -> impl Strategy<Value = (DecoderConfig, u64, Vec<[Vec<u32>; BATCH]>)> {
    pico::decoders().prop_flat_map(|config| (Just(config.clone()), any::<u64>(), passes(config.vocab_size)))
}

proptest! {
    #![proptest_config(pico::cases(128))]

    #[test]
    fn each_sequence_of_a_ragged_batch_has_the_bits_of_the_sequence_alone(
        (config, seed, passes) in decoder_and_passes(),
        (replaced, kept) in (0..BATCH, any::<prop::sample::Index>()),
    ) {
        let (model, device) = (random(&config, seed), pico::device());
        let mut together = cache(&model, BATCH);
        let mut alone: [KvCache; BATCH] = std::array::from_fn(|_| cache(&model, 1));
        for (index, pass) in passes.iter().enumerate() {
            let hidden = model.hidden_states(TokenBatch::padded(pass, &device), Some(&mut together)).last;
            for (sequence, ids) in pass.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
                let expected = model.hidden_states(tokens(&[ids], &device), Some(&mut alone[sequence])).last;
                let found = logits(&model, &hidden, sequence, ids.len());
                prop_assert_eq!(found, logits(&model, &expected, 0, ids.len()), "pass {} of {}", index, sequence);
            }
            let lens: Vec<usize> = alone.iter().map(|cache| cache.lens()[0]).collect();
            prop_assert_eq!(together.lens(), lens);
            // One sequence goes back, or makes way for another.
            let len = kept.index(together.lens()[replaced] + 1);
            together.truncate_sequence(replaced, len);
            alone[replaced].truncate(len);
        }
    }

    #[test]
    fn each_sequence_of_a_padded_batch_without_a_cache_has_the_bits_of_the_sequence_alone(
        (config, seed, passes) in decoder_and_passes(),
    ) {
        let (model, device) = (random(&config, seed), pico::device());
        let hidden = model.hidden_states(TokenBatch::padded(&passes[0], &device), None).last;
        for (sequence, ids) in passes[0].iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let expected = model.hidden_states(tokens(&[ids], &device), None).last;
            prop_assert_eq!(logits(&model, &hidden, sequence, ids.len()), logits(&model, &expected, 0, ids.len()));
        }
    }

    #[test]
    fn long_sequences_of_a_padded_batch_have_the_bits_of_the_sequences_alone_unless_amx_sums_in_another_order(
        (config, seed, lens) in (pico::dense_decoders(), any::<u64>(), [FEW_ROWS + 1..=64, FEW_ROWS + 1..=64]),
    ) {
        let (model, device) = (random(&config, seed), pico::device());
        let texts = lens.map(|len| (0..len).map(|i| (i * i % config.vocab_size) as u32).collect::<Vec<_>>());
        let hidden = model.hidden_states(TokenBatch::padded(&texts, &device), None).last;
        let are_many = lens.iter().max().is_some_and(|longest| texts.len() * longest > MANY_ROWS);
        for (sequence, ids) in texts.iter().enumerate() {
            let expected = model.hidden_states(tokens(&[ids], &device), None).last;
            let (found, expected) = (logits(&model, &hidden, sequence, ids.len()), logits(&model, &expected, 0, ids.len()));
            if are_many && matrix_instructions().is_some() {
                let [found, expected] = [found, expected].map(|bits| bits.into_iter().map(f32::from_bits).collect::<Vec<_>>());
                prop_assert!(relative(&found, &expected) < 1e-5);
            } else {
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn copies_of_a_sequence_continue_with_the_bits_of_the_sequence_alone(
        (config, seed, passes) in decoder_and_passes(),
        (from, at) in (0..BATCH, 0..BATCH),
    ) {
        let (model, device) = (random(&config, seed), pico::device());
        let run = |cache: &mut KvCache, pass: &[Vec<u32>]| model.hidden_states(TokenBatch::padded(pass, &device), Some(cache)).last;
        let mut source = cache(&model, BATCH);
        for pass in &passes {
            run(&mut source, pass);
        }
        let texts: [Vec<u32>; BATCH] = std::array::from_fn(|i| (0..=i as u32).map(|id| id % config.vocab_size as u32).collect());
        let mut rows: Vec<usize> = (0..BATCH).collect();
        rows[at] = from;
        let mut gathered = source.gather(&rows, 72);
        let mut written = source.gather(&[0, 1, 2], 72);
        written.write_sequence(at, &source, from);
        let [forked, joined] = [&mut gathered, &mut written].map(|cache| run(cache, &texts));
        for (sequence, (origin, text)) in rows.iter().zip(&texts).enumerate() {
            let alone = run(&mut source.gather(&[*origin], 64), std::slice::from_ref(text));
            let expected = logits(&model, &alone, 0, text.len());
            prop_assert_eq!(&logits(&model, &forked, sequence, text.len()), &expected, "forked {}", sequence);
            prop_assert_eq!(&logits(&model, &joined, sequence, text.len()), &expected, "joined {}", sequence);
        }
        // The source has not changed.
        let after = run(&mut source, &texts);
        for (sequence, text) in texts.iter().enumerate() {
            let mut alone = cache(&model, 1);
            for pass in passes.iter().filter(|pass| !pass[sequence].is_empty()) {
                run(&mut alone, &pass[sequence..=sequence]);
            }
            let expected = run(&mut alone, std::slice::from_ref(text));
            prop_assert_eq!(logits(&model, &after, sequence, text.len()), logits(&model, &expected, 0, text.len()));
        }
    }

    #[test]
    fn a_packed_row_has_the_loss_and_the_gradients_of_its_documents_alone(
        (config, seed, documents) in pico::decoders().prop_flat_map(|config| {
            let document = prop::collection::vec(0..config.vocab_size as u32, 1..=9);
            (Just(config), any::<u64>(), prop::collection::vec(document, 2..=4))
        }),
    ) {
        let device = pico::device().autodiff();
        let model = load(&pico::random_weights(&config, seed), &device);
        let num_tokens: usize = documents.iter().map(Vec::len).sum();
        // Every token is its own target: no document's last one needs another.
        let packed = TokenBatch::packed(&[&documents], &device);
        let states = model.hidden_states(packed.clone(), None);
        prop_assume!(margin(&states.routing) > 1e-4);
        let found = loss::mean(model.token_losses(states.last, packed.ids.clone()));
        let alone = documents.iter().map(|ids| {
            let ids = tokens(&[ids], &device);
            model.token_losses(model.hidden_states(ids.clone(), None).last, ids).sum()
        });
        let expected = alone.reduce(|sum, loss| sum + loss).expect("documents") / num_tokens as f64;
        let [loss, alone] = [&found, &expected].map(|loss| loss.clone().into_scalar::<f32>());
        prop_assert!((loss - alone).abs() <= 1e-5 * alone, "{} instead of {}", loss, alone);
        let [found, expected] = [found, expected].map(|loss| gradients(&model, loss));
        for id in TensorId::all(&config) {
            let off = relative(&values(&found, id), &values(&expected, id));
            prop_assert!(off <= 1e-3 || values(&expected, id).iter().all(|x| x.abs() < 1e-6), "{:?}: {:e}", id, off);
        }
    }
}

/// Texts, each with its continuations.
type Texts = Vec<(Vec<u32>, Vec<Vec<u32>>)>;

fn forked(texts: &Texts) -> TokenBatch {
    let forks = texts.iter().map(|(prefix, continuations)| Fork {
        prefix,
        continuations: continuations.iter().map(Vec::as_slice).collect(),
    });
    TokenBatch::forked(&forks.collect::<Vec<_>>(), &pico::device())
}

fn texts(vocab_size: usize) -> impl Strategy<Value = Texts> {
    let ids = move |most| prop::collection::vec(0..vocab_size as u32, 1..=most);
    prop::collection::vec((ids(40), prop::collection::vec(ids(9), 0..=4)), 1..=3)
}

proptest! {
    #![proptest_config(pico::cases(64))]

    #[test]
    fn a_continuation_in_a_forked_row_has_the_logits_of_its_whole_text_alone(
        (config, seed, texts) in pico::decoders()
            .prop_map(|config| config.with(|fields| fields.sliding_window = None).expect("sound"))
            .prop_flat_map(|config| (Just(config.clone()), any::<u64>(), texts(config.vocab_size))),
    ) {
        let model = random(&config, seed);
        let states = model.hidden_states(forked(&texts), None);
        prop_assume!(margin(&states.routing) > 1e-4);
        let found = rows(model.lm_head(states.last));
        let mut row = 0;
        let mut check = |whole: &[u32], len: usize| {
            let alone = crate::models::logits(&model, &[whole]);
            let expected = alone.rows().into_iter().skip(whole.len() - len);
            for (found, expected) in found.rows().into_iter().skip(row).zip(expected) {
                let size = expected.iter().fold(1.0_f64, |size, logit| size.max(logit.abs()));
                let is_near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * size);
                prop_assert!(is_near, "{} instead of {}", found, expected);
            }
            row += len;
            Ok(())
        };
        for (prefix, continuations) in &texts {
            check(prefix, prefix.len())?;
            for continuation in continuations {
                check(&[prefix.as_slice(), continuation].concat(), continuation.len())?;
            }
        }
        prop_assert_eq!(row, found.nrows());
    }
}

#[test]
fn continuations_that_saw_each_other_would_be_noticed() {
    let model = random(&DecoderConfig::pico(), 7);
    let of = |texts: Texts| rows(model.lm_head(model.hidden_states(forked(&texts), None).last));
    let apart = of(vec![(vec![3, 1, 4], vec![vec![1, 5], vec![9, 2]])]);
    let together = of(vec![(vec![3, 1, 4], vec![vec![1, 5, 9, 2]])]);
    let off = |row: usize| (&apart.row(row) - &together.row(row)).iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    assert!((0..5).all(|row| off(row) < 1e-5));
    assert!((5..7).all(|row| off(row) > 1e-3));
}

#[test]
#[should_panic(expected = "continuations beyond a sliding window")]
fn continuations_beyond_a_sliding_window_are_refused() {
    let mistral = |fields: &mut DecoderFields| {
        (fields.model_type, fields.sliding_window) = (ModelType::Mistral, Some(4));
    };
    let config = DecoderConfig::pico().with(mistral).expect("sound");
    let model = random(&config, 1);
    model.hidden_states(forked(&vec![(vec![3, 1], vec![vec![1, 4], vec![5, 9]])]), None);
    model.hidden_states(forked(&vec![(vec![3, 1], vec![vec![1, 4, 2], vec![5]])]), None);
}

#[test]
fn documents_that_saw_each_other_would_be_noticed() {
    let (model, device) = (random(&DecoderConfig::pico(), 7), pico::device());
    let packed = TokenBatch::packed(&[[[3, 1, 4, 1], [5, 9, 2, 6]]], &device);
    let losses = |tokens: TokenBatch| {
        let ids = tokens.ids.clone();
        model
            .token_losses(model.hidden_states(tokens, None).last, ids)
            .into_data()
            .try_into_vec::<f32>()
            .expect("losses")
    };
    let (apart, together) = (losses(packed.clone()), losses(packed.ids.into()));
    assert!(relative(&together[..4], &apart[..4]) < 1e-6);
    assert!(relative(&together[4..], &apart[4..]) > 1e-3);
}

#[test]
#[should_panic(expected = "documents cannot be packed behind cached tokens")]
fn documents_are_not_packed_behind_a_cache() {
    let (model, device) = (random(&DecoderConfig::pico(), 1), pico::device());
    let mut cache = cache(&model, 1);
    model.hidden_states(tokens(&[[1, 2]], &device), Some(&mut cache));
    model.hidden_states(TokenBatch::packed(&[[[1], [2]]], &device), Some(&mut cache));
}

#[test]
#[should_panic(expected = "sequences of a cache and of a batch")]
fn a_cache_of_other_sequences_is_refused() {
    let (model, device) = (random(&DecoderConfig::pico(), 1), pico::device());
    model.hidden_states(tokens(&[[1, 2]], &device), Some(&mut cache(&model, 2)));
}

#[test]
#[should_panic(expected = "a pass of no tokens")]
fn a_pass_of_no_tokens_is_refused() {
    let (model, device) = (random(&DecoderConfig::pico(), 1), pico::device());
    model.hidden_states(TokenBatch::padded(&[[0u32; 0]; 2], &device), None);
}
