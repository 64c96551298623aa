//! Bases that can be copied and not computed, and what is no base at all.

use std::fs;
use std::path::Path;

use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, RawTensor, TensorId, WeightSource};
use serde_json::{Value, json};

use super::{names, printed, run, tiny_base};

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_rope_that_is_not_modelled_is_carried_over_with_a_notice_and_not_computed() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let rope = json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 2]});
    edit(&base.join("config.json"), |config| {
        config.as_object_mut().unwrap().remove("rope_parameters");
        config["rope_theta"] = json!(10_000.0);
        config["rope_scaling"] = rope.clone();
    });
    let prompts = root.path().join("prompts");
    fs::write(&prompts, "w1\nw2\n").unwrap();
    let (base, out) = (base.to_str().unwrap(), root.path().join("out"));
    let before = names(root.path());
    let hidden = ["--moe", "2", "--top-k", "1", "--router", "hidden", "--prompts", prompts.to_str().unwrap()];
    for words in [&["--dus", "0", "--check"][..], &hidden] {
        let output = run(&[&["grow", base, out.to_str().unwrap()], words].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {message}");
        assert!(message.contains("longrope"), "{words:?}: {message}");
        assert_eq!(names(root.path()), before, "{words:?}: refused before any work");
    }
    for (name, words) in [("deep", ["--dus", "0"]), ("wide", ["--moe", "4"])] {
        let out = root.path().join(name);
        let output = run(&[&["grow", base, out.to_str().unwrap()], &words[..]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {message}");
        assert!(message.contains("note: ") && message.contains("longrope"), "{name}: {message}");
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["rope_scaling"], rope, "{name}");
    }
    let merge = root.path().join("merge.yml");
    tiny_base(&root.path().join("plain"));
    let slices = ["base", "plain"].map(|m| format!("- sources:\n  - {{model: {m}, layer_range: [0, 2]}}\n")).concat();
    fs::write(&merge, format!("merge_method: passthrough\nslices:\n{slices}")).unwrap();
    let output = run(&["grow", merge.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "decoders of two ropes");
}

#[test]
fn a_type_that_cannot_be_computed_in_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let tiny = HfDirectory::open(&tiny_base(&root.path().join("tiny"))).unwrap();
    let config = tiny.config().clone();
    let base = root.path().join("base");
    let weights = MemoryWeights::new(config.clone(), |id| {
        let shape = id.shape(&config);
        match id {
            TensorId::Layer(1, LayerTensor::Mlp(_)) => {
                RawTensor::new(Dtype::Float8E4m3, shape.clone(), vec![0; shape.iter().product()])
            }
            _ => tiny.read(id).unwrap(),
        }
    });
    write_hf_directory(&weights, None, None, &base).unwrap();
    let out = root.path().join("out");
    let before = names(root.path());
    let grow = |words: &[&str]| run(&[&["grow", base.to_str().unwrap(), out.to_str().unwrap()], words].concat());
    for (words, tensor) in [
        (&["--moe", "4"][..], "model.layers.1.mlp.gate_proj.weight"),
        (&["--stack", "2", "--moe", "4", "--noise", "0.1"], "model.layers.1.mlp.gate_proj.weight"),
    ] {
        let output = grow(words);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {message}");
        assert!(message.contains(&format!("{tensor} is float8_e4m3fn, expected float32")), "{words:?}: {message}");
        assert!(!message.contains("plan:"), "{words:?}: {message}");
        assert_eq!(names(root.path()), before, "{words:?}");
    }
    assert!(grow(&["--stack", "2"]).status.success(), "copies need no computing");
}

#[test]
fn every_command_that_takes_a_base_knows_an_adapter_by_its_file() {
    let root = tempfile::tempdir().unwrap();
    let adapter = root.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    let config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8});
    fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
    let (merge, text) = (root.path().join("merge.yml"), root.path().join("text.txt"));
    fs::write(&merge, "merge_method: passthrough\nmodels: [{model: adapter}]\n").unwrap();
    fs::write(&text, "some text to train on").unwrap();
    let [adapter, merge, text] = [&adapter, &merge, &text].map(|path| path.to_str().unwrap());
    let out = root.path().join("out");
    let out = out.to_str().unwrap();
    let commands: [&[&str]; 6] = [
        &["grow", "--dus", "1", adapter, out],
        &["grow", "--dtype", "float32", adapter, out],
        &["grow", merge, out],
        &["inspect", adapter],
        &["bench", "-p", "4", "-n", "0", adapter],
        &["compare", "--base", adapter, "--data", text],
    ];
    for words in commands {
        let output = run(words);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {message}");
        assert!(message.contains("LORA adapter of \"org/base\""), "{words:?}: {message}");
    }
    let base = tiny_base(&root.path().join("base"));
    fs::write(base.join("adapter_config.json"), config.to_string()).unwrap();
    printed(&["inspect", base.to_str().unwrap()]);
}
