//! `deepwide profile` and `deepwide doctor` as processes.

use std::path::Path;

use deepwide::config::DecoderConfig;
use deepwide::formats::gguf::{GgufFileType, GgufOptions, write_gguf};
use deepwide::weights::MemoryWeights;
use serde_json::Value;

use crate::gguf_written::tiny_vocabulary;
use crate::grow::{printed, run, tiny_base};

/// The JSON that a profile of `base` prints.
fn profile(base: &Path, words: &str) -> Value {
    let mut line = vec!["profile", base.to_str().expect("UTF-8"), "--json", "-r", "2"];
    line.extend(words.split_whitespace());
    let output = run(&line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn sum(test: &Value, key: &str) -> f64 {
    test["modules"].as_array().expect("modules").iter().filter_map(|module| module[key].as_f64()).sum()
}

#[test]
fn a_dry_run_counts_what_a_measured_one_executes() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_base(&folder.path().join("base"));
    for growth in ["", "--dus 1", "--moe 4"] {
        let words = format!("-p 7,8 -n 3 --sequences 2 {growth}");
        let (measured, counted) = (profile(&base, &words), profile(&base, &format!("{words} --dry-run")));
        let [measured, counted] = [&measured, &counted].map(|record| record["tests"].as_array().expect("tests"));
        assert_eq!((measured.len(), counted.len()), (3, 3));
        for (measured, counted) in measured.iter().zip(counted) {
            for key in ["flops", "total_parameters", "active_parameters"] {
                assert_eq!(measured["total"][key], counted["total"][key], "{key}");
                assert_eq!(sum(measured, key), measured["total"][key].as_f64().expect("a number"));
            }
            assert!(measured["total"]["time_s"].as_f64().is_some_and(|time_s| time_s > 0.0));
            assert!(counted["total"]["time_s"].is_null());
        }
    }
}

#[test]
fn the_type_of_the_weights_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_base(&folder.path().join("base"));
    let quantized = folder.path().join("quantized.gguf");
    // Rows that blocks of 32 fill.
    let config = DecoderConfig::pico().with(|fields| fields.intermediate_size = 384).expect("sound");
    let weights = MemoryWeights::untrained(config, 0.2, 3);
    let options = GgufOptions { file_type: GgufFileType::Q8_0, name: None };
    let mut file = std::fs::File::create(&quantized).expect("a file");
    write_gguf(&weights, &tiny_vocabulary(), &options, &mut file, &quantized).expect("a GGUF file");
    let [base, quantized] = [&base, &quantized].map(|path| path.to_str().expect("UTF-8"));
    for (model, options, dtype) in [
        (base, &[][..], "float32"),
        (base, &["--dtype", "bfloat16"], "bfloat16"),
        (quantized, &[], "Q8_0"),
        (quantized, &["--dry-run"], "Q8_0"),
        ("smollm2-135m", &["--dry-run", "--dtype", "float16"], "float16"),
    ] {
        let text = printed(&[&["profile", model, "-p", "4", "-n", "0", "-r", "1"], options].concat());
        assert!(text.lines().next().expect("a header").contains(&format!(" of {dtype} weights")), "{text}");
    }
}

#[test]
fn a_mixture_has_more_parameters_than_a_token_uses() {
    let folder = tempfile::tempdir().expect("a folder");
    let record = profile(&tiny_base(&folder.path().join("base")), "-p 8 -n 0 --moe 4 --dry-run");
    let modules = record["tests"][0]["modules"].as_array().expect("modules");
    let experts = modules.iter().find(|module| module["path"] == "layer.moe.experts").expect("experts");
    assert_eq!(experts["total_parameters"].as_u64(), experts["active_parameters"].as_u64().map(|active| 2 * active));
}

