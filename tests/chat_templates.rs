//! Chats rendered as transformers renders them: text, what the assistant says in it, ids and masks.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deepwide::data::{Record, RecordEncoder};
use deepwide::error::ErrorKind;
use deepwide::formats::Checkpoint;
use deepwide::output::disk::disk;
use deepwide::tokenizer::{ChatTemplate, ChatTemplateError, Message, RenderOptions, Tokenizer};
use serde_json::{Value, json};

use crate::gguf_read::builder::{llama, text, texts};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat");
/// Templates of well-known models with chats and texts, where the checkout has them beside it.
const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/models/chat_templates_expected.json");

/// The time that the golden texts show.
fn time() -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_752_150_000))
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Renders a chat in the form of transformers' arguments.
fn rendered(source: &str, chat: &Value) -> Result<(String, Vec<[usize; 2]>), ChatTemplateError> {
    let mut extra = chat.as_object().unwrap().clone();
    let mut take = |key| extra.shift_remove(key).unwrap_or_default();
    let messages: Vec<Message> = serde_json::from_value(take("messages")).unwrap();
    let tools: Vec<Value> = serde_json::from_value(take("tools")).unwrap_or_default();
    let add_generation_prompt = take("add_generation_prompt") == json!(true);
    let options = RenderOptions { add_generation_prompt, tools: &tools, extra, ..RenderOptions::default() };
    let template = ChatTemplate::at_time("golden.jinja", source, [].into(), time())?;
    let (text, spans) = template.render_with_spans(&messages, &options)?;
    assert_eq!(template.render(&messages, &options)?, text, "marks change nothing");
    Ok((text, spans.into_iter().map(|span| [span.start, span.end]).collect()))
}

#[test]
fn chats_render_as_transformers_renders_them() {
    let golden = read(&Path::new(GOLDEN).join("chat_templates.json"));
    for case in golden["cases"].as_array().unwrap() {
        let [template, chat] = ["template", "chat"].map(|key| case[key].as_str().unwrap());
        let found = rendered(golden["templates"][template].as_str().unwrap(), &golden["chats"][chat]);
        match (case["text"].as_str(), found) {
            (Some(text), Ok((found, spans))) => {
                assert_eq!(found, text, "{template}: {chat}");
                // transformers tells no spans of a prompt, nor of a block in a macro whose text is printed later.
                if chat != "prompt" {
                    assert_eq!(json!(spans), case["spans"], "{template}: {chat}");
                }
            }
            (None, Err(_)) => {}
            (_, found) => panic!("{template}: {chat}: {found:?}"),
        }
    }
}

#[test]
fn masks_of_the_assistant_are_those_of_transformers() {
    let golden = read(&Path::new(GOLDEN).join("chat_templates.json"));
    let tokenizer = Tokenizer::from_directory(Path::new(GOLDEN)).unwrap();
    let source = golden["templates"]["chatml"].as_str().unwrap();
    let template = ChatTemplate::new("golden.jinja", source, [].into()).unwrap();
    let encoder = RecordEncoder { assistant_only: true, ..RecordEncoder::new(&tokenizer, Some(&template)) };
    for mask in golden["masks"].as_array().unwrap() {
        let messages = &golden["chats"][mask["chat"].as_str().unwrap()]["messages"];
        let messages = serde_json::from_value(messages.clone()).unwrap();
        let example = encoder.example(&Record::Messages { messages, tools: Vec::new() }).unwrap();
        let trained: Vec<u8> = example.trained.iter().map(|trained| u8::from(*trained)).collect();
        assert_eq!((json!(example.ids), json!(trained)), (mask["ids"].clone(), mask["assistant"].clone()));
        assert!(trained.contains(&0) && trained.contains(&1));
    }
}

