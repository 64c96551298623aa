//! `deepwide profile --dry-run` of published configs: tables equal published numbers, from a `config.json` alone.
//!
//! Totals of parameters are those that the hub lists for mistralai/Mistral-7B-v0.1, upstage/SOLAR-10.7B-v1.0 and
//! mistralai/Mixtral-8x7B-v0.1; 47B and 13B active are Mixtral's paper (arXiv:2401.04088, §2.1). FLOPs of Llama 2 7B are the table
//! of calflops (README of MrYxJ/calculate-flops.pytorch, 1 × 128 tokens, scores of all tokens, multiply-adds). PaLM's formula is that of
//! arXiv:2204.02311, Appendix B.

use std::fs;

use serde_json::Value;

use crate::grow::{printed, run};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/published/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

/// The only test of a dry run.
fn profile(model: &str, words: &str) -> Value {
    let line: Vec<&str> =
        ["profile", model, "--dry-run", "--json"].into_iter().chain(words.split_whitespace()).collect();
    let record: Value = serde_json::from_str(&printed(&line)).expect("JSON");
    assert_eq!(record["tests"].as_array().map(Vec::len), Some(1), "{record}");
    record
}

/// FLOPs of the total of the only test, forward and backward.
fn flops(model: &str, words: &str) -> u128 {
    profile(model, words)["tests"][0]["total"]["flops"].as_f64().expect("a number") as u128
}

fn module<'a>(record: &'a Value, path: &str) -> &'a Value {
    let modules = record["tests"][0]["modules"].as_array().expect("modules");
    modules.iter().find(|module| module["path"] == path).unwrap_or_else(|| panic!("{path} in {record}"))
}

const MODELS: [&str; 3] = ["mistral-7b-v0.1", "solar-10.7b-v1.0", "mixtral-8x7b-v0.1"];

#[test]
fn parameters_are_those_of_the_hub() {
    let expected = [
        (7_241_732_096u64, 7_241_732_096u64, 14_483_464_192u64),
        (10_731_524_096, 10_731_524_096, 21_463_048_192),
        (46_702_792_704, 12_879_925_248, 93_405_585_408),
    ];
    for (name, (total, active, bytes)) in MODELS.into_iter().zip(expected) {
        let record = profile(&golden(name), "-p 512 -n 0 --dtype bfloat16");
        assert_eq!((&record["total_parameters"], &record["active_parameters"]), (&total.into(), &active.into()));
        // Gains of norms are kept in float32, which papers do not do.
        let gains = if name.starts_with("solar") { 97 } else { 65 } * 4096;
        assert_eq!(record["weight_bytes"].as_u64(), Some(bytes + 2 * gains), "{name}");
        assert_eq!(record["tests"][0]["total"]["total_parameters"].as_u64(), Some(total));
        assert_eq!(record["tests"][0]["total"]["active_parameters"].as_u64(), Some(active));
    }
}

#[test]
fn modules_of_mixtral_are_its_table() {
    let record = profile(&golden("mixtral-8x7b-v0.1"), "-p 0 -n 1 -d 4095 --dtype bfloat16");
    // 32 layers of 4096; 32 query and 8 key/value heads of 128; 8 experts, 2 visited, of 3 · 4096 · 14336.
    let rows: [(&str, u64, u64); 6] = [
        ("embedding", 131_072_000, 131_072_000),
        ("layer.self_attn.qkv_proj", 805_306_368, 805_306_368),
        ("layer.self_attn.o_proj", 536_870_912, 536_870_912),
        ("layer.moe.router", 1_048_576, 1_048_576),
        ("layer.moe.experts", 45_097_156_608, 11_274_289_152),
        ("lm_head", 131_072_000, 131_072_000),
    ];
    for (path, total, active) in rows {
        let found = module(&record, path);
        assert_eq!(
            (found["total_parameters"].as_u64(), found["active_parameters"].as_u64()),
            (Some(total), Some(active))
        );
        if path != "embedding" {
            assert_eq!(found["flops"].as_f64(), Some(2.0 * active as f64), "{path}");
            assert_eq!(
                found["bytes"].as_f64(),
                Some(2.0 * active as f64),
                "{path}: one token reads its active weights"
            );
        }
    }
    assert_eq!(module(&record, "layer.self_attn.attention")["flops"].as_f64(), Some(2_147_483_648.0));
    assert_eq!(record["tests"][0]["total"]["flops"].as_f64(), Some(27_644_657_664.0));
}

#[test]
fn conventions_give_the_numbers_of_their_papers() {
    // Billions per token at 4096 tokens: 3 · causal, 3 · square, 6ND, PaLM.
    let expected = [
        ["45.8844", "49.1048", "43.4504", "49.8928"],
        ["68.4333", "73.2640", "64.3891", "74.0528"],
        ["79.7135", "82.9340", "77.2796", "83.7220"],
    ];
    for (name, expected) in MODELS.into_iter().zip(expected) {
        let found = ["causal", "square", "6nd", "palm"].map(|convention| {
            let flops = flops(&golden(name), &format!("--train 1x4096 --convention {convention}"));
            format!("{:.4}", flops as f64 / 4096e9)
        });
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn llama_2_has_the_multiply_adds_of_calflops() {
    let record = profile("llama2-7b", "--train 1x128 --convention square --flops-per-mac 1");
    let total = &record["tests"][0]["total"];
    let (all, backward) =
        (total["flops"].as_f64().expect("a number"), total["backward_flops"].as_f64().expect("a number"));
    assert_eq!(format!("{:.2} {:.0}", (all - backward) / 1e9, all / 1e9), "850.00 2550");
    assert_eq!(record["total_parameters"], 6_738_415_616u64);
}

#[test]
fn a_config_grows_to_the_published_children() {
    // SOLAR is Mistral 7B with an overlap of 8, Mixtral's shape is its upcycling to eight experts.
    let grown =
        |words: &str| profile(&golden("mistral-7b-v0.1"), &format!("-p 0 -n 1 {words}"))["total_parameters"].clone();
    assert_eq!([grown("--dus 8"), grown("--moe 8")], [10_731_524_096u64, 46_702_792_704].map(Value::from));
    assert_ne!(grown("--dus 7"), Value::from(10_731_524_096u64));
}

#[test]
fn a_directory_with_a_config_alone_is_counted_and_never_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(golden("solar-10.7b-v1.0"), folder.path().join("config.json")).expect("a copy");
    let path = folder.path().to_str().expect("UTF-8");
    assert_eq!(profile(path, "-n 1 -p 0")["total_parameters"], 10_731_524_096u64);
    let code = |words: &[&str]| {
        let output = run(&[&["profile"], words].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (found, message) = code(&[path]);
    assert!(found == Some(4) && message.contains("model.safetensors"), "{found:?} {message}");
    let (found, message) = code(&[path, "--dry-run", "-p", "5000"]);
    assert!(found == Some(3) && message.contains("max_position_embeddings 4096"), "{found:?} {message}");
    let (found, message) = code(&["mixtral-9x9b", "--dry-run"]);
    assert!(found == Some(4) && message.contains("mixtral-9x9b"), "{found:?} {message}");
    fs::write(folder.path().join("other.json"), "{").expect("written");
    let broken = folder.path().join("other.json");
    let (found, message) = code(&[broken.to_str().expect("UTF-8"), "--dry-run"]);
    assert!(found == Some(3) && message.contains("other.json"), "{found:?} {message}");
}