#[test]
fn memory_is_foreseen_and_measured_by_kind() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_base(&folder.path().join("base"));
    let words = "-p 64 -n 2 --train 2x32 --memory";
    let (measured, counted) = (profile(&base, words), profile(&base, &format!("{words} --dry-run")));
    for (measured, counted) in [0, 1, 2].map(|test| (&measured["tests"][test], &counted["tests"][test])) {
        let (found, foreseen) = (&measured["memory"]["measured"], &measured["memory"]["foreseen"]);
        assert_eq!(foreseen, &counted["memory"]["foreseen"]);
        assert!(counted["memory"]["measured"].is_null() && counted["energy_j"].is_null());
        for kind in ["weights", "cache", "optimizer"] {
            assert_eq!(found["peak"][kind], foreseen[kind], "{kind} of {}", measured["test"]);
        }
        let total = |moment: &Value| -> u64 {
            let kinds = ["weights", "cache", "optimizer", "gradients", "activations"];
            kinds.iter().map(|kind| moment[*kind].as_u64().expect("bytes")).sum()
        };
        let moments = found["moments"].as_array().expect("moments");
        assert!(moments.len() > 10 && moments.iter().all(|moment| total(moment) <= total(&found["peak"])));
        let trains = measured["test"] == "train2x32";
        assert_eq!(moments.iter().any(|moment| moment["gradients"] != 0), trains, "gradients of {}", measured["test"]);
    }
    assert!(profile(&base, "-p 4 -n 0")["tests"][0]["memory"].is_null());
}

#[test]
fn an_update_is_profiled_forward_and_backward() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_base(&folder.path().join("base"));
    for growth in ["", "--moe 4"] {
        let record = profile(&base, &format!("--train 2x8 {growth}"));
        assert_eq!(record["tests"].as_array().map(Vec::len), Some(1));
        let test = &record["tests"][0];
        assert_eq!(sum(test, "flops"), test["total"]["flops"].as_f64().expect("a number"));
        assert_eq!(3.0 * sum(test, "backward_flops"), 2.0 * sum(test, "flops"), "backward is two thirds");
        let paths: Vec<&str> =
            test["modules"].as_array().expect("modules").iter().filter_map(|row| row["path"].as_str()).collect();
        assert!(paths.ends_with(&["backward", "clipping", "optimizer", "other"]), "{paths:?}");
    }
}

#[test]
fn tests_that_cannot_run_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_base(&folder.path().join("base"));
    let base = base.to_str().expect("UTF-8");
    for (words, code, message) in [
        (vec!["profile", base, "-p", "0", "-n", "0"], 2, "nothing to measure"),
        (vec!["profile", base, "-p", "1000000"], 3, "max_position_embeddings"),
        (vec!["profile", base, "--device", "abacus"], 2, "abacus"),
        (vec!["profile", "mixtral", "--dry-run"], 4, "solar-10.7b, mixtral-8x7b"),
        (vec!["profile", "mixtral"], 4, "published shapes for --dry-run"),
    ] {
        let output = run(&words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(message) && output.stdout.is_empty(), "{stderr}");
    }
}

#[test]
fn shapes_are_listed_only_where_a_word_may_be_meant_for_one() {
    for model in ["./mixtral", "org/mixtral"] {
        let output = run(&["profile", model, "--dry-run"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains(model) && !stderr.contains("published shapes"), "{stderr}");
    }
}

#[test]
fn a_published_shape_that_is_not_there_asks_for_a_dry_run() {
    let output = run(&["profile", "mixtral-8x7b"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(4) && stderr.contains("add --dry-run"), "{stderr}");
}

#[test]
fn doctor_finds_the_devices_of_the_build() {
    let record: Value = serde_json::from_str(&printed(&["doctor", "--json"])).expect("JSON");
    let devices = record["devices"].as_array().expect("devices");
    let flex = devices.iter().find(|device| device["device"] == "flex").expect("flex is in the default build");
    assert!(flex["fault"].is_null() && flex["peak_flops_per_s"].as_f64().is_some_and(|peak| peak > 1e6));
    let text = printed(&["doctor"]);
    assert!(text.contains("vector instructions") && text.contains("flex"), "{text}");
}
