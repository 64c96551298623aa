//! ARC-Challenge (Clark et al., 2018, arXiv:1803.05457): grade-school science with three to five choices.

use serde_json::{Map, Value};

use super::doc::{Key, Question, checked, object, text, texts};
use super::task::{FewShots, Filter, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;

/// The task; the leaderboard takes 25 examples and `acc_norm`.
pub(super) fn task() -> Task {
    Task {
        name: "arc_challenge".to_owned(),
        alias: "arc_challenge".to_owned(),
        version: 1.0,
        data_set: DataSet {
            path: "allenai/ai2_arc",
            config: Some("ARC-Challenge".to_owned()),
            folders: &["arc_challenge"],
            shares_folder: false,
            suffix: None,
        },
        split: Split::Test,
        few_shots: FewShots {
            split: Split::Train,
            default: 0,
            is_fixed: false,
            sampler: Sampler::Random { leaves_out_item: false },
        },
        description: String::new(),
        metrics: &[Metric::Acc, Metric::AccNorm],
        filters: &[Filter::None],
        generation: None,
        question,
    }
}

fn question(fields: &mut Map<String, Value>, _: &DataSet) -> Result<Question, ItemFault> {
    let choices = object(fields, "choices")?;
    let (labels, choices) = (texts(choices, "label")?, texts(choices, "text")?);
    let answer = text(fields, "answerKey")?;
    let gold = labels.iter().position(|label| label == answer);
    let no_choice = || ItemFault::Answer { field: "answerKey", found: answer.to_owned(), num_choices: choices.len() };
    let gold = gold.ok_or_else(no_choice)?;
    checked(&choices, gold, "answerKey")?;
    let text = format!("Question: {}\nAnswer:", text(fields, "question")?);
    Ok(Question::Choices { text, choices, key: Key::One(gold) })
}
