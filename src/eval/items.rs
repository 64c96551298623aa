//! The items of a task with their prompts.

use std::fmt;

use super::dataset::{DataFile, DataPlace, Split, SplitRows};
use super::error::EvalError;
use super::few_shot::FewShotSampler;
use super::prompt::PromptStyle;
use super::scoring::Request;
use super::tasks::{Chosen, Doc, Question};

/// How much of a split is evaluated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most so many items.
    Count(usize),
    /// A share of the items, rounded up.
    Share(f64),
}

/// A task of a run with its data.
#[derive(Debug)]
pub struct TaskItems {
    /// The task.
    pub chosen: Chosen,
    /// The evaluated items, the first ones of the split.
    pub items: Vec<Item>,
    /// Items of the whole split.
    pub num_original: usize,
    /// The files that were read.
    pub files: Vec<DataFile>,
}

/// An item with its prompts.
#[derive(Debug)]
pub struct Item {
    /// The item.
    pub doc: Doc,
    /// The prompts: one, or one for each context.
    pub prompts: Vec<String>,
    /// The continuations: one for each choice, or one after each prompt.
    pub continuations: Vec<String>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl Limit {
    fn of(self, count: usize) -> usize {
        match self {
            Self::Count(limit) => limit.min(count),
            Self::Share(share) => ((count as f64 * share).ceil() as usize).min(count),
        }
    }
}

impl TaskItems {
    /// Reads the data of a task and writes the prompts.
    ///
    /// # Errors
    /// Those of [`SplitRows::read`]; [`EvalError::BadItem`], [`EvalError::TooFewExamples`], [`EvalError::Chat`].
    pub fn read(
        place: &DataPlace<'_>,
        chosen: Chosen,
        limit: Option<Limit>,
        style: &PromptStyle<'_>,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let task = &chosen.task;
        let (mut files, mut pool) = (Vec::new(), Vec::new());
        if let Some(split) = chosen.examples_split() {
            (pool, _) = docs(place, &chosen, split, None, &mut files)?;
        }
        let (docs, num_original) = docs(place, &chosen, task.split, limit, &mut files)?;
        let mut sampler = FewShotSampler::new(&chosen, &pool, seed)?;
        let mut items = Vec::with_capacity(docs.len());
        for (index, doc) in docs.into_iter().enumerate() {
            let prompts = style.prompts(&task.description, &sampler.draw(&doc)?, &doc);
            let prompts = prompts.map_err(|source| EvalError::Chat { task: task.name.clone(), index, source })?;
            let delimiter = style.target_delimiter();
            let continuations = match &doc.question {
                Question::Choices { choices, .. } => {
                    choices.iter().map(|choice| format!("{delimiter}{choice}")).collect()
                }
                Question::Contexts { continuation, .. } => vec![format!("{delimiter}{continuation}")],
                Question::Open { .. } => Vec::new(),
            };
            items.push(Item { doc, prompts, continuations });
        }
        Ok(Self { chosen, items, num_original, files })
    }
}

/// The items of a split, and how many it has in all.
fn docs(
    place: &DataPlace<'_>,
    chosen: &Chosen,
    split: Split,
    limit: Option<Limit>,
    files: &mut Vec<DataFile>,
) -> Result<(Vec<Doc>, usize), EvalError> {
    let task = &chosen.task;
    let SplitRows { rows, files: read, path } = SplitRows::read(place, &task.data_set, split, &task.name)?;
    files.extend(read);
    let num_rows = rows.len();
    let count = limit.map_or(num_rows, |limit| limit.of(num_rows));
    let doc = |(index, fields)| {
        let bad = |fault| EvalError::BadItem { path: path.clone(), index, task: task.name.clone(), fault };
        task.doc(fields).map_err(bad)
    };
    let docs = rows.into_iter().take(count).enumerate().map(doc).collect::<Result<_, _>>()?;
    Ok((docs, num_rows))
}

impl Item {
    /// Its requests for log-likelihoods, in the order of its choices.
    pub fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.prompts
            .iter()
            .flat_map(|context| self.continuations.iter().map(move |continuation| Request { context, continuation }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_count_or_a_share_rounded_up() {
        assert_eq!([Limit::Count(5), Limit::Count(50), Limit::Share(0.25)].map(|limit| limit.of(9)), [5, 9, 3]);
    }
}
