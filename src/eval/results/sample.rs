//! A line of a log of samples.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::task_scores::TaskScores;
use crate::eval::items::Item;
use crate::eval::response::Response;
use crate::eval::scoring::Answer;
use crate::eval::tasks::{Filter, Generation, Metric};
use crate::output::read::hexadecimal;
use crate::python::repr;

/// An item with its answers and metrics under one filter.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    index: usize,
    item: &'a Item,
    response: &'a Response,
    generation: Option<Generation>,
    filter: Filter,
    metrics: Vec<(Metric, f64)>,
}

impl<'a> Sample<'a> {
    /// All samples of a task.
    pub fn all(scores: &'a TaskScores<'a>) -> impl Iterator<Item = Self> {
        scores.scores.iter().flat_map(|(filter, values)| {
            let items = scores.task.items.iter().zip(&scores.responses).zip(values).enumerate();
            items.map(|(index, ((item, response), values))| {
                let task = &scores.task.chosen.task;
                let metrics = task.metrics.iter().copied().zip(values.iter().copied()).collect();
                Self { index, item, response, generation: task.generation, filter: *filter, metrics }
            })
        })
    }

    /// The sample as lm-eval writes it: one JSON object.
    pub fn to_json(&self) -> Value {
        let (responses, filtered): (Vec<Value>, Vec<Value>) = match self.response {
            Response::Answers(answers) => answers.iter().map(|answer| (json!([pair(answer)]), pair(answer))).unzip(),
            Response::Text(text) => (vec![json!([text])], vec![json!(self.response.filtered(self.filter))]),
        };
        let [doc_hash, prompt_hash, target_hash] = self.hashes();
        let mut sample = json!({
            "doc_id": self.index,
            "doc": self.item.doc.fields,
            "target": self.item.doc.question.target(),
            "arguments": self.arguments(),
            "resps": responses,
            "filtered_resps": filtered,
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

    fn arguments(&self) -> Map<String, Value> {
        if let Some(Generation { until, .. }) = self.generation {
            let settings = json!({"until": until, "do_sample": false, "temperature": 0.0});
            let arguments = json!({"arg_0": self.item.prompts[0], "arg_1": settings});
            return [("gen_args_0".to_owned(), arguments)].into_iter().collect();
        }
        let requests = self.item.requests().enumerate();
        let arguments = requests.map(|(index, request)| {
            (format!("gen_args_{index}"), json!({"arg_0": request.context, "arg_1": request.continuation}))
        });
        arguments.collect()
    }

    /// SHA-256 of the item as indented JSON, of the first prompt, and of the target.
    fn hashes(&self) -> [String; 3] {
        let doc = format!("{:#}", Value::Object(self.item.doc.fields.clone()));
        [sha256(&doc), sha256(&self.item.prompts[0]), sha256(&self.item.doc.question.target())]
    }
}

/// Python's `str()` of a log-likelihood and of a bool.
fn pair(answer: &Answer) -> Value {
    json!([repr(answer.log_likelihood), if answer.is_greedy { "True" } else { "False" }])
}

/// The hash of the hashes of all samples of a task.
pub fn task_hash(scores: &TaskScores<'_>) -> String {
    sha256(&Sample::all(scores).flat_map(|sample| sample.hashes()).collect::<String>())
}

pub(super) fn sha256(text: &str) -> String {
    hexadecimal(&Sha256::digest(text))
}
