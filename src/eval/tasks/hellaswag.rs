//! HellaSwag (Zellers et al., 2019, arXiv:1905.07830): the most plausible end of a text, of four.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::doc::{Key, Question, checked, text, texts, whole};
use super::task::{FewShots, Filter, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;
use crate::python::{capitalize, strip};

/// Marks that the extraction from WikiHow left.
static BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a valid pattern"));

/// The task; the leaderboard takes 10 examples and `acc_norm`.
pub(super) fn task() -> Task {
    Task {
        name: "hellaswag".to_owned(),
        alias: "hellaswag".to_owned(),
        version: 1.0,
        data_set: DataSet { path: "Rowan/hellaswag", config: None, folders: &[], shares_folder: false, suffix: None },
        split: Split::Validation,
        few_shots: FewShots {
            split: Split::Train,
            default: 0,
            is_fixed: false,
            sampler: Sampler::Random { leaves_out_item: true },
        },
        description: String::new(),
        metrics: &[Metric::Acc, Metric::AccNorm],
        filters: &[Filter::None],
        generation: None,
        question,
    }
}

fn question(fields: &mut Map<String, Value>, _: &DataSet) -> Result<Question, ItemFault> {
    let context = format!("{} {}", text(fields, "ctx_a")?, capitalize(text(fields, "ctx_b")?));
    let query = cleaned(&format!("{}: {context}", text(fields, "activity_label")?));
    let choices: Vec<String> = texts(fields, "endings")?.iter().map(|ending| cleaned(ending)).collect();
    let gold = whole(fields, "label")?;
    checked(&choices, gold, "label")?;
    fields.insert("query".to_owned(), json!(query));
    fields.insert("choices".to_owned(), json!(choices));
    fields.insert("gold".to_owned(), json!(gold));
    Ok(Question::Choices { text: query, choices, key: Key::One(gold) })
}

fn cleaned(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}
