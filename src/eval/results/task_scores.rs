//! The scores of a task.

use crate::eval::items::TaskItems;
use crate::eval::response::Response;
use crate::eval::score::scores;
use crate::eval::statistics::Estimate;
use crate::eval::tasks::{Filter, Metric};

/// The scores of all items of a task.
#[derive(Debug)]
pub struct TaskScores<'a> {
    /// The task and its items.
    pub task: &'a TaskItems,
    /// The response to each item.
    pub responses: Vec<Response>,
    /// Of each filter of the task, the metrics of each item in the order of the task.
    pub scores: Vec<(Filter, Vec<Vec<f64>>)>,
}

impl<'a> TaskScores<'a> {
    /// Scores the responses to the items of a task, in their order.
    ///
    /// # Panics
    /// If there is not a response to each item, of the kind that its question asks for.
    pub fn new(task: &'a TaskItems, responses: Vec<Response>) -> Self {
        assert_eq!(task.items.len(), responses.len(), "a response to each item");
        let definition = &task.chosen.task;
        let by_filter = |filter: &Filter| {
            let pairs = task.items.iter().zip(&responses);
            let of_item =
                pairs.map(|(item, response)| scores(&item.doc.question, response, definition.metrics, *filter));
            (*filter, of_item.collect())
        };
        let scores = definition.filters.iter().map(by_filter).collect();
        Self { task, responses, scores }
    }

    /// The mean of each metric, by filter.
    pub fn estimates(&self) -> Vec<(Metric, Filter, Estimate)> {
        let metrics = || self.task.chosen.task.metrics.iter().enumerate();
        let of = |values: &Vec<Vec<f64>>, metric: usize| -> Vec<f64> {
            values.iter().map(|values| values[metric]).collect()
        };
        self.scores
            .iter()
            .flat_map(|(filter, values)| {
                metrics().map(|(index, metric)| (*metric, *filter, Estimate::of(&of(values, index))))
            })
            .collect()
    }

    /// Log-likelihoods that are no number.
    pub fn num_nonfinite(&self) -> usize {
        let is_bad = |response: &Response| match response {
            Response::Answers(answers) => answers.iter().filter(|answer| !answer.log_likelihood.is_finite()).count(),
            Response::Text(_) => 0,
        };
        self.responses.iter().map(is_bad).sum()
    }
}
