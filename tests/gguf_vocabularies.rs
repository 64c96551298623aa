//! Vocabularies of GGUF files against the ids that transformers and llama.cpp give, and there and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deepwide::formats::gguf::{GgufVocabulary, HfTokenizer, TokenType, TokenizerFile, VocabularyError};
use deepwide::output::disk::disk;
use deepwide::tokenizer::Tokenizer;
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The keys of a GGUF file, as the golden files spell them.
pub fn vocabulary(keys: &Value) -> GgufVocabulary {
    let texts = |key: &str| -> Vec<String> { serde_json::from_value(keys[key].clone()).unwrap() };
    let id = |key: &str| keys[key].as_u64().map(|id| id as u32);
    let types: Vec<i32> = serde_json::from_value(keys["token_types"].clone()).unwrap();
    GgufVocabulary {
        model: keys["model"].as_str().unwrap().to_owned(),
        pre: keys["pre"].as_str().map(str::to_owned),
        tokens: texts("tokens"),
        scores: serde_json::from_value(keys["scores"].clone()).unwrap(),
        token_types: types.into_iter().map(|kind| TokenType::from_number(kind).unwrap()).collect(),
        merges: texts("merges"),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        pad: id("pad"),
        add_bos: keys["add_bos"].as_bool(),
        ..GgufVocabulary::default()
    }
}

fn save(files: &[TokenizerFile], directory: &Path) -> PathBuf {
    for TokenizerFile { name, text } in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory.join("tokenizer.json")
}

fn tokenizer(vocabulary: &GgufVocabulary) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    save(&vocabulary.tokenizer_files().unwrap(), directory.path());
    Tokenizer::from_directory(directory.path()).unwrap()
}

fn hf(files: &[TokenizerFile]) -> HfTokenizer {
    let text = |name: &str| files.iter().find(|file| file.name == name).map(|file| file.text.clone());
    HfTokenizer {
        tokenizer_json: text("tokenizer.json").unwrap(),
        tokenizer_config_json: text("tokenizer_config.json"),
        ..HfTokenizer::default()
    }
}

/// What a directory with these files is read as.
fn read_back(files: &[TokenizerFile]) -> HfTokenizer {
    let directory = tempfile::tempdir().unwrap();
    save(files, directory.path());
    HfTokenizer::open_on(&*disk(), directory.path()).unwrap()
}

fn by_name(templates: &[(&str, &str)]) -> BTreeMap<String, String> {
    templates.iter().map(|(name, template)| ((*name).to_owned(), (*template).to_owned())).collect()
}

/// The texts to which a tokenizer gives other ids than expected.
fn differing(tokenizer: &Tokenizer, texts: &Value, ids: &Value) -> Vec<String> {
    let (texts, ids) = (texts.as_array().unwrap(), ids.as_array().unwrap());
    assert_eq!(texts.len(), ids.len());
    let differs = |(text, ids): &(&Value, &Value)| json!(tokenizer.encode(text.as_str().unwrap()).unwrap()) != **ids;
    texts.iter().zip(ids).filter(differs).map(|(text, _)| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_sentencepiece_vocabulary_gives_the_ids_that_transformers_gives() {
    let golden = golden("sentencepiece.json");
    let tokenizer = tokenizer(&vocabulary(&golden));
    assert_eq!(differing(&tokenizer, &golden["texts"], &golden["ids"]), [""; 0]);
    // llama.cpp puts a space before each part of a text between special tokens, and before one that has a space already.
    let others = differing(&tokenizer, &golden["texts"], &golden["llama_cpp"]);
    assert!(others.contains(&" Hello".to_owned()) && !others.contains(&"Hello, world!".to_owned()), "{others:?}");
    assert_eq!(tokenizer.encode_with_special_tokens("a").unwrap()[0], 1);
    for text in ["Hello, world!", "  1984", "Привет 🚀\n"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text.strip_prefix(' ').unwrap_or(text));
    }
}

#[test]
fn a_byte_level_vocabulary_gives_the_ids_that_llama_cpp_gives_for_each_pre_tokenizer() {
    let golden = golden("byte_level.json");
    let ids = golden["ids"].as_object().unwrap();
    for (pre, expected) in ids {
        let vocabulary = GgufVocabulary { pre: Some(pre.clone()), ..vocabulary(&golden) };
        assert_eq!(differing(&tokenizer(&vocabulary), &golden["texts"], expected), [""; 0], "{pre}");
    }
    let distinct: std::collections::BTreeSet<String> = ids.values().map(Value::to_string).collect();
    assert_eq!(distinct.len(), ids.len(), "two pre-tokenizers that the texts do not tell apart would prove little");
}

#[test]
fn a_vocabulary_survives_the_way_to_hugging_face_and_back() {
    let byte_level = golden("byte_level.json");
    let named = byte_level["ids"]
        .as_object()
        .unwrap()
        .keys()
        .map(|pre| GgufVocabulary { pre: Some(pre.clone()), ..vocabulary(&byte_level) });
    for mut vocabulary in named.chain([vocabulary(&golden("sentencepiece.json"))]) {
        vocabulary.chat_template = Some("{{ messages }}".to_owned());
        vocabulary.add_eos = Some(false);
        let files = vocabulary.tokenizer_files().unwrap();
        let back = GgufVocabulary::from_hf(&hf(&files)).unwrap();
        assert_eq!(back.tokenizer_files().unwrap(), files);
        if vocabulary.model == "gpt2" {
            let control = |id: usize| if id < 3 { TokenType::Control } else { back.token_types[id] };
            assert!((0..back.tokens.len()).all(|id| back.token_types[id] == control(id)));
            assert_eq!(back, vocabulary);
        } else {
            assert_eq!((&back.tokens, &back.token_types), (&vocabulary.tokens, &vocabulary.token_types));
            let from_scores = GgufVocabulary { merges: Vec::new(), ..back };
            assert_eq!(from_scores.tokenizer_files().unwrap(), files);
        }
    }
}

#[test]
fn the_files_name_what_has_a_meaning() {
    let mut vocabulary = vocabulary(&golden("sentencepiece.json"));
    vocabulary.chat_template = Some("{{ messages }}".to_owned());
    vocabulary.add_eos = Some(true);
    let files = vocabulary.tokenizer_files().unwrap();
    let json = |name: &str| -> Value {
        serde_json::from_str(&files.iter().find(|file| file.name == name).unwrap().text).unwrap()
    };
    let config = json("tokenizer_config.json");
    assert_eq!((&config["bos_token"], &config["add_bos_token"]), (&json!("<s>"), &json!(true)));
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!(json("special_tokens_map.json"), json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}));
    assert_eq!(json("generation_config.json"), json!({"bos_token_id": 1, "eos_token_id": 2}));
    let ids = tokenizer(&vocabulary).encode_with_special_tokens("a").unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (1, 2));
}

