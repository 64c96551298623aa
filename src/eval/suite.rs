//! The tasks of a run, from data to scores.

use rayon::prelude::*;

use super::answer_log::AnswerLog;
use super::dataset::DataPlace;
use super::error::EvalError;
use super::generation::{GenerationDefaults, OpenPrompt};
use super::items::{Item, Limit, TaskItems};
use super::prompt::PromptStyle;
use super::response::Response;
use super::results::TaskScores;
use super::scoring::{Answer, Encoded, Encoder, Plan};
use super::tasks::{Group, Selection, Task};

/// The tasks of a run with their data and prompts.
#[derive(Debug)]
pub struct Suite {
    /// The tasks.
    pub tasks: Vec<TaskItems>,
    /// Their groups.
    pub groups: Vec<Group>,
}

/// The requests of a suite.
#[derive(Debug)]
pub struct SuitePlan {
    /// All requests: task by task, item by item, choice by choice.
    pub plan: Plan,
    /// The prompts of open questions: task by task, item by item.
    pub open: Vec<OpenPrompt>,
    /// Of each task, requests and prompts that lost tokens at their start to fit the context length.
    pub num_cut: Vec<usize>,
}

impl SuitePlan {
    /// A name of the requests and prompts: the same only for the same ones and the same way to answer them.
    pub fn key(&self) -> String {
        let mut hash = blake3::Hasher::new();
        self.plan.requests().iter().for_each(|request| _ = hash.update(request.key().as_bytes()));
        self.open.iter().for_each(|prompt| _ = hash.update(prompt.key().as_bytes()));
        hash.finalize().to_hex()[..32].to_owned()
    }

    /// Distinct requests, and prompts of open questions.
    pub fn num_distinct(&self) -> usize {
        self.plan.requests().len() + self.open.len()
    }

    /// Those of [`num_distinct`](Self::num_distinct) that a log answers.
    pub fn num_answered(&self, log: &AnswerLog) -> usize {
        let requests = self.plan.requests().iter().filter(|request| log.answer(&request.key()).is_some());
        let prompts = self.open.iter().filter(|prompt| log.text(prompt.key()).is_some());
        requests.count() + prompts.count()
    }
}

impl Suite {
    /// Reads the data of a selection, each data set of the hub from one commit, and writes the prompts, with examples drawn by
    /// `seed`.
    ///
    /// # Errors
    /// Those of [`DataPlace::gather`] and of [`TaskItems::read`].
    pub fn read(
        place: &DataPlace<'_>,
        selection: Selection,
        limit: Option<Limit>,
        style: &PromptStyle<'_>,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let Selection { tasks, groups } = selection;
        let needed = tasks.iter().flat_map(|chosen| {
            let Task { name, data_set, .. } = &chosen.task;
            chosen.splits().map(move |split| (name.as_str(), data_set, split))
        });
        place.gather(needed)?;
        let read = |chosen| TaskItems::read(place, chosen, limit, style, seed);
        Ok(Self { tasks: tasks.into_iter().map(read).collect::<Result<_, _>>()?, groups })
    }

    /// Items of all tasks.
    pub fn num_items(&self) -> usize {
        self.tasks.iter().map(|task| task.items.len()).sum()
    }

    /// Whether prompts have a text of the system.
    pub fn has_system_text(&self, style: &PromptStyle<'_>) -> bool {
        let has_description = |task: &TaskItems| !task.chosen.task.description.is_empty();
        style.system_instruction.is_some_and(|text| !text.is_empty()) || self.tasks.iter().any(has_description)
    }

    /// Encodes all requests and prompts, on all cores, and arranges them. Open questions are answered by the settings of `defaults`.
    /// `watch` is called after each item.
    ///
    /// # Errors
    /// Those of [`Encoder::requests`] and of [`OpenPrompt::new`].
    pub fn plan(
        &self,
        encoder: &Encoder<'_>,
        defaults: &GenerationDefaults,
        watch: &(dyn Fn() + Sync),
    ) -> Result<SuitePlan, EvalError> {
        let (mut requests, mut open, mut num_cut) = (Vec::new(), Vec::new(), Vec::new());
        for task in &self.tasks {
            if let Some(generation) = &task.chosen.task.generation {
                let of_item = |item: &Item| {
                    let prompt = OpenPrompt::new(encoder, item, generation, defaults);
                    watch();
                    prompt
                };
                let prompts: Vec<OpenPrompt> = task.items.par_iter().map(of_item).collect::<Result<_, _>>()?;
                num_cut.push(prompts.iter().filter(|prompt| prompt.num_cut > 0).count());
                open.extend(prompts);
                continue;
            }
            let of_item = |item: &Item| -> Result<Vec<Encoded>, EvalError> {
                let of_prompt = |context: &String| encoder.requests(context, &item.continuations);
                let encoded: Vec<Vec<Encoded>> = item.prompts.iter().map(of_prompt).collect::<Result<_, _>>()?;
                watch();
                Ok(encoded.into_iter().flatten().collect())
            };
            let encoded: Vec<Vec<Encoded>> = task.items.par_iter().map(of_item).collect::<Result<_, _>>()?;
            num_cut.push(encoded.iter().flatten().filter(|encoded| encoded.num_cut > 0).count());
            requests.extend(encoded.into_iter().flatten().map(|encoded| encoded.request));
        }
        Ok(SuitePlan { plan: Plan::new(requests), open, num_cut })
    }

    /// The scores of each task, from the answers to the distinct requests of the plan and the texts for the open questions.
    ///
    /// # Panics
    /// If there is not a text for each open question.
    pub fn scores(&self, plan: &Plan, answers: &[Answer], texts: Vec<String>) -> Vec<TaskScores<'_>> {
        let mut answers = plan.places().iter().map(|place| answers[*place]);
        let mut texts = texts.into_iter();
        let mut response = |task: &TaskItems, item: &Item| match task.chosen.task.generation {
            Some(_) => Response::Text(texts.next().expect("a text for each open question")),
            None => Response::Answers(answers.by_ref().take(item.requests().count()).collect()),
        };
        let mut responses = |task: &TaskItems| task.items.iter().map(|item| response(task, item)).collect();
        self.tasks.iter().map(|task| TaskScores::new(task, responses(task))).collect()
    }
}
