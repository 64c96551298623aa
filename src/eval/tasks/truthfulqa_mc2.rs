//! TruthfulQA, MC2 (Lin et al., 2021, arXiv:2109.07958): the share of probability on the true answers, of any number.

use serde_json::{Map, Value};

use super::doc::{Key, Question, checked, object, text, texts};
use super::task::{FewShots, Filter, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;

/// Six questions with answers before each question.
const EXAMPLES: &str = include_str!("truthfulqa_examples.txt");

/// The task.
pub(super) fn task() -> Task {
    Task {
        name: "truthfulqa_mc2".to_owned(),
        alias: "truthfulqa_mc2".to_owned(),
        version: 3.0,
        data_set: DataSet {
            path: "truthfulqa/truthful_qa",
            config: Some("multiple_choice".to_owned()),
            folders: &["truthfulqa"],
            shares_folder: false,
            suffix: None,
        },
        split: Split::Validation,
        few_shots: FewShots { split: Split::Validation, default: 0, is_fixed: true, sampler: Sampler::First },
        description: String::new(),
        metrics: &[Metric::Acc],
        filters: &[Filter::None],
        generation: None,
        question,
    }
}

fn question(fields: &mut Map<String, Value>, _: &DataSet) -> Result<Question, ItemFault> {
    let targets = object(fields, "mc2_targets")?;
    let choices = texts(targets, "choices")?;
    checked(&choices, 0, "mc2_targets")?;
    let labels = targets.get("labels").ok_or(ItemFault::Missing { field: "labels" })?;
    let truths: Option<Vec<bool>> = labels
        .as_array()
        .and_then(|labels| labels.iter().map(|label| label.as_i64().map(|label| label == 1)).collect());
    let expected = "a list with a number for each choice";
    let truths = truths.filter(|truths| truths.len() == choices.len());
    let truths = truths.ok_or_else(|| ItemFault::Type { field: "labels", found: labels.to_string(), expected })?;
    let text = format!("{}\n\nQ: {}\nA:", EXAMPLES.trim_end_matches('\n'), text(fields, "question")?);
    Ok(Question::Choices { text, choices, key: Key::Many(truths) })
}
