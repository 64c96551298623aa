//! The benchmarks, one file each, and the names under which they are chosen.

mod arc_challenge;
mod doc;
mod gsm8k;
mod hellaswag;
mod mmlu;
mod selection;
mod task;
mod truthfulqa_mc2;
mod winogrande;

pub use doc::{Doc, Key, Question};
pub(super) use mmlu::is_mmlu_subject;
pub(super) use selection::leaderboard_shots;
pub use selection::{Chosen, Group, Selection, task_names};
pub use task::{FewShots, Filter, Generation, Metric, Sampler, Task};
