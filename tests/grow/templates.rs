//! Chat templates beside the default one: named files, lists, and the keys of a GGUF file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deepwide::formats::HfDirectory;
use deepwide::formats::gguf::{GgufFile, GgufFileType, GgufOptions, GgufVocabulary, write_gguf};
use deepwide::weights::{MemoryWeights, WeightSource};
use serde_json::{Value, json};

use super::{names, printed, run, tiny_base};
use crate::gguf_vocabularies::vocabulary;

const FOLDER: &str = "additional_chat_templates";

fn grow(words: &[&str], base: &Path, out: &Path) {
    printed(&[&["grow"], words, &[base.to_str().unwrap(), out.to_str().unwrap()]].concat());
    printed(&["verify", out.to_str().unwrap()]);
}

fn with_templates(base: PathBuf, templates: &[(&str, &str)]) -> PathBuf {
    fs::create_dir(base.join(FOLDER)).unwrap();
    for (name, template) in templates {
        fs::write(base.join(FOLDER).join(format!("{name}.jinja")), template).unwrap();
    }
    base
}

/// A base whose tokenizer GGUF can express.
fn byte_level_base(root: &Path) -> PathBuf {
    let golden: Value = serde_json::from_str(include_str!("../golden/gguf/byte_level.json")).unwrap();
    let vocabulary = vocabulary(&golden);
    let tiny = HfDirectory::open(&tiny_base(&root.join("tiny"))).unwrap();
    let config = tiny.config().with(|fields| fields.vocab_size = vocabulary.tokens.len()).unwrap();
    let file = root.join("base.gguf");
    write(&MemoryWeights::untrained(config, 0.2, 11), &vocabulary, &file);
    let base = root.join("base");
    grow(&["--dus", "0"], &file, &base);
    base
}

fn write(source: &impl WeightSource, vocabulary: &GgufVocabulary, path: &Path) {
    let options = GgufOptions { file_type: GgufFileType::F16, name: None };
    write_gguf(source, vocabulary, &options, &mut fs::File::create(path).unwrap(), path).unwrap();
}

fn vocabulary_in(directory: &Path) -> GgufVocabulary {
    let name = names(directory).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
    GgufFile::open(&directory.join(name)).unwrap().vocabulary().unwrap().unwrap()
}

#[test]
fn named_chat_templates_travel_to_a_directory_and_its_receipt() {
    let root = tempfile::tempdir().unwrap();
    let base = with_templates(tiny_base(&root.path().join("base")), &[("rag", "{{ r }}"), ("tool_use", "{{ t }}")]);
    fs::write(base.join("chat_template.jinja"), "{{ d }}").unwrap();
    fs::write(base.join(FOLDER).join("notes.txt"), "no template").unwrap();
    for (name, words) in [("deep", ["--dus", "1"]), ("wide", ["--moe", "2"])] {
        let out = root.path().join(name);
        grow(&words, &base, &out);
        assert_eq!(names(&out.join(FOLDER)), ["rag.jinja", "tool_use.jinja"]);
        for file in ["chat_template.jinja", "additional_chat_templates/rag.jinja"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(base.join(file)).unwrap(), "{name}: {file}");
        }
        grow(&[&words[..], &["--force"]].concat(), &base, &out);
        fs::write(out.join(FOLDER).join("rag.jinja"), "{{ x }}").unwrap();
        let output = run(&["verify", out.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(5));
        assert!(String::from_utf8_lossy(&output.stderr).contains("additional_chat_templates/rag.jinja"));
    }
    let merge = root.path().join("merge.yml");
    let slice = "merge_method: passthrough\nslices:\n- sources:\n  - {model: base, layer_range: [0, 2]}\n";
    fs::write(&merge, format!("{slice}chat_template: \"{{{{ one }}}}\"\n")).unwrap();
    let out = root.path().join("replaced");
    grow(&[], &merge, &out);
    assert!(!out.join(FOLDER).exists(), "the template of a mergekit file replaces all");
}

#[test]
fn named_chat_templates_go_to_gguf_and_back() {
    let root = tempfile::tempdir().unwrap();
    let base = with_templates(byte_level_base(root.path()), &[("rag", "{{ r }}"), ("tool-use", "{{ t }}")]);
    fs::write(base.join("chat_template.jinja"), "{{ d }}").unwrap();
    let [gguf, back, listed, again] = ["gguf", "back", "listed", "again"].map(|name| root.path().join(name));
    grow(&["--dus", "1", "--out-type", "gguf:f16"], &base, &gguf);
    let read = vocabulary_in(&gguf);
    let expected = [("rag", "{{ r }}"), ("tool_use", "{{ t }}")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(read.chat_template.as_deref(), Some("{{ d }}"));
    assert_eq!(read.named_chat_templates, BTreeMap::from(expected));
    grow(&["--moe", "2"], &gguf, &back);
    assert_eq!(names(&back.join(FOLDER)), ["rag.jinja", "tool_use.jinja"]);
    assert_eq!(fs::read_to_string(back.join("chat_template.jinja")).unwrap(), "{{ d }}");
    assert_eq!(fs::read_to_string(back.join(FOLDER).join("tool_use.jinja")).unwrap(), "{{ t }}");

    fs::remove_dir_all(base.join(FOLDER)).unwrap();
    let config = base.join("tokenizer_config.json");
    let mut keys: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    keys["chat_template"] = json!([{"name": "default", "template": "{{ l }}"}, {"name": "rag", "template": "{{ r }}"}]);
    fs::write(&config, keys.to_string()).unwrap();
    grow(&["--out-type", "gguf:f16"], &base, &listed);
    assert_eq!(vocabulary_in(&listed).chat_template.as_deref(), Some("{{ l }}"));
    grow(&["--dus", "0"], &listed, &again);
    assert_eq!(fs::read_to_string(again.join(FOLDER).join("rag.jinja")).unwrap(), "{{ r }}");
}

#[test]
fn a_chat_template_with_an_unsafe_name_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let refused = |base: &Path, says: &str| {
        let before = names(root.path());
        let output = run(&["grow", "--dus", "1", base.to_str().unwrap(), out.to_str().unwrap()]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains(says), "{message}");
        assert_eq!(names(root.path()), before);
    };
    let golden: Value = serde_json::from_str(include_str!("../golden/gguf/byte_level.json")).unwrap();
    let tiny = HfDirectory::open(&tiny_base(&root.path().join("tiny"))).unwrap();
    let config = tiny.config().with(|fields| fields.vocab_size = 2048).unwrap();
    let hostile = root.path().join("hostile.gguf");
    let named_chat_templates = BTreeMap::from([("../../escaped".to_owned(), "{{ x }}".to_owned())]);
    let vocabulary = GgufVocabulary { named_chat_templates, ..vocabulary(&golden) };
    write(&MemoryWeights::untrained(config, 0.2, 11), &vocabulary, &hostile);
    refused(&hostile, "has the name \"../../escaped\", expected one that every system takes for a plain file name");
    if cfg!(unix) {
        let base = with_templates(tiny_base(&root.path().join("base")), &[("..\\escaped", "{{ x }}")]);
        refused(
            &base,
            "escaped.jinja\": has an unsafe name, expected one that every system takes for a plain file name",
        );
    }
}
