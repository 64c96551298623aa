//! Low-rank adapters: on every linear map they compute and learn what the merged matrices would, and nothing else learns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use deepwide::config::{DecoderConfig, MoeConfig};
use deepwide::kernel::blocks::BlockFormat;
use deepwide::load::Precision;
use deepwide::lora::{LoraAdapter, LoraConfig, LoraError, Modules, module_name};
use deepwide::model::{AnyDecoder, CausalLm, KvCache};
use deepwide::train::{AdamW, AdamWConfig};
use deepwide::weights::{LowRank, TensorId};

use crate::models::{all_bytes, bits, gradients, load, next_token_losses, relative, rows, tokens, values};
use crate::pico;
use crate::training::written_state;

const TEXT: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

fn dense() -> DecoderConfig {
    let config = DecoderConfig::smollm2_135m().with(|f| {
        (f.hidden_size, f.intermediate_size, f.num_hidden_layers, f.vocab_size) = (32, 64, 2, 11);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
        f.tie_word_embeddings = false;
    });
    config.expect("a small decoder")
}

fn sparse() -> DecoderConfig {
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
    dense().with_experts(moe).expect("experts for a dense decoder")
}

/// All linear maps, the head among them.
fn everything() -> LoraConfig {
    let target_modules = Modules::matching("target_modules", ".*").expect("a pattern");
    LoraConfig { r: 3, lora_alpha: 6.0, target_modules, ..LoraConfig::default() }
}

fn only(name: &str) -> LoraConfig {
    LoraConfig { target_modules: Modules::Named(vec![name.to_owned()]), ..everything() }
}

/// An adapter in training: `B` is not zero any more.
fn trained(config: LoraConfig, decoder: &DecoderConfig) -> LoraAdapter {
    let initial = LoraAdapter::initial(config.clone(), decoder, 5).expect("targets");
    let update = |(at, (id, update)): (usize, (TensorId, &Arc<LowRank>))| {
        let b = (0..update.b.len()).map(|i| ((i * 7 + at * 3) % 11) as f32 / 25.0 - 0.2).collect();
        (id, Arc::new(LowRank { b, ..(**update).clone() }))
    };
    LoraAdapter::new(config, decoder, initial.updates().enumerate().map(update).collect()).expect("the same sizes")
}

fn base(config: &DecoderConfig, device: &Device) -> AnyDecoder {
    load(&pico::random_weights(config, 7), device)
}

fn adapted(config: LoraConfig, decoder: &DecoderConfig, device: &Device) -> AnyDecoder {
    base(decoder, device).with_adapter(&trained(config, decoder)).expect("an adapter of this decoder")
}

/// The logits of a prefill, and of a decoding step that follows a prompt.
fn logits(model: &AnyDecoder) -> [Vec<f32>; 2] {
    let device = pico::device();
    let values = |logits: Tensor<3>| rows(logits).into_iter().map(|x| x as f32).collect();
    let mut cache = KvCache::new(model.config(), 1, TEXT.len(), &device);
    let (prompt, last) = TEXT.split_at(TEXT.len() - 1);
    model.hidden_states(tokens(&[prompt], &device), Some(&mut cache));
    let decoded = model.hidden_states(tokens(&[last], &device), Some(&mut cache)).last;
    [values(model.forward(tokens(&[TEXT], &device)).logits), values(model.lm_head(decoded))]
}

/// The gradients of the factors of the adapter, and how many parameters have a gradient.
fn adapter_gradients(model: &AnyDecoder) -> (LoraAdapter, usize) {
    struct Gradients(GradientsParams, usize);

    impl ModuleMapper for Gradients {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(gradient) = self.0.remove::<D>(param.id) else { return param };
            self.1 += 1;
            let (id, _, mapper) = param.consume();
            Param::from_mapped_value(id, gradient, mapper)
        }
    }

    let (loss, _) = next_token_losses(model, &[TEXT], &pico::device().autodiff());
    let mut gradients = Gradients(GradientsParams::from_grads(loss.backward(), model), 0);
    let model = model.clone().map(&mut gradients);
    (model.adapter().expect("it has one"), gradients.1)
}

