//! Evaluation: the loss on held-out text, the load of experts, the divergence of logits from those of the base, and the
//! benchmarks of lm-evaluation-harness with its prompts, scores and results.

mod answer_log;
mod batch;
mod comparison;
mod dataset;
mod distribution;
mod error;
mod expert_load;
mod extraction;
mod few_shot;
mod generation;
mod items;
mod perplexity;
mod preservation;
mod prompt;
mod response;
mod results;
mod run;
mod score;
mod scoring;
mod states;
mod statistics;
mod suite;
mod tasks;
mod text_perplexity;

pub use answer_log::AnswerLog;
pub use comparison::{
    Comparison, Interval, ItemScores, McNemar, SampleFault, SamplesError, bootstrap, compare, num_other_prompts,
    read_samples,
};
pub use dataset::{DataFile, DataPlace, DataSet, Split, SplitRows};
pub use error::{EvalError, ItemFault};
pub use expert_load::expert_load;
pub use extraction::{exact_match, extracted};
pub use few_shot::FewShotSampler;
pub use generation::{GenerationDefaults, OpenPrompt, generate_all};
pub use items::{Item, Limit, TaskItems};
pub use perplexity::mean_loss_nats;
pub use preservation::{LogitDivergence, logit_divergence, logits, rounding_tolerance};
pub use prompt::{Chat, PromptStyle};
pub use response::Response;
pub use results::{
    Column, LM_EVAL_VERSION, RunMetadata, Sample, Seeds, TaskScores, leaderboard_mean, results, sanitized, table,
    task_hash,
};
pub use run::{Cost, RunProgress, answer_all};
pub use score::scores;
pub use scoring::{Answer, Encoded, EncodedRequest, Encoder, Limits, PASSES_VERSION, Plan, Progress, Request, Scorer};
pub use statistics::Estimate;
pub use suite::{Suite, SuitePlan};
pub use tasks::{
    Chosen, Doc, FewShots, Filter, Generation, Group, Key, Metric, Question, Sampler, Selection, Task, task_names,
};
pub use text_perplexity::{Convention, Divergence, Perplexity, Window, divergence, perplexity, text_windows};
