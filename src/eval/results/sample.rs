//! A line of a log of samples.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::task_scores::TaskScores;
use crate::eval::items::Item;
use crate::eval::scoring::Answer;
use crate::eval::tasks::{Filter, Metric};
use crate::output::read::hexadecimal;

/// An item with its answers and metrics under one filter.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    index: usize,
    item: &'a Item,
    answers: &'a [Answer],
    filter: Filter,
    metrics: Vec<(Metric, f64)>,
}

impl<'a> Sample<'a> {
    /// All samples of a task.
    pub fn all(scores: &'a TaskScores<'a>) -> impl Iterator<Item = Self> {
        scores.scores.iter().flat_map(|(filter, values)| {
            let items = scores.task.items.iter().zip(&scores.answers).zip(values).enumerate();
            items.map(|(index, ((item, answers), values))| {
                let metrics = scores.task.chosen.task.metrics.iter().copied().zip(values.iter().copied()).collect();
                Self { index, item, answers, filter: *filter, metrics }
            })
        })
    }

    /// The sample as lm-eval writes it: one JSON object.
    pub fn to_json(&self) -> Value {
        let requests = self.item.requests().enumerate();
        let arguments: Map<String, Value> = requests
            .map(|(index, request)| {
                (format!("gen_args_{index}"), json!({"arg_0": request.context, "arg_1": request.continuation}))
            })
            .collect();
        // Python's str() of a float and of a bool.
        let is_greedy = |answer: &Answer| if answer.is_greedy { "True" } else { "False" };
        let response = |answer: &Answer| json!([format!("{:?}", answer.log_likelihood), is_greedy(answer)]);
        let [doc_hash, prompt_hash, target_hash] = self.hashes();
        let mut sample = json!({
            "doc_id": self.index,
            "doc": self.item.doc.fields,
            "target": self.item.doc.question.target(),
            "arguments": arguments,
            "resps": self.answers.iter().map(|answer| json!([response(answer)])).collect::<Vec<_>>(),
            "filtered_resps": self.answers.iter().map(response).collect::<Vec<_>>(),
            "filter": self.filter.name(),
            "metrics": self.metrics.iter().map(|(metric, _)| metric.name()).collect::<Vec<_>>(),
            "doc_hash": doc_hash,
            "prompt_hash": prompt_hash,
            "target_hash": target_hash,
        });
        for (metric, value) in &self.metrics {
            sample[metric.name()] = json!(value);
        }
        sample
    }

    /// SHA-256 of the item as indented JSON, of the first prompt, and of the target.
    fn hashes(&self) -> [String; 3] {
        let doc = format!("{:#}", Value::Object(self.item.doc.fields.clone()));
        [sha256(&doc), sha256(&self.item.prompts[0]), sha256(&self.item.doc.question.target())]
    }
}

/// The hash of the hashes of all samples of a task.
pub fn task_hash(scores: &TaskScores<'_>) -> String {
    sha256(&Sample::all(scores).flat_map(|sample| sample.hashes()).collect::<String>())
}

pub(super) fn sha256(text: &str) -> String {
    hexadecimal(&Sha256::digest(text))
}