#[test]
fn a_new_adapter_changes_no_logit() {
    for decoder in [dense(), sparse()] {
        let base = base(&decoder, &pico::device());
        let expected = logits(&base);
        for name in ["q_proj", "o_proj", "lm_head"] {
            assert_eq!(logits(&base.clone().with_lora(only(name), 1).unwrap()), expected, "{name}");
        }
        let found = logits(&base.with_lora(everything(), 1).unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(relative(found, expected) < 1e-5);
        }
    }
}

#[test]
fn an_adapted_model_computes_what_its_merged_weights_compute() {
    let device = pico::device();
    for decoder in [dense(), sparse()] {
        let model = adapted(everything(), &decoder, &device);
        let merged = load(&model.to_weights(), &device);
        let unadapted = logits(&base(&decoder, &device));
        for ((found, expected), other) in logits(&model).iter().zip(&logits(&merged)).zip(&unadapted) {
            assert!(relative(found, expected) < 1e-5, "{}", relative(found, expected));
            assert!(relative(other, expected) > 0.05, "the adapter changes nothing");
        }
    }
}

#[test]
fn an_adapter_of_any_one_linear_map_changes_prefill_and_decoding() {
    for decoder in [dense(), sparse()] {
        let expected = logits(&base(&decoder, &pico::device()));
        for name in TensorId::all(&decoder).into_iter().filter_map(module_name) {
            // An expert may be one that no token visits, so all of a layer together.
            let config = match name.split_once(".experts.") {
                Some((layer, expert)) => {
                    let projection = expert.split_once('.').expect("expert.projection").1;
                    let pattern = format!("{layer}.experts.\\d+.{projection}");
                    LoraConfig {
                        target_modules: Modules::matching("target_modules", &pattern).unwrap(),
                        ..everything()
                    }
                }
                None => only(&name),
            };
            let [prefill, decoded] = logits(&adapted(config, &decoder, &pico::device()));
            assert!(prefill != expected[0] && decoded != expected[1], "{name} is bypassed");
        }
    }
}

#[test]
fn factors_have_the_gradients_of_the_merged_matrix_and_nothing_else_has_one() {
    let device = pico::device().autodiff();
    for decoder in [dense(), sparse()] {
        let model = adapted(everything(), &decoder, &device);
        let (found, count) = adapter_gradients(&model);
        assert_eq!(count, 2 * found.updates().count(), "parameters with a gradient");
        let merged = load(&model.to_weights(), &device);
        let (loss, _) = next_token_losses(&merged, &[TEXT], &device);
        let of_weights = gradients(&merged, loss);
        for (id, update) in trained(everything(), &decoder).updates() {
            let ([rows, columns], rank, scale) = (update.dims(), update.rank, update.scale as f32);
            let dw = values(&of_weights, id);
            let mut expected =
                LowRank { a: vec![0.0; rank * columns], b: vec![0.0; rows * rank], ..(**update).clone() };
            for i in 0..rows {
                for j in 0..columns {
                    for k in 0..rank {
                        expected.a[k * columns + j] += scale * update.b[i * rank + k] * dw[i * columns + j];
                        expected.b[i * rank + k] += scale * dw[i * columns + j] * update.a[k * columns + j];
                    }
                }
            }
            let found = found.get(id).unwrap();
            for (found, expected) in [(&found.a, &expected.a), (&found.b, &expected.b)] {
                let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= 2e-4 * largest + 1e-7, "{id}: off by {off} of {largest}");
            }
        }
    }
}