#[test]
fn all_tokens_that_end_a_text_are_known_to_the_file_and_to_the_tokenizer() {
    let sound = vocabulary(&golden("sentencepiece.json"));
    assert_eq!(sound.ends(), [2]);
    let mut several = GgufVocabulary { eot: Some(7), eom: Some(2), ..sound };
    several.tokens[9] = "<|im_end|>".to_owned();
    assert_eq!(several.ends(), [2, 7], "a token of text is none by its spelling");
    several.token_types[9] = TokenType::Control;
    assert_eq!(several.ends(), [2, 7, 9]);
    let files = several.tokenizer_files().unwrap();
    let generation = files.iter().find(|file| file.name == "generation_config.json").unwrap();
    assert!(generation.text.contains("eos_token_id"));
    let folder = tempfile::tempdir().unwrap();
    save(&files, folder.path());
    assert_eq!(Tokenizer::from_directory(folder.path()).unwrap().eos(), [2, 7]);
}

#[test]
fn a_vocabulary_that_breaks_a_rule_is_refused_by_name() {
    type Change = fn(&mut GgufVocabulary);
    let sentencepiece: [(&str, Change); 9] = [
        ("tokenizer.ggml.model is \"t5\"", |v| v.model = "t5".to_owned()),
        ("tokens 5 and 7 are both", |v| v.tokens[7] = v.tokens[5].clone()),
        ("tokenizer.ggml.scores has 639 entries", |v| v.scores.truncate(639)),
        ("tokenizer.ggml.token_type has 639 entries", |v| v.token_types.truncate(639)),
        ("score of token 4 is not a number", |v| v.scores[4] = f32::NAN),
        ("eos_token has id 640", |v| v.eos = Some(640)),
        ("add_bos_token is true, but no bos_token_id", |v| v.bos = None),
        ("no scores", |v| v.scores.clear()),
        ("tokenizer.huggingface.json gives \"zz\" id 3", |v| {
            v.huggingface_json = Some(r#"{"model": {"vocab": {"zz": 3}}}"#.to_owned());
        }),
    ];
    let byte_level: [(&str, Change); 4] = [
        ("tokenizer.ggml.pre is \"kimi\\u{1b}\"", |v| v.pre = Some("kimi\u{1b}".to_owned())),
        ("no merges", |v| v.merges.clear()),
        ("merge 1 is \"a\"", |v| v.merges[1] = "a".to_owned()),
        ("merge 0 is \"zebra zebra\"", |v| v.merges[0] = "zebra zebra".to_owned()),
    ];
    for (name, changes) in [("sentencepiece.json", &sentencepiece[..]), ("byte_level.json", &byte_level[..])] {
        let mut sound = vocabulary(&golden(name));
        sound.pre = Some("gpt-2".to_owned());
        assert!(sound.tokenizer_files().is_ok());
        for (told, change) in changes {
            let mut broken = sound.clone();
            change(&mut broken);
            let error = broken.tokenizer_files().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}

#[test]
fn what_gguf_cannot_say_is_refused_by_name() {
    let of = |name: &str, pre: &str| {
        let vocabulary = GgufVocabulary { pre: Some(pre.to_owned()), ..vocabulary(&golden(name)) };
        hf(&vocabulary.tokenizer_files().unwrap())
    };
    let refused = |files: &HfTokenizer, change: fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&files.tokenizer_json).unwrap();
        change(&mut json);
        GgufVocabulary::from_hf(&HfTokenizer { tokenizer_json: json.to_string(), ..files.clone() })
            .unwrap_err()
            .to_string()
    };
    let byte_level = of("byte_level.json", "smollm");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("model.type of tokenizer.json is \"Unigram\"", |json| {
            json["model"] = json!({"type": "Unigram", "vocab": [["a", 0.0]]})
        }),
        ("normalizer of tokenizer.json is {\"type\":\"NFC\"}", |json| json["normalizer"] = json!({"type": "NFC"})),
        ("pre_tokenizer of tokenizer.json is {\"type\":\"Whitespace\"}", |json| {
            json["pre_tokenizer"] = json!({"type": "Whitespace"})
        }),
        ("pre_tokenizer of tokenizer.json is {\"splits\":[\"\\\\p{N}\"", |json| {
            json["model"]["ignore_merges"] = json!(true)
        }),
        ("added_tokens of tokenizer.json is \"<|endoftext|>\"", |json| json["added_tokens"][0]["lstrip"] = json!(true)),
        ("post_processor of tokenizer.json is {\"type\":\"RobertaProcessing\"", |json| {
            json["post_processor"] = json!({"type": "RobertaProcessing"})
        }),
        ("model.end_of_word_suffix of tokenizer.json is \"</w>\"", |json| {
            json["model"]["end_of_word_suffix"] = json!("</w>")
        }),
        ("id 4 of tokenizer.json stands for", |json| json["added_tokens"][0]["id"] = json!(4)),
        ("model.vocab of tokenizer.json is 4000000001", |json| json["model"]["vocab"]["a"] = json!(4_000_000_000u32)),
    ];
    for (told, change) in changes {
        let error = refused(&byte_level, change);
        assert!(error.contains(told), "{error}");
    }
    let sentencepiece = of("sentencepiece.json", "default");
    let changes: [(&str, Change); 5] = [
        ("there is no token <0x41>", |json| drop(json["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>"))),
        ("it is missing, though both parts", |json| drop(json["model"]["merges"].as_array_mut().unwrap().remove(5))),
        ("stand between", |json| {
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            let twice = (1..merges.len()).find(|&i| joined(&merges[i]) == joined(&merges[i - 1])).unwrap();
            let moved = merges.remove(twice);
            merges.push(moved);
        }),
        ("pre_tokenizer of tokenizer.json is {\"type\":\"Metaspace\"", |json| {
            json["pre_tokenizer"]["split"] = json!(true)
        }),
        ("normalizer of tokenizer.json is {\"type\":\"Lowercase\"}", |json| {
            json["normalizer"] = json!({"type": "Lowercase"});
            json["pre_tokenizer"] = Value::Null;
        }),
    ];
    for (told, change) in changes {
        let error = refused(&sentencepiece, change);
        assert!(error.contains(told), "{error}");
    }
    let nonsense = HfTokenizer { tokenizer_json: "{".to_owned(), ..HfTokenizer::default() };
    assert!(matches!(GgufVocabulary::from_hf(&nonsense), Err(VocabularyError::Malformed { .. })));
}

