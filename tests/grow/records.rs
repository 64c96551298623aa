//! What lies beside grown weights for programs and for people: plan, receipt, model card.

use std::fs;
use std::path::Path;

use deepwide::config::DecoderConfig;
use deepwide::formats::gguf::{GgufFileType, GgufOptions, write_gguf};
use deepwide::weights::MemoryWeights;
use serde_json::{Value, json};

use super::{printed, run, tiny_base};
use crate::gguf_written::tiny_vocabulary;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The front matter of the card of what grows from `base`.
fn front_matter(root: &Path, name: &str, base: &str) -> String {
    let out = root.join(name);
    printed(&["grow", "--stack", "2", base, out.to_str().unwrap()]);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    card.split("---\n").nth(1).unwrap().to_owned()
}

#[test]
fn plan_and_receipt_are_kinds_and_numbers() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let out = root.path().join("out");
    let words = ["grow", "--identity-blocks", "1", "--moe", "3", "--drop", "0.25", "--seed", "5", "--json"];
    let words = [&words[..], &[base.to_str().unwrap(), out.to_str().unwrap()]].concat();
    let plan: Value = serde_json::from_str(&printed(&[&words[..], &["--dry-run"]].concat())).unwrap();
    let growth = json!([
        {"kind": "identity_blocks", "num_blocks": 1},
        {
            "kind": "upcycle",
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.02,
            "experts": {"kind": "drop", "ratio": 0.25},
            "router": {"kind": "normal", "std": 0.02},
            "seed": 5,
        },
    ]);
    let layers = json!([
        {"first": 0, "count": 2, "source": {"first": 0, "model": null}, "identity": false},
        {"first": 2, "count": 1, "source": {"first": 1, "model": null}, "identity": true},
    ]);
    assert_eq!((&plan["format"], &plan["growth"], &plan["layers"]), (&json!(2), &growth, &layers));
    printed(&words);
    let receipt = read_json(&out.join("deepwide.json"));
    assert_eq!((&receipt["format"], &receipt["growth"]), (&json!(2), &growth));
    let steps = json!([{"kind": "layer", "layer": 0, "num_layers": 2}]);
    let expected = json!({"root": "model.layers.0.self_attn.o_proj.weight", "steps": steps});
    assert_eq!(receipt["layers"][0]["self_attn"], expected);
    assert_eq!(receipt["layers"][2]["self_attn"], json!({"root": null, "steps": [{"kind": "zeros"}]}));
    let expert = &receipt["layers"][1]["feed_forward"]["experts"][2];
    let steps = json!([{"kind": "layer", "layer": 1, "num_layers": 2}, {"kind": "drop", "num_dimensions": 12}]);
    assert_eq!(expert, &json!({"root": "model.layers.1.mlp.down_proj.weight", "steps": steps}));
}

#[test]
fn a_merge_tells_the_model_of_every_layer() {
    let root = tempfile::tempdir().unwrap();
    tiny_base(&root.path().join("a"));
    tiny_base(&root.path().join("b"));
    let config = root.path().join("merge.yml");
    let slices = ["a", "b"].map(|m| format!("- sources:\n  - {{model: {m}, layer_range: [0, 2]}}\n")).concat();
    fs::write(&config, format!("merge_method: passthrough\nslices:\n{slices}")).unwrap();
    let out = root.path().join("out");
    let words = ["grow", "--dry-run", "--json", config.to_str().unwrap(), out.to_str().unwrap()];
    let plan: Value = serde_json::from_str(&printed(&words)).unwrap();
    assert_eq!(plan["growth"], json!([{"kind": "mergekit_passthrough"}]));
    assert_eq!(plan["layers"][1]["source"], json!({"first": 0, "model": "b"}));
}

#[test]
fn a_card_has_the_licence_and_the_models_that_the_parent_tells() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let path = base.to_str().unwrap();
    let rest = "library_name: transformers\ntags:\n- deepwide\n- depth-up-scaling\n";
    assert_eq!(front_matter(root.path(), "unknown", path), rest, "what is not known is not there");
    fs::write(base.join("README.md"), "---\nlicense: apache-2.0\nbase_model: [org/first]\n---\n# Base\n").unwrap();
    let known = format!("base_model:\n- org/first\nlicense: apache-2.0\n{rest}");
    assert_eq!(front_matter(root.path(), "known", path), known);
    let child = root.path().join("known");
    assert_eq!(front_matter(root.path(), "grandchild", child.to_str().unwrap()), known, "and a child of a child too");
}

#[test]
fn a_card_has_what_a_gguf_file_tells() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("base.gguf");
    let weights = MemoryWeights::untrained(DecoderConfig::pico(), 0.2, 3);
    let options = GgufOptions { file_type: GgufFileType::F16, name: None };
    write_gguf(&weights, &tiny_vocabulary(), &options, &mut fs::File::create(&base).unwrap(), &base).unwrap();
    let path = base.to_str().unwrap();
    assert!(printed(&["inspect", path]).contains("file type"));
    assert_eq!(serde_json::from_str::<Value>(&printed(&["inspect", "--json", path])).unwrap()["file_type"], "F16");
    assert!(!front_matter(root.path(), "plain", path).contains("license"));
}

#[test]
fn verifying_what_deepwide_did_not_write_says_so() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    for (path, says) in
        [(&base, "has no deepwide.json: deepwide did not write it"), (&root.path().join("no"), "does not exist")]
    {
        let refused = run(&["verify", path.to_str().unwrap()]);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(4), "{message}");
        assert!(message.contains(says), "{message}");
    }
}

/// As mergekit counts them.
#[test]
fn an_automatic_chat_template_is_the_one_that_most_models_have() {
    let root = tempfile::tempdir().unwrap();
    for (name, template) in [("a", "{{ a }}"), ("b", "{{ b }}"), ("c", "\n{{ b }}\n")] {
        let base = tiny_base(&root.path().join(name));
        fs::write(base.join("chat_template.jinja"), template).unwrap();
    }
    let grown = |name: &str, models: &[&str]| {
        let slice = |m: &&str| format!("- sources:\n  - {{model: {m}, layer_range: [0, 2]}}\n");
        let slices: String = models.iter().map(slice).collect();
        let (config, out) = (root.path().join(format!("{name}.yml")), root.path().join(name));
        fs::write(&config, format!("merge_method: passthrough\nchat_template: auto\nslices:\n{slices}")).unwrap();
        printed(&["grow", config.to_str().unwrap(), out.to_str().unwrap()]);
        fs::read_to_string(out.join("chat_template.jinja")).unwrap()
    };
    assert_eq!(grown("three", &["a", "b", "c"]), "{{ b }}");
    assert_eq!(grown("two", &["a", "b"]), "{{ a }}", "the first of as many");
    assert_eq!(grown("one", &["c"]), "\n{{ b }}\n", "the parent's own stays as it is");
}