#[test]
fn an_update_moves_the_adapter_alone_and_keeps_moments_of_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let device = pico::device().autodiff();
    for (decoder, name) in [(dense(), "mlp.up_proj"), (sparse(), "block_sparse_moe.experts.3.w2")] {
        let model = base(&decoder, &device).with_lora(everything(), 2).unwrap();
        let before = model.adapter().unwrap();
        let weights = all_bytes(&model.clone().without_adapter().to_weights());
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let step = |optimizer: &mut AdamW, model: AnyDecoder| {
            let (loss, _) = next_token_losses(&model, &[TEXT], &device);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            optimizer.step(model, grads, 1e-2, 1.0)
        };
        let model = step(&mut optimizer, model);
        assert!(all_bytes(&model.clone().without_adapter().to_weights()) == weights, "the base moved");
        assert_ne!(model.adapter().unwrap(), before);
        let path = written_state(&optimizer, folder.path());
        let bytes = std::fs::read(&path).unwrap();
        let names: BTreeSet<String> =
            safetensors::SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect();
        assert!(names.contains(&format!("model.layers.0.{name}.lora_A.weight.exp_avg")), "{names:?}");
        assert!(names.contains("model.layers.1.self_attn.q_proj.lora_B.weight.exp_avg_sq"), "{names:?}");
        assert_eq!(names.len(), 4 * before.updates().count(), "{names:?}");
        // Read back, the next step is to the bit the one that would have followed.
        let again = AdamW::read(AdamWConfig::default(), &model, &path).unwrap();
        let [expected, found] = [optimizer, again].map(|mut optimizer| step(&mut optimizer, model.clone()).adapter());
        assert_eq!(found, expected);
    }
}

#[test]
fn a_model_without_its_adapter_is_the_base_to_the_bit() {
    let device = pico::device();
    let base = base(&dense(), &device);
    let model = adapted(everything(), &dense(), &device);
    let logits = |model: &AnyDecoder| bits(model.forward(tokens(&[TEXT], &device)).logits);
    assert_ne!(logits(&model), logits(&base));
    assert_eq!(logits(&model.clone().without_adapter()), logits(&base));
    assert!(model.without_adapter().adapter().is_none());
}

#[test]
fn the_values_of_an_adapter_survive_the_model() {
    for decoder in [dense(), sparse()] {
        let adapter = trained(everything(), &decoder);
        assert_eq!(adapted(everything(), &decoder, &pico::device()).adapter(), Some(adapter));
    }
}

#[test]
fn an_adapter_of_quantized_weights_learns_as_one_of_their_values() {
    let device = pico::device().autodiff();
    for decoder in [dense(), sparse()] {
        let weights = pico::random_weights(&decoder, 7);
        let quantized = AnyDecoder::load_as(&weights, Precision::Blocks(Some(BlockFormat::Q8_0)), &device).unwrap();
        assert_eq!(quantized.footprint().main_format(), Some("Q8_0"), "the base stays in blocks");
        let values = load(&quantized.to_weights(), &device);
        let adapter = trained(everything(), &decoder);
        let of = |base: AnyDecoder| adapter_gradients(&base.with_adapter(&adapter).unwrap()).0;
        let (found, expected) = (of(quantized), of(values));
        for (id, update) in found.updates() {
            let expected = expected.get(id).unwrap();
            for (found, expected) in [(&update.a, &expected.a), (&update.b, &expected.b)] {
                assert!(relative(found, expected) < 1e-4, "{id}: off by {}", relative(found, expected));
            }
        }
    }
}

/// The names that a config targets in a decoder.
fn targets(config: &LoraConfig, decoder: &DecoderConfig) -> Result<Vec<String>, LoraError> {
    let targets = config.targets(decoder)?;
    Ok(targets.iter().map(|target| module_name(target.id).expect("a linear map")).collect())
}

#[test]
fn targets_are_chosen_as_peft_chooses_them() {
    let count = |config: &LoraConfig| targets(config, &dense()).map(|targets| targets.len());
    let all = LoraConfig::default();
    assert_eq!(count(&all).unwrap(), 2 * 7, "all-linear leaves the head out");
    assert_eq!(targets(&all, &sparse()).unwrap().len(), 2 * (4 + 1 + 3 * 4));
    assert_eq!(count(&only("q_proj")).unwrap(), 2);
    assert_eq!(count(&only("lm_head")).unwrap(), 1);
    assert_eq!(targets(&only("model.layers.1.mlp.up_proj"), &dense()).unwrap(), ["model.layers.1.mlp.up_proj"]);
    // The end of a name is whole parts of it.
    assert!(matches!(count(&only("proj")), Err(LoraError::NoTarget { .. })));
    let in_layer = |config: LoraConfig| LoraConfig { layers_to_transform: Some(vec![1]), ..config };
    assert_eq!(targets(&in_layer(only("q_proj")), &dense()).unwrap(), ["model.layers.1.self_attn.q_proj"]);
    let pattern =
        |text: &str| LoraConfig { target_modules: Modules::matching("target_modules", text).unwrap(), ..everything() };
    assert_eq!(count(&pattern(r".*\.[qv]_proj")).unwrap(), 4);
    assert_eq!(count(&in_layer(pattern(r".*\.[qv]_proj"))).unwrap(), 4, "layers do not limit a pattern");
    assert!(count(&pattern("q_proj")).is_err(), "a pattern is for the whole name");
    let without = LoraConfig { exclude_modules: Some(Modules::Named(vec!["down_proj".to_owned()])), ..all };
    assert_eq!(count(&without).unwrap(), 2 * 6);
}

