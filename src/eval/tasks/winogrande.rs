//! WinoGrande (Sakaguchi et al., 2019, arXiv:1907.10641): which of two names fills a blank. What follows the blank is scored after
//! each filled start (Trinh and Le, 2018, arXiv:1806.02847).

use serde_json::{Map, Value};

use super::doc::{Question, text};
use super::task::{FewShots, Filter, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;
use crate::python::strip;

/// The task; the leaderboard takes 5 examples.
pub(super) fn task() -> Task {
    Task {
        name: "winogrande".to_owned(),
        alias: "winogrande".to_owned(),
        version: 1.0,
        data_set: DataSet {
            path: "allenai/winogrande",
            config: Some("winogrande_xl".to_owned()),
            folders: &[],
            shares_folder: false,
            suffix: Some("xl"),
        },
        split: Split::Validation,
        few_shots: FewShots {
            split: Split::Train,
            default: 0,
            is_fixed: false,
            sampler: Sampler::Random { leaves_out_item: true },
        },
        description: String::new(),
        metrics: &[Metric::Acc],
        filters: &[Filter::None],
        generation: None,
        question,
    }
}

fn question(fields: &mut Map<String, Value>, _: &DataSet) -> Result<Question, ItemFault> {
    let sentence = text(fields, "sentence")?;
    let no_blank = || ItemFault::Type { field: "sentence", found: sentence.to_owned(), expected: "a blank _" };
    let (start, end) = sentence.split_once('_').ok_or_else(no_blank)?;
    let contexts = [text(fields, "option1")?, text(fields, "option2")?].map(|option| format!("{start}{option}"));
    let answer = text(fields, "answer")?;
    let no_choice = || ItemFault::Answer { field: "answer", found: answer.to_owned(), num_choices: 2 };
    let gold = ["1", "2"].iter().position(|name| *name == answer).ok_or_else(no_choice)?;
    Ok(Question::Contexts { contexts: contexts.to_vec(), continuation: strip(end).to_owned(), gold })
}
