//! Directories with `tokenizer.model` alone, against the ids that transformers gives and what llama.cpp's converter writes.

use std::fs;
use std::path::{Path, PathBuf};

use deepwide::error::ErrorKind;
use deepwide::formats::Checkpoint;
use deepwide::formats::gguf::GgufVocabulary;
use deepwide::output::disk::disk;
use deepwide::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};
use tempfile::TempDir;

const FOLDERS: [&str; 6] = ["defaults", "llama", "legacy", "symbols", "no_prefix", "unigram"];

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece").join(folder)
}

fn expected(folder: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(folder).join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A copy of a folder that can be changed.
fn copy(folder: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(folder)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    directory
}

fn with_config(folder: &str, config: &Value) -> TempDir {
    let directory = copy(folder);
    fs::write(directory.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    directory
}

fn refusal(directory: &TempDir) -> String {
    let error = Tokenizer::from_directory(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error.to_string()
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for folder in FOLDERS {
        let (tokenizer, expected) = (Tokenizer::from_directory(&golden(folder)).unwrap(), expected(folder));
        for case in expected["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{folder}: {text:?}");
            let with_special_tokens = tokenizer.encode_with_special_tokens(text).unwrap();
            assert_eq!(with_special_tokens, ids(&case["with_special_tokens"]), "{folder}: {text:?}");
            assert_eq!(tokenizer.decode(&ids(&case["ids"])).unwrap(), case["decoded"], "{folder}: {text:?}");
        }
        assert_eq!(tokenizer.vocab_size(), expected["vocab_size"].as_u64().unwrap() as usize, "{folder}");
        assert_eq!(tokenizer.bos(), expected["bos"].as_u64().map(|id| id as u32), "{folder}");
        assert_eq!(tokenizer.eos().first().copied(), expected["eos"].as_u64().map(|id| id as u32), "{folder}");
    }
}

#[test]
fn the_settings_beside_a_model_change_ids() {
    // What the comparison above would miss if no text told the settings apart.
    let encode = |folder, config| {
        Tokenizer::from_directory(with_config(folder, &config).path()).unwrap().encode("<s>the cat").unwrap()
    };
    let first = encode("llama", json!({}));
    assert_ne!(first, encode("llama", json!({"legacy": true})));
    let never = |text: &str| {
        let directory = with_config("llama", &json!({"add_prefix_space": false}));
        Tokenizer::from_directory(directory.path()).unwrap().encode(text).unwrap()
    };
    assert_ne!(never("the cat"), Tokenizer::from_directory(&golden("llama")).unwrap().encode("the cat").unwrap());
}

#[test]
fn a_tokenizer_json_is_read_before_a_model() {
    let directory = copy("llama");
    Tokenizer::word_level(&["red".to_owned()]).save(directory.path()).unwrap();
    assert_eq!(Tokenizer::from_directory(directory.path()).unwrap().encode("red").unwrap(), [0]);
}

#[test]
fn a_model_cut_off_at_any_length_is_refused_by_name() {
    let whole = fs::read(golden("symbols").join("tokenizer.model")).unwrap();
    let directory = copy("symbols");
    for length in (0..whole.len()).step_by(7).chain(whole.len() - 40..whole.len()) {
        fs::write(directory.path().join("tokenizer.model"), &whole[..length]).unwrap();
        match Tokenizer::from_directory(directory.path()) {
            // An empty denormalizer_spec is last and says nothing.
            Ok(_) => assert!(length >= whole.len() - 2, "{length} of {} bytes", whole.len()),
            Err(error @ TokenizerError::SentencePiece(_)) => assert!(error.to_string().contains("tokenizer.model\": ")),
            Err(error) => panic!("{length} bytes: {error}"),
        }
    }
}

#[test]
fn what_stands_in_the_place_of_a_model_is_named() {
    for (content, said) in [
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("<!DOCTYPE html>", "is a web page"),
        ("IQ== 0\nIg== 1\n", "a tiktoken vocabulary"),
        ("", "no pieces"),
    ] {
        let directory = copy("defaults");
        fs::write(directory.path().join("tokenizer.model"), content).unwrap();
        let error = refusal(&directory);
        assert!(error.contains("tokenizer.model\"") && error.contains(said), "{error}");
    }
    let directory = copy("defaults");
    fs::File::create(directory.path().join("tokenizer.model")).unwrap().set_len((16 << 20) + 1).unwrap();
    assert!(refusal(&directory).ends_with("has 16777217 bytes, expected at most 16777216"));
}

#[test]
fn settings_that_would_give_other_ids_are_refused() {
    for (config, said) in [
        (json!({"tokenizer_class": "T5Tokenizer"}), "tokenizer_class is \"T5Tokenizer\", expected LlamaTokenizer"),
        (json!({"tokenizer_class": 1}), "tokenizer_class is 1, expected a text"),
        (json!({"legacy": "yes"}), "legacy is \"yes\", expected true or false"),
        (json!({"bos_token": 1}), "bos_token is 1, expected a token"),
        (json!({"added_tokens_decoder": {"x": "a"}}), "expected an object of tokens by id"),
        (
            json!({"added_tokens_decoder": {"500": "<new>"}}),
            "gives added token \"<new>\" the id 500, but it comes out as",
        ),
        (json!({"added_tokens_decoder": {"3": "<new>"}}), "gives added token \"<new>\" the id 3, but it comes out as"),
    ] {
        let error = refusal(&with_config("llama", &config));
        assert!(error.contains(said), "{error}");
    }
    let error = refusal(&with_config("no_prefix", &json!({})));
    assert!(
        error.contains("tokenizer.model\": normalizer_spec.add_dummy_prefix is false, expected true, or"),
        "{error}"
    );
}

fn vocabulary(folder: &str) -> Result<GgufVocabulary, String> {
    let directory = copy(folder);
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama_mha");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(base.join(name), directory.path().join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open_on(disk(), directory.path()).unwrap();
    checkpoint.gguf_vocabulary().map_err(|error| error.to_string())
}

#[test]
fn scores_and_types_are_those_that_llama_cpp_converts() {
    for folder in FOLDERS.into_iter().filter(|folder| *folder != "unigram") {
        let (vocabulary, expected) = (vocabulary(folder).unwrap(), expected(folder));
        assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_deref()), ("llama", Some("default")));
        let scores: Vec<f32> = serde_json::from_value(expected["gguf"]["scores"].clone()).unwrap();
        let types: Vec<i32> = serde_json::from_value(expected["gguf"]["types"].clone()).unwrap();
        assert_eq!(vocabulary.scores, scores, "{folder}");
        assert_eq!(vocabulary.token_types.iter().map(|kind| *kind as i32).collect::<Vec<_>>(), types, "{folder}");
        assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.unk), (Some(1), Some(2), Some(0)), "{folder}");
        assert_eq!(vocabulary.add_space_prefix, Some(folder != "no_prefix"));
        assert!(vocabulary.merges.is_empty());
    }
}

