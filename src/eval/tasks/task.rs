//! A benchmark: its data, its prompts, its metrics.

use serde_json::{Map, Value};

use super::doc::{Doc, Question};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;

/// A benchmark as lm-eval 0.4.13 defines it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name: `arc_challenge`.
    pub name: String,
    /// Its name in tables.
    pub alias: String,
    /// The version of its definition.
    pub version: f64,
    /// Its data.
    pub data_set: DataSet,
    /// The split that is evaluated.
    pub split: Split,
    /// The examples in its prompts.
    pub few_shots: FewShots,
    /// Text at the start of each prompt.
    pub description: String,
    /// The metrics, in the order of lm-eval.
    pub metrics: &'static [Metric],
    /// How answers are read, each with metrics of its own.
    pub filters: &'static [Filter],
    /// How open questions are answered; `None` if there are choices.
    pub generation: Option<Generation>,
    /// Makes a question of the fields of a row; it may add fields.
    pub question: fn(&mut Map<String, Value>, &DataSet) -> Result<Question, ItemFault>,
}

/// How an open question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Texts that end an answer.
    pub until: &'static [&'static str],
    /// Tokens of an answer at most.
    pub max_tokens: usize,
}

/// The examples in the prompts of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FewShots {
    /// The split that they are from.
    pub split: Split,
    /// How many, unless a run says otherwise.
    pub default: usize,
    /// Whether a run cannot change that.
    pub is_fixed: bool,
    /// How they are chosen.
    pub sampler: Sampler,
}

/// How the examples of a prompt are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Anew for each item, at random.
    Random {
        /// Whether one more is drawn and the item itself left out. lm-eval does so if a task names neither the split of its
        /// examples nor a test split.
        leaves_out_item: bool,
    },
    /// The first ones of the split.
    First,
}

/// A measure of one item; a task reports the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Whether the most likely choice is right, or the share of probability on the true choices.
    Acc,
    /// The same by log-likelihood per character.
    AccNorm,
    /// Whether the extracted answer is the reference.
    ExactMatch,
}

impl Metric {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::ExactMatch => "exact_match",
        }
    }
}

/// How the answer is read off what a model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// As it is.
    None,
    /// The first number behind `####`.
    StrictMatch,
    /// The last number.
    FlexibleExtract,
}

impl Filter {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::StrictMatch => "strict-match",
            Self::FlexibleExtract => "flexible-extract",
        }
    }
}

impl Task {
    /// The item of a row.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn doc(&self, mut fields: Map<String, Value>) -> Result<Doc, ItemFault> {
        let question = (self.question)(&mut fields, &self.data_set)?;
        Ok(Doc { fields, question })
    }

    /// The number of examples in a prompt when a run asks for some number.
    pub fn num_fewshot(&self, asked: Option<usize>) -> usize {
        asked.filter(|_| !self.few_shots.is_fixed).unwrap_or(self.few_shots.default)
    }
}
