//! What is told before anything is written, and with `--strict` refused: noise that rounding undoes, tokenizers that differ.

use std::fs;
use std::path::{Path, PathBuf};

use deepwide::config::DecoderConfig;
use deepwide::formats::gguf::{GgufFileType, GgufOptions, write_gguf};
use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, Projection, TensorId, WeightSource};
use serde_json::Value;

use super::{names, printed, run, tiny_base};
use crate::gguf_written::tiny_vocabulary;

/// The warnings of a dry run of `grow SOURCE OUT`, OUT in a folder of its own.
fn warnings(words: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let words = [&["grow", "--dry-run", "--json"], words, &[out.to_str().unwrap()]].concat();
    let plan: Value = serde_json::from_str(&printed(&words)).unwrap();
    plan["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

/// A Llama in float32, as GGUF, with a tokenizer.
fn gguf_base(folder: &Path) -> PathBuf {
    let path = folder.join("base.gguf");
    let weights = MemoryWeights::untrained(DecoderConfig::pico(), 0.2, 3);
    let options = GgufOptions { file_type: GgufFileType::F32, name: None };
    write_gguf(&weights, &tiny_vocabulary(), &options, &mut fs::File::create(&path).unwrap(), &path).unwrap();
    path
}

/// Row E16: the share that is told is the share in what is written.
#[test]
fn noise_that_rounding_undoes_is_told_with_its_numbers() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("base");
    let tiny = HfDirectory::open(&tiny_base(&root.path().join("tiny"))).unwrap();
    let random = MemoryWeights::untrained(tiny.config().clone(), 0.2, 3);
    write_hf_directory(&random, Some(&tiny), Some(Dtype::Float32), &base).unwrap();
    let base = base.to_str().unwrap();
    let told =
        |noise: &str, dtype: &str| warnings(&[base, "--moe", "2", "--top-k", "1", "--noise", noise, "--dtype", dtype]);
    for (noise, dtype) in [("0.0005", "float32"), ("0.0005", "float16"), ("0.05", "bfloat16")] {
        assert_eq!(told(noise, dtype), [""; 0], "{noise} in {dtype}");
    }
    let warning = told("0.0005", "bfloat16").pop().expect("a warning");
    let out = root.path().join("out");
    printed(&["grow", base, out.to_str().unwrap(), "--moe", "2", "--noise", "0.0005", "--dtype", "bfloat16"]);
    let (before, after) = (HfDirectory::open(Path::new(base)).unwrap(), HfDirectory::open(&out).unwrap());
    let read = |source: &HfDirectory, tensor| source.read(TensorId::Layer(0, tensor)).unwrap().cast(Dtype::Bfloat16);
    let before = read(&before, LayerTensor::Mlp(Projection::Gate)).into_bytes();
    let after = read(&after, LayerTensor::Expert(0, Projection::Gate)).into_bytes();
    let unchanged = before.chunks(2).zip(after.chunks(2)).filter(|(a, b)| a == b).count();
    let percent = 100.0 * unchanged as f64 / (before.len() / 2) as f64;
    assert!((60.0..99.0).contains(&percent), "{percent}");
    let expected = format!(
        "noise 0.0005 is lost in rounding to bfloat16: {percent:.1} % of the first {} numbers stay what they were",
        before.len() / 2
    );
    assert_eq!(warning, expected);
    let strict = root.path().join("strict");
    let words =
        ["grow", base, strict.to_str().unwrap(), "--moe", "2", "--noise", "0.0005", "--dtype", "bfloat16", "--strict"];
    let refused = run(&words);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is lost in rounding"));
}

#[test]
fn noise_that_is_lost_in_blocks_of_gguf_or_in_a_merge_is_told_too() {
    let root = tempfile::tempdir().unwrap();
    let base = gguf_base(root.path());
    let told =
        |out_type: &str| warnings(&[base.to_str().unwrap(), "--moe", "2", "--noise", "0.002", "--out-type", out_type]);
    assert_eq!(told("gguf:f16"), [""; 0]);
    assert!(told("gguf:q8_0")[0].starts_with("noise 0.002 is lost in rounding to Q8_0"));
    let config = root.path().join("moe.yml");
    let merge = |scale: &str| {
        let experts: String =
            ["", scale].map(|s| format!("- source_model: base.gguf\n  positive_prompts: [a]\n{s}")).concat();
        let text = format!("base_model: base.gguf\ngate_mode: random\ndtype: bfloat16\nexperts:\n{experts}");
        fs::write(&config, text).unwrap();
        warnings(&[config.to_str().unwrap()])
    };
    assert_eq!(merge("  noise_scale: 0.1\n"), [""; 0]);
    assert!(
        merge("  noise_scale: 0.0001\n")[0].starts_with("noise_scale 0.0001 of expert 1 is lost in rounding to bf")
    );
}

#[test]
fn what_the_result_will_lack_or_what_is_said_in_vain_is_told() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let path = base.to_str().unwrap();
    assert_eq!(warnings(&[path, "--stack", "2"]), [""; 0]);
    assert_eq!(warnings(&[path, "--moe", "4", "--moe-layout", "v5"]), [""; 0]);
    assert!(warnings(&[path, "--stack", "2", "--moe-layout", "v5"])[0].contains("has no experts"));
    fs::remove_file(base.join("tokenizer.json")).unwrap();
    assert_eq!(
        warnings(&[path, "--stack", "2"]),
        ["the base has no tokenizer.json and no tokenizer.model: the result has no tokenizer"]
    );
}

