//! Routers that are made of prompts.

use std::fs;

use deepwide::formats::HfDirectory;
use deepwide::weights::{LayerTensor, TensorId, WeightSource};

use super::{printed, run, tiny_base};

/// `v / ‖v‖`.
fn normalised(vector: &[f64]) -> Vec<f64> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

#[test]
fn routers_of_prompts_know_their_prompts() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let (prompts, out) = (root.path().join("prompts"), root.path().join("out"));
    fs::write(&prompts, "w1 w2 w3\nw40 w41 w42\nw20 w21\n").unwrap();
    let words = ["grow", "--moe", "3", "--router", "hidden", "--prompts", prompts.to_str().unwrap()];
    printed(&[&words[..], &[base.to_str().unwrap(), out.to_str().unwrap()]].concat());
    let grown = HfDirectory::open(&out).unwrap();
    let router = grown.read(TensorId::Layer(1, LayerTensor::Router)).unwrap().to_f32();
    for row in router.chunks(32) {
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 0.01, "a row has length {norm}");
    }
    fs::write(&prompts, "w1\n\nw2\n").unwrap();
    let other = root.path().join("other");
    let output = run(&[&words[..], &[base.to_str().unwrap(), other.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a prompt of expert 1 has no token"));
}

#[test]
fn cheap_embed_adds_up_all_tokens_of_all_prompts_as_mergekit_does() {
    let root = tempfile::tempdir().unwrap();
    let base = HfDirectory::open(&tiny_base(&root.path().join("base"))).unwrap();
    let experts = "experts:\n\
        - {source_model: base, positive_prompts: [w1 w2 w3, w4], negative_prompts: [w5 w6, w7]}\n\
        - {source_model: base, positive_prompts: [w20]}\n";
    let (config, out) = (root.path().join("moe.yml"), root.path().join("out"));
    fs::write(&config, format!("base_model: base\ngate_mode: cheap_embed\ndtype: float32\n{experts}")).unwrap();
    printed(&["grow", config.to_str().unwrap(), out.to_str().unwrap()]);
    let embeddings = base.read(TensorId::EmbedTokens).unwrap().to_f32();
    // Word i has id i + 3; before each prompt stands <bos>, 0.
    let bag = |prompts: &[&[usize]]| {
        let ids = prompts.iter().flat_map(|words| std::iter::once(0).chain(words.iter().map(|word| word + 3)));
        let ids: Vec<usize> = ids.collect();
        let sum = |i: usize| ids.iter().map(|id| f64::from(embeddings[id * 32 + i])).sum();
        normalised(&(0..32).map(sum).collect::<Vec<f64>>())
    };
    let away: Vec<f64> = bag(&[&[1, 2, 3], &[4]]).iter().zip(bag(&[&[5, 6], &[7]])).map(|(p, n)| p - n).collect();
    let expected = [normalised(&away), bag(&[&[20]])].concat();
    let grown = HfDirectory::open(&out).unwrap();
    for layer in 0..2 {
        let router = grown.read(TensorId::Layer(layer, LayerTensor::Router)).unwrap().to_f32();
        assert_eq!(router.len(), expected.len());
        for (found, expected) in router.into_iter().zip(&expected) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