#[test]
fn patterns_choose_rank_and_scale_and_the_first_match_counts() {
    let config = LoraConfig {
        rank_pattern: vec![("layers.1.self_attn.q_proj".to_owned(), 16), ("q_proj".to_owned(), 4)],
        alpha_pattern: vec![("[qk]_proj".to_owned(), 32.0)],
        ..LoraConfig::default()
    };
    let of = |config: &LoraConfig, name: &str| {
        let targets = config.targets(&dense()).unwrap();
        let target = targets.iter().find(|target| module_name(target.id).unwrap() == name).unwrap();
        (target.rank, target.scale)
    };
    assert_eq!(of(&config, "model.layers.0.self_attn.q_proj"), (4, 8.0));
    assert_eq!(of(&config, "model.layers.1.self_attn.q_proj"), (16, 2.0));
    assert_eq!(of(&config, "model.layers.1.self_attn.k_proj"), (8, 4.0));
    assert_eq!(of(&config, "model.layers.1.self_attn.v_proj"), (8, 1.0));
    let stabilized = LoraConfig { use_rslora: true, ..config };
    assert_eq!(of(&stabilized, "model.layers.1.self_attn.q_proj"), (16, 8.0));
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let message = |config: LoraConfig| targets(&config, &dense()).unwrap_err().to_string();
    assert_eq!(message(LoraConfig { r: 0, ..everything() }), "found rank 0, expected at least 1");
    let large =
        "found rank 33 for model.layers.0.self_attn.q_proj.weight, expected at most 32, the larger of its sizes";
    assert_eq!(message(LoraConfig { r: 33, ..everything() }), large);
    let zero = LoraConfig { rank_pattern: vec![("q_proj".to_owned(), 0)], ..everything() };
    assert_eq!(message(zero), "found rank 0 for \"q_proj\", expected at least 1");
    assert_eq!(
        message(only("query")),
        "found no linear map of the decoder in query, expected some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, \
         down_proj, lm_head"
    );
    assert!(message(LoraConfig { lora_alpha: f64::NAN, ..everything() }).contains("lora_alpha NaN"));
    assert!(Modules::matching("target_modules", "(").unwrap_err().to_string().contains("target_modules"));
    // A tied head is the table of embeddings, and no linear map.
    let tied = dense().with(|f| f.tie_word_embeddings = true).unwrap();
    assert!(matches!(targets(&only("lm_head"), &tied), Err(LoraError::NoTarget { .. })));
    let other = trained(everything(), &sparse());
    assert!(matches!(base(&dense(), &pico::device()).with_adapter(&other), Err(LoraError::Mismatch { .. })));
}

#[test]
fn an_initial_factor_is_uniform_and_a_function_of_the_seed_and_its_matrix() {
    let initial = |config, seed| LoraAdapter::initial(config, &sparse(), seed).unwrap();
    let all = initial(everything(), 3);
    let mut seen: BTreeMap<Vec<u32>, TensorId> = BTreeMap::new();
    for (id, update) in all.updates() {
        let [_, columns] = update.dims();
        let bound = 1.0 / (columns as f32).sqrt();
        let largest = update.a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "{id}: {largest} of {bound}");
        assert!(update.b.iter().all(|b| *b == 0.0));
        let other = seen.insert(update.a.iter().map(|x| x.to_bits()).collect(), id);
        assert!(other.is_none(), "{id} and {other:?} have the same numbers");
    }
    let one = initial(only("v_proj"), 3);
    assert!(one.updates().all(|(id, update)| all.get(id) == Some(update)), "other targets do not matter");
    assert_ne!(initial(everything(), 4), all);
}
