//! mergekit files as people have them: whose tokenizer the result takes, and what is passed over.

use std::fs;
use std::path::{Path, PathBuf};

use deepwide::formats::HfDirectory;
use deepwide::weights::WeightSource;

use super::{deepwide, names, printed, run, tiny_base};

const SLICE: &str = "merge_method: passthrough\nslices:\n- sources:\n  - {model: base, layer_range: [0, 2]}\n";

/// A base, and beside it a model with another chat template and end of text.
fn base_and_chat(root: &Path) -> (PathBuf, PathBuf) {
    let (base, chat) = (tiny_base(&root.join("base")), tiny_base(&root.join("chat")));
    fs::write(base.join("tokenizer_config.json"), r#"{"eos_token": "<eos>"}"#).unwrap();
    fs::write(base.join("generation_config.json"), r#"{"temperature": 0.5}"#).unwrap();
    fs::write(chat.join("tokenizer_config.json"), r#"{"eos_token": "<unk>"}"#).unwrap();
    fs::write(chat.join("generation_config.json"), r#"{"temperature": 2.0}"#).unwrap();
    fs::write(chat.join("special_tokens_map.json"), r#"{"eos_token": "<unk>"}"#).unwrap();
    fs::write(chat.join("chat_template.jinja"), "{{ chat }}").unwrap();
    (base, chat)
}

/// Writes a mergekit file, and the words of its command into `out` beside it.
fn command(root: &Path, name: &str, yaml: &str) -> [String; 3] {
    let config = root.join(format!("{name}.yml"));
    fs::write(&config, yaml).unwrap();
    ["grow".to_owned(), config.to_str().unwrap().to_owned(), root.join(name).to_str().unwrap().to_owned()]
}

fn grown(root: &Path, name: &str, yaml: &str) -> PathBuf {
    let words = command(root, name, yaml);
    printed(&words.each_ref().map(String::as_str));
    root.join(name)
}

#[test]
fn the_tokenizer_of_another_model_comes_with_its_chat_template_and_special_tokens() {
    let root = tempfile::tempdir().unwrap();
    let (_, chat) = base_and_chat(root.path());
    let absolute = chat.to_str().unwrap();
    let sources = [
        ("beside", "tokenizer_source: chat".to_owned()),
        ("absolute", format!("tokenizer_source: {absolute}")),
        ("slash", format!("tokenizer_source: {absolute}/")),
        ("mapping", "tokenizer_source: {model: {path: chat}}".to_owned()),
        ("nested", "tokenizer: {source: chat}".to_owned()),
    ];
    for (name, source) in sources {
        let out = grown(root.path(), name, &format!("{SLICE}{source}\n"));
        for file in ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(chat.join(file)).unwrap(), "{name}: {file}");
        }
        let settings = fs::read_to_string(out.join("generation_config.json")).unwrap();
        assert!(settings.contains("0.5"), "{name}: generation settings belong to the model: {settings}");
        assert!(!fs::read_to_string(out.join("deepwide.json")).unwrap().contains("\"chat\""), "{name}: no parent");
    }
    for (name, source) in
        [("silent", ""), ("of_base", "tokenizer_source: base\n"), ("own", "tokenizer_source: ./base/\n")]
    {
        let out = grown(root.path(), name, &format!("{SLICE}{source}"));
        assert!(!out.join("chat_template.jinja").exists(), "{name}");
        assert!(fs::read_to_string(out.join("tokenizer_config.json")).unwrap().contains("<eos>"), "{name}");
    }
}

#[test]
fn a_trailing_slash_names_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    base_and_chat(root.path());
    let second = "- sources:\n  - {model: chat, layer_range: [1, 2]}\n";
    for (name, source) in [("plain", "chat"), ("slashed", "chat/")] {
        let out = grown(root.path(), name, &format!("{SLICE}{second}tokenizer_source: {source}\n"));
        assert!(out.join("chat_template.jinja").exists(), "{name}");
        let receipt: serde_json::Value = serde_json::from_slice(&fs::read(out.join("deepwide.json")).unwrap()).unwrap();
        assert_eq!(receipt["parents"].as_array().unwrap().len(), 2, "{name}: opened once");
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let (_, chat) = base_and_chat(root.path());
    let refused = |name: &str, source: &str, code: i32, says: &str| {
        let words = command(root.path(), name, &format!("{SLICE}tokenizer_source: {source}\n"));
        let output = run(&words.each_ref().map(String::as_str));
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {message}");
        assert!(message.contains(says), "{name}: {message}");
        assert!(!root.path().join(name).exists(), "{name}");
    };
    refused("absent", "/no/such/model", 4, "\"/no/such/model\": does not exist");
    refused("union", "union", 3, "which is not supported, expected base or a model: growing adds no token");
    let tokenizer = fs::read_to_string(chat.join("tokenizer.json")).unwrap();
    fs::write(chat.join("tokenizer.json"), tokenizer.replace("\"w7\"", "\"other\"")).unwrap();
    refused("renamed", "chat", 3, "the vocabularies of \"base\" and \"chat\" differ at id 10: \"w7\" and \"other\"");
    let mut longer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let token = serde_json::json!({
        "id": 64, "content": "<more>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
    });
    longer["added_tokens"].as_array_mut().expect("a list").push(token);
    fs::write(chat.join("tokenizer.json"), longer.to_string()).unwrap();
    refused("longer", "chat", 3, "the tokenizer gives id 64, expected ids below vocab_size 64");
}

#[test]
fn keys_for_anchors_and_repeated_keys_are_passed_over_with_a_notice() {
    let root = tempfile::tempdir().unwrap();
    tiny_base(&root.path().join("base"));
    let yaml = format!(
        "const: &a 1\nconst: &b [1, 2]\n{SLICE}- sources:\n  - {{model: base, layer_range: *b}}\ndtype: float32\ndtype: float16\n"
    );
    let [_, config, out] = command(root.path(), "anchors", &yaml);
    let output = deepwide().args(["grow", "--strict", &config, &out]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for notice in [
        "line 2, column 1: key \"const\" is given again, and replaces the one above",
        "line 10, column 1: key \"dtype\" is given again, and replaces the one above",
        "line 2, column 1: \"const\" is not a key of mergekit; only its anchors are used",
    ] {
        assert!(stderr.contains(&format!("note: {config:?}: {notice}")), "{notice}: {stderr}");
    }
    assert_eq!(HfDirectory::open(Path::new(&out)).unwrap().config().num_hidden_layers, 3);
    assert_eq!(names(root.path()), ["anchors", "anchors.yml", "base"]);
}
