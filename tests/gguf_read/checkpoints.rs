//! Whole files that gguf-py wrote: weights as gguf-py and transformers read them, logits as transformers computes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use deepwide::config::ModelType;
use deepwide::formats::gguf::{GgufFile, dequantize};
use deepwide::formats::{License, Origin};
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, RawTensor, TensorId, WeightSource};
use ndarray::Array2;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::builder;
use crate::models::{load, logits};
use crate::pico;

const FILES: [(&str, &str); 3] = [("dense.gguf", "dense"), ("merged.gguf", "mixture"), ("apart.gguf", "mixture")];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn opened(name: &str) -> GgufFile {
    GgufFile::open(&path(name)).unwrap()
}

/// Type, shape and SHA-256 of every weight of a file, by its name in Hugging Face's files.
type Weights = BTreeMap<String, (String, Vec<usize>, String)>;

fn weights(source: &impl WeightSource) -> Weights {
    let weight = |id| {
        let tensor = source.read(id).unwrap();
        let sha256 = Sha256::digest(tensor.bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        (id.to_string(), (tensor.dtype().to_string(), tensor.shape().to_vec(), sha256))
    };
    TensorId::all(source.config()).into_iter().map(weight).collect()
}

fn expected(name: &str) -> Weights {
    let mut all: BTreeMap<String, Weights> = serde_json::from_slice(&golden("tensors.json")).unwrap();
    all.remove(name).unwrap()
}

/// A file in a folder of its own.
fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (root, path)
}

#[test]
fn a_file_tells_its_licence_its_models_and_its_file_type_where_it_knows_them() {
    let told = builder::llama()
        .with("general.file_type", builder::u32_(15))
        .with("general.license", builder::text("other"))
        .with("general.license.name", builder::text("llama3"))
        .with("general.license.link", builder::text("not a link"))
        .with("general.base_model.count", builder::u32_(3))
        .with("general.base_model.0.repo_url", builder::text("https://huggingface.co/org/base"))
        .with("general.base_model.2.repo_url", builder::text("https://elsewhere.org/a/b"));
    let (_root, path) = file(&told.bytes());
    let file = GgufFile::open(&path).unwrap();
    let license = License { id: "other".to_owned(), name: Some("llama3".to_owned()), link: None };
    let origin = file.origin().unwrap();
    assert_eq!((origin.license, origin.base_models), (Some(license), vec!["org/base".to_owned()]));
    assert_eq!(file.file_type().unwrap(), Some("Q4_K - Medium"));
}

#[test]
fn what_a_file_tells_of_itself_in_the_wrong_type_is_not_known() {
    let wrong = builder::llama()
        .with("general.file_type", builder::text("Q4_0"))
        .with("general.license", builder::u32_(1))
        .with("general.base_model.count", builder::f32_(1.0));
    let (_root, path) = file(&wrong.bytes());
    let file = GgufFile::open(&path).unwrap();
    assert_eq!((file.origin().unwrap(), file.file_type().unwrap()), (Origin::default(), None));
}

#[test]
fn every_weight_is_the_one_that_gguf_py_and_transformers_read() {
    for (name, answers) in FILES {
        assert_eq!(weights(&opened(name)), expected(answers), "{name}");
    }
    let tensors = FILES.iter().flat_map(|(name, _)| opened(name).stored_tensors());
    let types: BTreeSet<String> = tensors.map(|tensor| tensor.format).collect();
    assert_eq!(types.len(), 15, "every type that is read: {types:?}");
}

#[test]
fn keys_become_a_config() {
    let dense = opened("dense.gguf");
    let config = dense.config();
    assert_eq!((config.model_type, config.tie_word_embeddings, config.vocab_size), (ModelType::Llama, false, 61));
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_hidden_layers), (64, 96, 2));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 16));
    assert_eq!((config.max_position_embeddings, config.rope_theta, config.rms_norm_eps), (64, 500.0, 1e-5));
    let apart = opened("apart.gguf");
    let moe = apart.config().moe.unwrap();
    assert_eq!((apart.config().model_type, moe.num_local_experts, moe.num_experts_per_tok), (ModelType::Mixtral, 2, 1));
    assert_eq!(apart.config(), opened("merged.gguf").config());
}

#[test]
fn both_versions_are_read_alike() {
    let mut bytes = golden("dense.gguf");
    assert_eq!(bytes[4], 3);
    bytes[4] = 2;
    let (_root, path) = file(&bytes);
    let second = GgufFile::open(&path).unwrap();
    assert_eq!((second.version(), weights(&second)), (2, expected("dense")));
}

