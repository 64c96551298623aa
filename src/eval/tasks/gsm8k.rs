//! GSM8K (Cobbe et al., 2021, arXiv:2110.14168): grade-school arithmetic, answered in free text that ends in `#### 18`.

use serde_json::{Map, Value};

use super::doc::{Question, text};
use super::task::{FewShots, Filter, Generation, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;

/// The task; it has 5 examples unless a run says otherwise.
pub(super) fn task() -> Task {
    Task {
        name: "gsm8k".to_owned(),
        alias: "gsm8k".to_owned(),
        version: 3.0,
        data_set: DataSet {
            path: "openai/gsm8k",
            config: Some("main".to_owned()),
            folders: &[],
            shares_folder: false,
            suffix: None,
        },
        split: Split::Test,
        few_shots: FewShots {
            split: Split::Train,
            default: 5,
            is_fixed: false,
            sampler: Sampler::Random { leaves_out_item: false },
        },
        description: String::new(),
        metrics: &[Metric::ExactMatch],
        filters: &[Filter::StrictMatch, Filter::FlexibleExtract],
        generation: Some(Generation { until: &["Question:", "</s>", "<|im_end|>"], max_tokens: 256 }),
        question,
    }
}

fn question(fields: &mut Map<String, Value>, _: &DataSet) -> Result<Question, ItemFault> {
    let text_of_question = format!("Question: {}\nAnswer:", text(fields, "question")?);
    Ok(Question::Open { text: text_of_question, answer: text(fields, "answer")?.to_owned() })
}
