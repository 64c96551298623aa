//! The scores of a task.

use crate::eval::items::TaskItems;
use crate::eval::score::scores;
use crate::eval::scoring::Answer;
use crate::eval::statistics::Estimate;
use crate::eval::tasks::{Filter, Metric};

/// The scores of all items of a task.
#[derive(Debug)]
pub struct TaskScores<'a> {
    /// The task and its items.
    pub task: &'a TaskItems,
    /// The answers of each item.
    pub answers: Vec<Vec<Answer>>,
    /// Of each filter of the task, the metrics of each item in the order of the task.
    pub scores: Vec<(Filter, Vec<Vec<f64>>)>,
}

impl<'a> TaskScores<'a> {
    /// Scores a task whose requests have these answers, in the order of [`Item::requests`](crate::eval::Item::requests).
    ///
    /// # Panics
    /// If there is not one answer for each request.
    pub fn new(task: &'a TaskItems, answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut rest = answers.into_iter();
        let answers: Vec<Vec<Answer>> =
            task.items.iter().map(|item| rest.by_ref().take(item.requests().count()).collect()).collect();
        let metrics = task.chosen.task.metrics;
        let of_item = |(item, answers): (&crate::eval::items::Item, &Vec<Answer>)| {
            assert_eq!(item.requests().count(), answers.len(), "an answer for each request");
            scores(&item.doc.question, answers, metrics)
        };
        let values = task.items.iter().zip(&answers).map(of_item).collect();
        Self { task, answers, scores: vec![(Filter::None, values)] }
    }

    /// The mean of each metric, by filter.
    pub fn estimates(&self) -> Vec<(Metric, Filter, Estimate)> {
        let metrics = self.task.chosen.task.metrics.iter().enumerate();
        let of = |values: &Vec<Vec<f64>>, metric: usize| -> Vec<f64> {
            values.iter().map(|values| values[metric]).collect()
        };
        self.scores
            .iter()
            .flat_map(|(filter, values)| {
                metrics.clone().map(|(index, metric)| (*metric, *filter, Estimate::of(&of(values, index))))
            })
            .collect()
    }

    /// Answers that are no number.
    pub fn num_nonfinite(&self) -> usize {
        self.answers.iter().flatten().filter(|answer| !answer.log_likelihood.is_finite()).count()
    }
}