fn joined(merge: &Value) -> String {
    [&merge[0], &merge[1]].map(|part| part.as_str().unwrap()).concat()
}

#[test]
fn a_tokenizer_of_llama_2s_form_is_the_same_vocabulary() {
    let vocabulary = vocabulary(&golden("sentencepiece.json"));
    let newer = hf(&vocabulary.tokenizer_files().unwrap());
    let mut json: Value = serde_json::from_str(&newer.tokenizer_json).unwrap();
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["pre_tokenizer"] = Value::Null;
    let spelled = |merge: &Value| json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    json["model"]["merges"] = json["model"]["merges"].as_array().unwrap().iter().map(spelled).collect();
    let older = HfTokenizer { tokenizer_json: json.to_string(), ..newer.clone() };
    assert_eq!(GgufVocabulary::from_hf(&older).unwrap(), GgufVocabulary::from_hf(&newer).unwrap());
}

#[test]
fn the_files_of_a_directory_are_read_as_far_as_they_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let files = vocabulary(&golden("sentencepiece.json")).tokenizer_files().unwrap();
    assert!(HfTokenizer::open_on(&*disk(), directory.path()).unwrap_err().to_string().contains("does not exist"));
    save(&files, directory.path());
    std::fs::write(directory.path().join("chat_template.jinja"), "{{ hello }}").unwrap();
    let read = HfTokenizer::open_on(&*disk(), directory.path()).unwrap();
    assert_eq!(read, HfTokenizer { chat_template: Some("{{ hello }}".to_owned()), ..hf(&files) });
    assert_eq!(GgufVocabulary::from_hf(&read).unwrap().chat_template.as_deref(), Some("{{ hello }}"));
}

