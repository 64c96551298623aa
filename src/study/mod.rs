//! A study: arms grown from one base, trained on the same windows in the same order at matched training FLOPs, and
//! measured alike.
//!
//! [`Comparison`] is the main job: it reads and checks what a [`Request`] names, runs the study in a [`StudyFolder`] and
//! writes its results there. Below it, [`StudyPlan`] is made from configs alone, and [`run`](fn@run) executes it unit by
//! unit, an arm with a seed, each recorded in [`Units`] as it finishes, so that an interrupted study goes on; then it times
//! all arms in turns.

mod comparison;
mod data;
mod defaults;
mod error;
mod figures;
mod folder;
mod measure;
mod plan;
mod profiling;
mod recipe;
mod run;
mod unit;

pub use comparison::{Comparison, Request};
pub use data::StudyData;
pub use defaults::{Defaults, LARGE_BASE, NUM_EXPERTS_PER_TOK, NUM_LOCAL_EXPERTS};
pub use error::StudyError;
pub use figures::redraw;
pub use folder::StudyFolder;
pub use plan::{ArmSpec, Budget, PlanOptions, StudyPlan};
pub use profiling::{ProfilePlan, write_profile};
pub use recipe::PretrainingRecipe;
pub use run::{Outcome, Progress, RunOptions, run};
pub use unit::{UnitId, UnitRecord, Units};