#[test]
fn a_vocabulary_in_gguf_gives_the_same_ids() {
    for folder in ["defaults", "llama", "symbols"] {
        let directory = tempfile::tempdir().unwrap();
        for file in vocabulary(folder).unwrap().tokenizer_files().unwrap() {
            fs::write(directory.path().join(file.name), file.text).unwrap();
        }
        let (back, model) = (Tokenizer::from_directory(directory.path()), Tokenizer::from_directory(&golden(folder)));
        let (back, model) = (back.unwrap(), model.unwrap());
        for case in expected(folder)["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(back.encode(text).unwrap(), model.encode(text).unwrap(), "{folder}: {text:?}");
        }
    }
}

#[test]
fn a_unigram_model_has_no_form_in_gguf() {
    let error = vocabulary("unigram").unwrap_err();
    assert!(error.contains("tokenizer.model\": trainer_spec.model_type is 1 (Unigram)"), "{error}");
}

#[test]
#[ignore = "writes ids for tests/golden/sentencepiece/check_models.py, which needs transformers and real models"]
fn write_ids_for_sentencepiece_to_check() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sentencepiece");
    for entry in fs::read_dir(folder).unwrap() {
        let directory = entry.unwrap().path();
        let tokenizer = Tokenizer::from_directory(&directory).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&fs::read(directory.join("texts.json")).unwrap()).unwrap();
        let ids = texts.iter().map(|text| tokenizer.encode_with_special_tokens(text).unwrap()).collect::<Vec<_>>();
        fs::write(directory.join("ids.json"), json!(ids).to_string()).unwrap();
    }
}