#[test]
fn several_chat_templates_survive_the_way_to_hugging_face_and_back() {
    let plain = vocabulary(&golden("byte_level.json"));
    let named = by_name(&[("rag", "{{ documents }}"), ("tool_use", "{{ tools }}")]);
    for chat_template in [Some("{{ messages }}".to_owned()), None] {
        let vocabulary = GgufVocabulary { named_chat_templates: named.clone(), chat_template, ..plain.clone() };
        let files = vocabulary.tokenizer_files().unwrap();
        let config = files.iter().find(|file| file.name == "tokenizer_config.json").unwrap();
        assert!(!config.text.contains("chat_template"), "transformers reads the files: {}", config.text);
        let back = GgufVocabulary::from_hf(&read_back(&files)).unwrap();
        assert_eq!(back.named_chat_templates, vocabulary.named_chat_templates);
        assert_eq!(back.chat_template, vocabulary.chat_template);
    }
    for name in ["../../escape", "a/b", "a\\b", "con"] {
        let named_chat_templates = by_name(&[(name, "")]);
        let error = GgufVocabulary { named_chat_templates, ..plain.clone() }.tokenizer_files().unwrap_err();
        assert!(matches!(&error, VocabularyError::UnsafeTemplateName { name: found } if found == name), "{error}");
    }
}

#[test]
fn chat_templates_have_the_names_that_gguf_py_gives_them() {
    let files = read_back(&vocabulary(&golden("byte_level.json")).tokenizer_files().unwrap());
    let read = |templates: Value, jinja: Option<&str>, named: &[(&str, &str)]| {
        let mut config: Value = serde_json::from_str(files.tokenizer_config_json.as_ref().unwrap()).unwrap();
        config["chat_template"] = templates;
        let vocabulary = GgufVocabulary::from_hf(&HfTokenizer {
            tokenizer_config_json: Some(config.to_string()),
            chat_template: jinja.map(str::to_owned),
            named_chat_templates: by_name(named),
            ..files.clone()
        });
        vocabulary.map(|read| (read.chat_template, read.named_chat_templates))
    };
    let listed = json!([{"name": "default", "template": "D"}, {"name": "tool-use v2é", "template": "T"}]);
    let (default, named) = read(listed, Some("ignored"), &[("rag", "R")]).unwrap();
    assert_eq!((default.as_deref(), named), (Some("D"), by_name(&[("rag", "R"), ("tool_use_v2_", "T")])));
    let (default, named) = read(Value::Null, Some("J"), &[("tool_use", "T")]).unwrap();
    assert_eq!((default.as_deref(), named), (Some("J"), by_name(&[("tool_use", "T")])));
    let (default, named) = read(json!([{"name": "rag", "template": "R"}]), None, &[]).unwrap();
    assert_eq!((default, named), (None, by_name(&[("rag", "R")])));
    let error = read(Value::Null, None, &[("tool-use", ""), ("tool_use", "")]).unwrap_err().to_string();
    assert!(error.contains(r#""tool-use" and "tool_use" would have one key"#), "{error}");
    for malformed in [json!(5), json!([{"name": "rag"}]), json!([{"template": "R"}]), json!(["R"])] {
        let error = read(malformed, None, &[]).unwrap_err().to_string();
        assert!(error.contains("expected a template, or a list of objects with a name and a template"), "{error}");
    }
}

/// For `tests/golden/gguf/check_vocabularies.py`: the files of every vocabulary that it left as JSON.
#[test]
#[ignore = "writes files for tests/golden/gguf/check_vocabularies.py, which needs transformers and llama.cpp"]
fn write_vocabularies_for_transformers_and_llama_cpp_to_check() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vocabularies");
    println!("{}", folder.display());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let vocabulary = vocabulary(&serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap());
            let out = path.with_extension("");
            std::fs::create_dir_all(&out).unwrap();
            let files = vocabulary.tokenizer_files().unwrap();
            save(&files, &out);
            match GgufVocabulary::from_hf(&hf(&files)) {
                Ok(back) => assert_eq!(back.tokenizer_files().unwrap()[0], files[0], "{}", path.display()),
                Err(error) => println!("{}: no way back: {error}", path.display()),
            }
        }
    }
}
