//! Records as token ids, against what TRL prepares for its trainers.

use std::path::{Path, PathBuf};

use deepwide::data::{Example, Record, RecordEncoder, RecordFormat, Truncation};
use deepwide::tokenizer::{ChatTemplate, Message, Tokenizer};
use serde_json::{Map, Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat");

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn golden_tokenizer() -> Tokenizer {
    Tokenizer::from_directory(Path::new(GOLDEN)).unwrap()
}

fn golden_template() -> ChatTemplate {
    let golden = read(&Path::new(GOLDEN).join("chat_templates.json"));
    ChatTemplate::new("golden.jinja", golden["templates"]["chatml"].as_str().unwrap(), [].into()).unwrap()
}

/// What TRL calls a prepared example: ids, and labels that are -100 where nothing is trained.
fn labelled(example: &Example) -> Value {
    let label = |(id, trained): (&u32, &bool)| if *trained { i64::from(*id) } else { -100 };
    let labels: Vec<i64> = example.ids.iter().zip(&example.trained).map(label).collect();
    json!({"input_ids": example.ids, "labels": labels})
}

/// Rows prepared as TRL's options say. Examples in which truncation leaves nothing to train are left out.
fn prepared(encoder: RecordEncoder<'_>, rows: &[Map<String, Value>], options: &Value) -> Vec<Value> {
    let flag = |key| options[key].as_bool();
    let encoder = RecordEncoder {
        completion_only: flag("completion_only_loss").unwrap_or(true),
        assistant_only: flag("assistant_only_loss").unwrap_or(false),
        ..encoder
    };
    let truncation = match options["truncation_mode"].as_str() {
        Some("keep_end") => Truncation::KeepEnd,
        _ => Truncation::KeepStart,
    };
    let format = RecordFormat::recognize(rows).unwrap();
    let row = |row: &Map<String, Value>| {
        let record = Record::from_row(format, row.clone()).unwrap();
        if format.is_preference() {
            let pair = encoder.preference_pair(&record).unwrap();
            return Some(json!({"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}));
        }
        let mut example = encoder.example(&record).unwrap();
        example.truncate(options["max_length"].as_u64().map_or(usize::MAX, |limit| limit as usize), truncation);
        example.trained.contains(&true).then(|| labelled(&example))
    };
    rows.iter().filter_map(row).collect()
}

/// Compares each set of rows; how many rows there were.
fn compare(golden: &Value, encoder: RecordEncoder<'_>) -> usize {
    let mut count = 0;
    for set in golden.as_array().unwrap() {
        let rows: Vec<Map<String, Value>> = serde_json::from_value(set["rows"].clone()).unwrap();
        let found = prepared(encoder, &rows, &set["options"]);
        let expected = set["prepared"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{}", set["name"]);
        for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(found, expected, "{}: {number}", set["name"]);
        }
        count += rows.len();
    }
    count
}

#[test]
fn records_become_the_ids_and_labels_of_trl() {
    let (tokenizer, template) = (golden_tokenizer(), golden_template());
    let golden = read(&Path::new(GOLDEN).join("training_examples.json"));
    assert_eq!(compare(&golden, RecordEncoder::new(&tokenizer, Some(&template))), 33);
}

/// Needs a folder with `tokenizer.json` and the files beside it, `chat_template.jinja`, and `training_examples.json` of
/// `tests/golden/chat/make_training_golden.py`.
#[test]
#[ignore = "reads from DEEPWIDE_TEST_FOLDER what TRL has prepared by hand"]
fn files_give_what_trl_prepares() {
    let folder = PathBuf::from(std::env::var_os("DEEPWIDE_TEST_FOLDER").expect("DEEPWIDE_TEST_FOLDER"));
    let tokenizer = Tokenizer::from_directory(&folder).unwrap();
    let path = folder.join("chat_template.jinja");
    let template = ChatTemplate::new(&path, &std::fs::read_to_string(&path).unwrap(), [].into()).unwrap();
    let count = compare(&read(&folder.join("training_examples.json")), RecordEncoder::new(&tokenizer, Some(&template)));
    println!("{count} rows");
}

/// Real files have pairs of which nothing can be learned: four with equal sides, two with an empty one.
#[test]
fn rows_of_public_files_are_recognized() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    for (file, format, count, informative) in [
        ("instruct/alpaca_small_2000.json", RecordFormat::Alpaca, 2000, 2000),
        ("instruct/sharegpt_vicuna_identity_500.json", RecordFormat::ShareGpt, 500, 500),
        ("instruct/sharegpt_glaive_toolcall_300.json", RecordFormat::ShareGpt, 300, 300),
        ("preference/dpo_en_demo_sharegpt_300.json", RecordFormat::ShareGptPreference, 300, 300),
        ("preference/ultrafeedback_train_1000.jsonl", RecordFormat::Preference, 1000, 994),
    ] {
        let Ok(text) = std::fs::read_to_string(shared.join(file)) else {
            eprintln!("skipped: {file} is absent from {}", shared.display());
            continue;
        };
        let rows: Vec<Map<String, Value>> = match file.ends_with(".json") {
            true => serde_json::from_str(&text).unwrap(),
            false => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        assert_eq!(RecordFormat::recognize(&rows[..10]), Ok(format), "{file}");
        let records: Vec<Record> = rows.into_iter().map(|row| Record::from_row(format, row).unwrap()).collect();
        let found = records.iter().filter(|record| record.is_informative()).count();
        assert_eq!((records.len(), found), (count, informative), "{file}");
    }
}

fn refusal(encoder: &RecordEncoder<'_>, record: &Record) -> String {
    encoder.example(record).unwrap_err().to_string()
}

#[test]
fn records_that_cannot_be_encoded_are_refused_with_the_reason() {
    let (tokenizer, template) = (golden_tokenizer(), golden_template());
    let encoder = RecordEncoder::new(&tokenizer, Some(&template));
    let chat = |messages: &[Message]| Record::Messages { messages: messages.to_vec(), tools: Vec::new() };
    let calling = Message::new("assistant", "").with_tool_calls(vec![json!({"type": "function"})]);
    let said = refusal(&encoder, &chat(&[Message::new("user", "a"), calling]));
    assert!(said.starts_with("message 2 calls a tool, expected a chat template that renders `tool_calls`"), "{said}");
    let without = RecordEncoder { template: None, ..encoder };
    let said = refusal(&without, &chat(&[Message::new("user", "a")]));
    assert_eq!(said, "found messages, expected text: the model has no chat template");
    let said = encoder.preference_pair(&Record::Text("a".to_owned())).unwrap_err().to_string();
    assert_eq!(said, "found one text, expected a preference");
    let endless = Tokenizer::word_level(&["a".to_owned()]);
    let said = refusal(&RecordEncoder::new(&endless, None), &Record::Text("a".to_owned()));
    assert!(said.contains("expected an \"eos_token\""), "{said}");
}