#[test]
fn a_model_card_names_the_library_that_loads_what_lies_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let base = gguf_base(root.path());
    for (out_type, library) in [("hf", "transformers"), ("gguf:f16", "gguf")] {
        let out = root.path().join(library);
        printed(&["grow", "--stack", "2", "--out-type", out_type, base.to_str().unwrap(), out.to_str().unwrap()]);
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains(&format!("\nlibrary_name: {library}\n")), "{card}");
    }
}

#[test]
fn a_model_card_says_what_was_done_and_what_the_result_computes() {
    let root = tempfile::tempdir().unwrap();
    let base = gguf_base(root.path());
    let cases: [(&[&str], &str); 6] = [
        (
            &["--dtype", "float32"],
            "Converted by deepwide\n\nConverted from `base.gguf`. It computes what its parent computes, up to rounding.\n",
        ),
        (
            &["--out-type", "gguf:q8_0"],
            "Quantized by deepwide\n\nConverted from `base.gguf`, quantized to Q8_0. It computes approximately what its parent \
             computes.\n",
        ),
        (
            &["--identity-blocks", "2"],
            "Grown by deepwide\n\n2 identity blocks, from `base.gguf`. It computes what its parent computes, up to rounding, until \
             it is trained.\n",
        ),
        (
            &["--identity-blocks", "2", "--out-type", "gguf:q4_0"],
            "Grown by deepwide\n\n2 identity blocks, from `base.gguf`, quantized to Q4_0. It computes approximately what its \
             parent computes.\n",
        ),
        (
            &["--stack", "2", "--out-type", "gguf:f16"],
            "from `base.gguf`. It does not compute what its parents compute, and needs training.\n",
        ),
        (
            &["--stack", "2", "--out-type", "gguf:q8_0"],
            "from `base.gguf`, quantized to Q8_0. It computes approximately what the grown model computes, not what its parents \
             compute, and the grown model needs training.\n",
        ),
    ];
    for (number, (options, expected)) in cases.into_iter().enumerate() {
        let out = root.path().join(number.to_string());
        printed(&[&["grow"][..], options, &[base.to_str().unwrap(), out.to_str().unwrap()]].concat());
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains(expected), "{options:?}: {card}");
    }
}

/// Row E11.
#[test]
fn models_whose_ids_mean_other_tokens_are_not_merged() {
    let root = tempfile::tempdir().unwrap();
    tiny_base(&root.path().join("base"));
    let other = tiny_base(&root.path().join("other")).join("tokenizer.json");
    let text = fs::read_to_string(&other).unwrap();
    let passthrough = "merge_method: passthrough\ndtype: float16\nslices:\n- sources:\n  - {model: base, layer_range: [0, 2]}\n- sources:\n  - {model: other, layer_range: [1, 2]}\n";
    let moe = "base_model: base\ngate_mode: random\nexperts:\n- {source_model: base, positive_prompts: [a]}\n- {source_model: other, positive_prompts: [b]}\n";
    for (name, yaml) in [("deep", passthrough), ("wide", moe)] {
        let config = root.path().join(format!("{name}.yml"));
        fs::write(&config, yaml).unwrap();
        let (config, out) = (config.to_str().unwrap(), root.path().join("out"));
        fs::write(&other, &text).unwrap();
        assert_eq!(warnings(&[config]), [""; 0], "{name}");
        fs::write(&other, format!("{text} ")).unwrap();
        assert!(warnings(&[config])[0].contains("no id means two tokens"), "{name}");
        let renamed = text.replace("\"w7\"", "\"x\\u001b\"");
        assert_ne!(renamed, text);
        fs::write(&other, renamed).unwrap();
        let before = names(root.path());
        let refused = run(&["grow", config, out.to_str().unwrap()]);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{name}: {message}");
        let says =
            r#"the vocabularies of "other" and "base" differ at id 10: "x\u{1b}" and "w7", expected one tokenizer"#;
        assert!(message.contains(says), "{name}: {message}");
        assert_eq!(names(root.path()), before, "{name} left something");
    }
}
