//! Results in the schema of lm-eval 0.4.13, so that programs that read its files read these.

mod metadata;
mod record;
mod sample;
mod table;
mod task_scores;

pub use metadata::{RunMetadata, Seeds, sanitized};
pub use record::{LM_EVAL_VERSION, leaderboard_mean, results};
pub use sample::{Sample, task_hash};
pub use table::{Column, table};
pub use task_scores::TaskScores;