/// That of Hammer2.1 prints tools by `tools | string`: the published text has JSON there, as JavaScript prints it, and
/// transformers prints Python's form of a list.
#[test]
fn templates_of_published_models_render_to_the_byte() {
    let path = PathBuf::from(PUBLISHED);
    if !path.exists() {
        eprintln!("skipped: {PUBLISHED} is absent");
        return;
    }
    let cases = read(&path);
    let cases = cases.as_array().unwrap();
    let mut others = Vec::new();
    for case in cases {
        let (text, _) = rendered(case["chat_template"].as_str().unwrap(), &case["data"]).unwrap();
        if text != case["target"].as_str().unwrap() {
            others.push(case["name"].as_str().unwrap());
        }
    }
    assert_eq!(others, ["MadeAgents/Hammer2.1"]);
    assert_eq!(cases.len(), 27);
}

/// A checkpoint directory with these files besides its own.
fn directory(files: &[(&str, String)]) -> tempfile::TempDir {
    let (directory, golden) = (tempfile::tempdir().unwrap(), Path::new(GOLDEN).with_file_name("llama_mha"));
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), directory.path().join(name)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// What the template of a checkpoint renders without messages, and the name of its file; or the message of the refusal.
fn rendered_by(path: &Path, name: Option<&str>) -> Result<(String, String), String> {
    let checkpoint = Checkpoint::open_on(disk(), path).unwrap();
    let template = checkpoint.chat_template(name).map_err(|error| {
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid));
        error.to_string()
    })?;
    let file = template.path().file_name().unwrap().to_string_lossy().into_owned();
    Ok((template.render(&[], &RenderOptions::default()).unwrap(), file))
}

#[test]
fn the_template_of_a_directory_is_that_of_its_jinja_file_or_its_tokenizer_config() {
    let found = |text: &str, file: &str| Ok((text.to_owned(), file.to_owned()));
    let several = json!({
        "bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": null, "add_bos_token": true,
        "extra_special_tokens": {"image_token": "<img>"},
        "chat_template": [
            {"name": "tool_use", "template": "{{ image_token }}"},
            {"name": "default", "template": "{{ bos_token }}{{ eos_token }}{{ unk_token }}"},
        ],
    });
    let config = ("tokenizer_config.json", several.to_string());
    let named = directory(std::slice::from_ref(&config));
    assert_eq!(rendered_by(named.path(), None), found("<s></s>", "tokenizer_config.json"));
    assert_eq!(rendered_by(named.path(), Some("tool_use")), found("<img>", "tokenizer_config.json"));
    let refusal = rendered_by(named.path(), Some("rag")).unwrap_err();
    assert!(refusal.ends_with(r#"has no chat template "rag", found "tool_use", "default""#), "{refusal}");
    let both = directory(&[config, ("chat_template.jinja", "of the file {{ bos_token }}".to_owned())]);
    assert_eq!(rendered_by(both.path(), None), found("of the file <s>", "chat_template.jinja"));
    assert_eq!(rendered_by(both.path(), Some("tool_use")), found("<img>", "tokenizer_config.json"));
    let one = directory(&[("tokenizer_config.json", json!({"chat_template": "alone"}).to_string())]);
    assert_eq!(rendered_by(one.path(), None), found("alone", "tokenizer_config.json"));
    let refusal = rendered_by(directory(&[]).path(), None).unwrap_err();
    assert!(refusal.ends_with(r#"has no chat template "default", found none"#), "{refusal}");
    let refusal = rendered_by(directory(&[("chat_template.jinja", "{% if %}".to_owned())]).path(), None).unwrap_err();
    assert!(refusal.contains("chat_template.jinja\": line 1 of the chat template: syntax error"), "{refusal}");
}

#[test]
fn the_template_of_a_gguf_file_is_in_its_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    let keys = llama()
        .with("tokenizer.chat_template", text("{{ bos_token }}default"))
        .with("tokenizer.chat_templates", texts(&["tool_use", "absent"]))
        .with("tokenizer.chat_template.tool_use", text("tools"));
    std::fs::write(&path, keys.bytes()).unwrap();
    let found = |text: &str| Ok((text.to_owned(), "tiny.gguf".to_owned()));
    assert_eq!(rendered_by(&path, None), found("<s>default"));
    assert_eq!(rendered_by(&path, Some("tool_use")), found("tools"));
    let refusal = rendered_by(&path, Some("absent")).unwrap_err();
    assert!(refusal.ends_with(r#"found "tool_use", "default""#), "{refusal}");
}