/// Texts, and the logits that transformers computed, a row a token.
fn answers() -> (Vec<Vec<u32>>, Array2<f64>) {
    let bytes = golden("dense.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    let ids: Vec<u32> = words("input_ids").into_iter().map(u32::from_le_bytes).collect();
    let texts = ids.chunks(ids.len() / 2).map(<[u32]>::to_vec).collect();
    let values = words("logits").into_iter().map(|bytes| f64::from(f32::from_le_bytes(bytes))).collect();
    (texts, Array2::from_shape_vec((ids.len(), 61), values).unwrap())
}

fn furthest(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).iter().fold(0.0, |furthest, difference| difference.abs().max(furthest))
}

#[test]
fn logits_equal_those_of_transformers_and_not_with_rows_as_llama_cpp_keeps_them() {
    let source = opened("dense.gguf");
    let (texts, expected) = answers();
    let device = pico::device();
    let off = furthest(&logits(&load(&source, &device), &texts), &expected);
    assert!(off <= 1e-4, "off by {off}");

    let config = source.config();
    let kept = MemoryWeights::new(config.clone(), |id| {
        let tensor = source.read(id).unwrap().cast(Dtype::Float32);
        let TensorId::Layer(_, LayerTensor::QProj | LayerTensor::KProj) = id else { return tensor };
        let (half, rows) = (config.head_dim / 2, tensor.bytes().chunks(4 * config.hidden_size));
        let rows: Vec<&[u8]> = rows.collect();
        // Row 2·i + j of a head there is row j·half + i here.
        let theirs = (0..rows.len()).map(|row| (row / (2 * half), row % (2 * half)));
        let bytes = theirs.flat_map(|(head, row)| rows[head * 2 * half + row % 2 * half + row / 2]).copied().collect();
        RawTensor::new(Dtype::Float32, tensor.shape().to_vec(), bytes)
    });
    let off = furthest(&logits(&load(&kept, &device), &texts), &expected);
    assert!(off > 0.1, "the order of rows would not matter: off by {off}");
}

#[test]
fn packed_blocks_hold_the_numbers_of_the_weight() {
    for (name, _) in FILES {
        let source = opened(name);
        for id in TensorId::all(source.config()) {
            let tensor = source.read(id).unwrap();
            let Some((ty, bytes)) = source.read_packed(id).unwrap() else { continue };
            let mut numbers = Vec::new();
            dequantize(ty, &bytes, &mut numbers);
            assert!(numbers == tensor.to_f32(), "{name}: {id:?}");
        }
        let packed = TensorId::all(source.config()).into_iter().filter(|id| source.read_packed(*id).unwrap().is_some());
        let stored = source.stored_tensors().into_iter().filter(|tensor| tensor.format.contains('Q'));
        let experts = if name == "merged.gguf" { 2 * 3 } else { 0 };
        assert_eq!(packed.count(), stored.count() + experts, "{name}");
    }
}

#[test]
fn parts_are_one_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    for (number, part) in (1..).zip(builder::parts(3)) {
        std::fs::write(root.path().join(format!("m-{number:05}-of-00003.gguf")), part.bytes()).unwrap();
    }
    let parts = GgufFile::open(&root.path().join("m-00001-of-00003.gguf")).unwrap();
    let (_root, path) = file(&builder::llama().bytes());
    let whole = GgufFile::open(&path).unwrap();
    assert_eq!((parts.config(), weights(&parts)), (whole.config(), weights(&whole)));
    assert_eq!((parts.weight_files().len(), whole.weight_files().len()), (3, 1));
}

#[test]
fn an_id_that_names_no_token_means_that_there_is_no_such_token() {
    let with = |pad: builder::Value, eos: u32| {
        let bytes = builder::llama()
            .with("tokenizer.ggml.model", builder::text("llama"))
            .with("tokenizer.ggml.tokens", builder::texts(&["a", "b", "c", "d"]))
            .with("tokenizer.ggml.padding_token_id", pad)
            .with("tokenizer.ggml.eos_token_id", builder::u32_(eos))
            .with("tokenizer.ggml.add_eos_token", builder::Value { kind: 7, bytes: vec![1] })
            .bytes();
        let (_root, path) = file(&bytes);
        let file = GgufFile::open(&path).unwrap();
        (file.vocabulary().unwrap().unwrap(), file.notices())
    };
    let minus_1 = || builder::Value { kind: 5, bytes: (-1i32).to_le_bytes().into() };
    for pad in [builder::u32_(u32::MAX), minus_1()] {
        let (vocabulary, notices) = with(pad, 32_000);
        assert_eq!((vocabulary.pad, vocabulary.eos, vocabulary.add_eos), (None, None, Some(false)));
        let [eos, pad] = &notices[..] else { panic!("{notices:?}") };
        assert!(eos.contains("eos_token_id is 32000, which names none of the 4 tokens"), "{eos}");
        assert!(pad.contains("padding_token_id is -1"), "{pad}");
    }
    let (vocabulary, notices) = with(builder::u32_(0), 2);
    assert_eq!((vocabulary.pad, vocabulary.eos, vocabulary.add_eos), (Some(0), Some(2), Some(true)));
    assert!(notices.is_empty(), "{notices:?}");
}
